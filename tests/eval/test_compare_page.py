"""compare.html in a real browser: the numbers of compare.json, nothing else, names as names."""

import json

import browser
import pytest
import sample_report

from eval import compare


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page about three evaluations, the second better than the first, the third worse."""
    folder = tmp_path_factory.mktemp("compared")
    runs = []
    for name, shift in (("first", 0.0), ("better", 0.05), ("worse", -0.03)):
        sample_report.write(folder / name, shift=shift, steps=(1000,))
        runs.append(folder / name)
    # The class that gained most is called what must not become part of the page.
    for run, gain, name in ((runs[0], 0.0, sample_report.NASTY), (runs[1], 0.5, "Name 0")):
        report = json.loads((run / "report.json").read_text())
        report["classes"]["name"][0] = name
        report["classes"]["contribution"][0] += gain
        (run / "report.json").write_text(json.dumps(report))
    assert compare.main([*map(str, runs), f"--output={folder / 'page'}"]) == 0
    return folder / "page/compare.html"


@pytest.fixture
def opened(chromium, page):
    browser.load(chromium, page)
    yield chromium
    assert chromium.get_log("browser") == []  # no error, no warning


def tables(driver):
    """Of every table the text of its cells."""
    return driver.execute_script(
        "return [...document.querySelectorAll('table')].map(table =>"
        " [...table.rows].map(row => [...row.cells].map(cell => cell.innerText)))"
    )


def test_a_browser_opens_it_without_an_error_and_asks_for_nothing_else(opened, page):
    assert opened.title == "Comparison of evaluations"
    assert browser.requested(opened) == {page.as_uri()}


def test_every_run_has_a_line_and_every_other_run_a_verdict(opened, page):
    first, *_ = tables(opened)
    folder = page.parents[1]
    names = [f"{folder}/{name}" for name in ("first", "better", "worse")]
    assert [row[0] for row in first] == ["run", *names]
    assert first[2][1:] == ["0.4812", "0.4751 to 0.4873", "0.4712", "1,000"]  # 0.4312 + 0.05
    verdicts = [found.text for found in opened.find_elements("css selector", ".verdict")]
    assert len(verdicts) == 2
    assert f"{folder}/better is better than {folder}/first by 0.0500, 11.6% of it" in verdicts[0]
    assert f"{folder}/worse is worse than {folder}/first by 0.0300, 7.0% of it" in verdicts[1]


def test_differences_and_the_classes_that_moved_most_are_those_of_the_json(opened, page):
    compared = json.loads((page.parent / "compare.json").read_text())
    shown = tables(opened)[1:]
    for difference in compared["differences"]:
        found = difference["map_at_100"]
        low, high = found["interval"]
        assert shown.pop(0)[1] == [
            "MAP@100",
            f"{found['difference']:+.4f}",
            f"{100 * found['relative_improvement']:+.1f}%",
            f"{low:+.4f} to {high:+.4f}",
        ]
        for key in ("gained_most", "lost_most"):
            if difference[key]:
                cells = [row[:2] for row in shown.pop(0)[1:]]
                gains = difference[key]
                assert cells == [[gain["name"], f"{gain['contribution']:+.5f}"] for gain in gains]
    assert shown == []


def test_a_class_name_cannot_become_part_of_the_page(opened):
    gained_most = tables(opened)[2]
    assert gained_most[1][0] == sample_report.NASTY
    assert opened.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("width", [1200, 390])
def test_no_part_is_wider_than_the_screen(chromium, page, width):
    with browser.screen(chromium, width):
        browser.load(chromium, page)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
