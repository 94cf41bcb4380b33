"""report.html: needs nothing from anywhere else, and shows names as names."""

import json
import re
from html.parser import HTMLParser

import pytest
from tiny_run import STEPS

from eval import evaluate

_LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Page(HTMLParser):
    """Collects what the page would load, its scripts, and its text."""

    def __init__(self, html):
        super().__init__()
        self.loaded, self.tags, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in _LOADING]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def html(folder):
    for step in STEPS:
        arguments = [f"--workdir={folder / 'run'}", f"--data={folder / 'data'}"]
        assert evaluate.main([*arguments, f"--checkpoint={step}"]) == 0
    return (folder / "run/eval/eval/report.html").read_text()


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    assert page.loaded
    assert all(value.startswith(("data:", "#")) for value in page.loaded)
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_a_class_name_cannot_become_part_of_the_page(html):
    assert "<script>alert" not in html  # the name of class `blue`
    assert "&lt;script&gt;alert(1)" in html  # in the examples
    rows = re.search(r'id="rows">(.*?)</script>', html, re.DOTALL).group(1)
    assert [row[1] for row in json.loads(rows)] == ["Red", "Green", "<script>alert(1)", "No"]


def test_the_page_holds_the_headline_figures_classes_and_examples(folder, html):
    report = json.loads((folder / "run/eval/eval/report.json").read_text())
    page = Page(html)
    text = " ".join(page.text)
    for name in ("map_at_100", "prior_map_at_100", "image_map_at_100"):
        assert f"{report['metrics'][name]['value']:.4f}" in text
        assert report["metrics"][name]["definition"] in text
    assert page.tags.count("svg") == 2
    assert "training loss" in text
    assert page.tags.count("img") == 24  # three groups of eight


def test_the_same_results_make_the_same_page(folder, html):
    from eval.report import render
    from eval.results import Results

    assert render(Results(folder / "run/eval/eval"), folder / "run") == html


def test_a_run_without_training_metrics_still_gets_a_page(folder):
    (folder / "run/metrics.jsonl").unlink()
    assert evaluate.main([f"--workdir={folder / 'run'}", f"--data={folder / 'data'}"]) == 0
    html = (folder / "run/eval/eval/report.html").read_text()
    assert "training loss" not in html
