"""report.html: needs nothing from anywhere else, works in a real browser, shows names as names."""

import csv
import json
import re
from html.parser import HTMLParser

import browser
import pytest
import sample_report

from eval import report
from eval.surroundings import Surroundings
from pipeline.hierarchy import Hierarchy

_LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}
_SAFE = ("data:", "#")


class Page(HTMLParser):
    """Collects what the page would load, its elements, and its text."""

    def __init__(self, html):
        super().__init__()
        self.loaded, self.tags, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in _LOADING]

    def handle_data(self, data):
        self.text.append(data)


def hierarchy_of(num_classes):
    """`thing` above classes 0 to 2; each of those above every third of the others."""
    lines = [f"class-{n},thing" for n in range(3)]
    lines += [f"class-{n},class-{n % 3}" for n in range(3, num_classes)]
    return Hierarchy.parse("\n".join(["child,parent", *lines]).encode(), "hierarchy.csv")


def write_page(folder, num_classes=60, compared=True):
    results = sample_report.write(folder / "run/eval/fasteval", num_classes)
    losses = [
        {"step": step, "samples": 32 * step, "train/loss": 5.0 / step} for step in (5, 1500, 2900)
    ]
    lines = "".join(json.dumps(line) + "\n" for line in losses)
    (folder / "run/metrics.jsonl").write_text(lines)
    other = sample_report.write(folder / "other", num_classes, shift=-0.03) if compared else None
    surroundings = Surroundings(folder / "run", hierarchy_of(num_classes), other)
    report.write_page(results, surroundings)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"))


def test_nothing_is_loaded_from_elsewhere(results):
    html = results.page_path.read_text()
    page = Page(html)
    assert page.loaded
    assert all(value.startswith(_SAFE) for value in page.loaded)
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_the_page_holds_the_headline_with_interval_definition_and_weights(results):
    text = " ".join(" ".join(Page(results.page_path.read_text()).text).split())
    for words in (
        "0.4312",
        "95% interval 0.4251 to 0.4373",
        "The definition of map_at_100.",
        "datasets/weights.tsv, sha256 abababababab",
        "over 59 of 60 classes; 1 without a positive",
        "+0.0300",  # against the other run
        "95% interval +0.02",
    ):
        assert words in text


def test_the_same_results_make_the_same_page(results):
    run_dir = results.folder.parents[1]
    surroundings = Surroundings(run_dir, hierarchy_of(60))
    assert report.render(results, surroundings) == report.render(results, surroundings)


def test_parts_that_an_evaluation_does_not_have_are_left_out(tmp_path):
    results = sample_report.write(tmp_path, steps=(1000,))
    shown = results.report() | {"calibration": None, "curves": {}, "source": "predictions"}
    shown["classes"]["training_count"] = [None] * 60
    for name in ("prior_map_at_100", "prior_map_at_100_unweighted"):
        del shown["metrics"][name]
    (tmp_path / "report.json").write_text(json.dumps(shown))
    examples = {"step": 1000, **{name: [] for name in sample_report.GROUPS}}
    (tmp_path / "examples.json").write_text(json.dumps(examples))
    page = Page(report.render(results, Surroundings()))
    assert {"#metrics", "#table"} <= set(page.loaded)
    without = {"#profile", "#frequency", "#subtrees", "#curves", "#calibration", "#examples"}
    assert not without & set(page.loaded)
    assert "prior only" not in " ".join(page.text)


def test_the_csv_holds_the_table_of_the_report(results):
    with open(results.folder / "classes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = results.report()["classes"]
    assert [row["class"] for row in rows] == columns["class"]
    assert float(rows[7]["average_precision"]) == columns["average_precision"][7]
    assert rows[-1]["name"] == sample_report.NASTY
    assert rows[-1]["average_precision"] == ""


# --- in a browser


def rows(chromium):
    """The cells of the rows of the table that are drawn, as lists of text."""
    return chromium.execute_script(
        "return [...document.querySelectorAll('#classes tbody tr:not(.space)')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )


def names(chromium):
    return [row[0].split("\n")[0] for row in rows(chromium)]


def sort_by(chromium, title):
    for button in chromium.find_elements("css selector", "#classes th button"):
        if button.text.split(" ▲")[0].split(" ▼")[0] == title:
            button.click()
            return
    raise AssertionError(f"no column {title}")


def element(chromium, selector):
    return chromium.find_element("css selector", selector)


@pytest.fixture
def opened(chromium, results):
    browser.load(chromium, results.page_path)
    yield chromium
    assert chromium.get_log("browser") == []  # no error, no warning


def test_a_browser_opens_it_without_an_error_and_asks_for_nothing_else(opened, results):
    assert opened.title == "MAP@100 0.4312 · fasteval · step 3000"
    assert element(opened, "#headline").text == "0.4312"
    assert browser.requested(opened) <= {results.page_path.as_uri()}
    broken = "return [...document.images].filter(image => image.naturalWidth === 0).length"
    assert opened.execute_script("return document.images.length") == 20
    assert opened.execute_script(broken) == 0


def test_a_click_on_a_column_sorts_the_rows_and_another_turns_them_round(opened, results):
    columns = results.report()["classes"]
    known = {
        name: value
        for name, value in zip(columns["name"], columns["average_precision"], strict=True)
        if value is not None
    }
    best_first = sorted(known, key=known.get, reverse=True)
    assert names(opened)[:3] == ["Name 0", "Name 1", "Name 2"]  # by training images
    sort_by(opened, "AP")
    assert names(opened)[:10] == best_first[:10]
    sort_by(opened, "AP")
    assert names(opened)[:10] == best_first[::-1][:10]
    sort_by(opened, "class")
    assert names(opened)[:2] == [sample_report.NASTY, "Name 0"]
    assert element(opened, "#classes th").get_attribute("aria-sort") == "ascending"


def test_what_has_no_value_comes_last_in_either_order(opened):
    for _ in range(2):
        sort_by(opened, "AP")
        opened.execute_script("document.querySelector('.window').scrollTop = 1e9")
        opened.execute_script("draw()")
        assert names(opened)[-1] == sample_report.NASTY
        assert rows(opened)[-1][4] == "\N{EN DASH}"


def test_filters_by_name_key_and_frequency_leave_those_rows(opened):
    box = element(opened, "#filter")
    box.send_keys("name 17")
    assert names(opened) == ["Name 17"]
    box.clear()
    box.send_keys("CLASS-5")
    assert set(names(opened)) == {"Name 5", *(f"Name {n}" for n in range(50, 59)),
                                  sample_report.NASTY}  # fmt: skip
    assert element(opened, "#shown").text == "11 of 60 classes"
    element(opened, "#group option:last-child").click()  # the tail: the last third with positives
    assert set(names(opened)) == {f"Name {n}" for n in range(50, 59)}
    box.clear()
    box.send_keys("nothing is called so")
    assert rows(opened) == []


def test_a_class_name_cannot_become_part_of_the_page(opened):
    element(opened, "#filter").send_keys("<script>")
    assert names(opened) == [sample_report.NASTY]
    scripts = (
        "return [...document.scripts].filter(script => script.text.startsWith('alert')).length"
    )
    assert opened.execute_script(scripts) == 0
    with pytest.raises(Exception, match="no such alert"):
        _ = opened.switch_to.alert


def test_a_branch_opens_and_its_classes_fill_the_table(opened, results):
    def visible():
        lines = opened.find_elements("css selector", "#tree .line")
        return [line.text.split("\n") for line in lines if line.is_displayed()]

    ap = results.report()["classes"]["average_precision"]
    mean = sum(ap[:59]) / 59
    assert visible()[0] == ["thing", "60 classes", f"{mean:.3f}"]
    assert [line[0] for line in visible()[1:]] == ["Name 0", "Name 1", "Name 2"]
    inside = ap[2:59:3]  # class 2 and those below it; the last class has no positive
    assert visible()[3][1:] == ["20 classes", f"{sum(inside) / len(inside):.3f}"]
    opened.find_elements("css selector", "#tree li li summary .name")[2].click()
    assert len(visible()) == 4 + 19
    assert visible()[4] == ["Name 11", f"{ap[11]:.3f}"]  # a leaf
    opened.find_elements("css selector", "#tree li li summary button")[2].click()
    assert element(opened, "#shown").text == "20 of 60 classes"
    element(opened, "#clear-subtree").click()
    assert element(opened, "#shown").text == "60 of 60 classes"
    element(opened, "#tree summary .name").click()
    assert len(visible()) == 1


def test_every_chosen_class_has_a_curve_with_its_precision_above(opened, results):
    report = results.report()
    headings = [found.text for found in opened.find_elements("css selector", ".curves h3")]
    assert headings == [f"Name {n}" for n in range(6)]
    lines = [found.text for found in opened.find_elements("css selector", ".curves p")]
    ap = report["classes"]["average_precision"]
    assert [line.split(",")[0] for line in lines] == [f"AP {ap[n]:.3f}" for n in range(6)]
    figures = opened.find_elements("css selector", ".curves svg")
    assert len(figures) == 6
    assert all(figure.is_displayed() and figure.size["height"] > 50 for figure in figures)


def test_the_difference_to_the_other_run_stands_in_the_table(opened, results):
    other = json.loads((results.folder.parents[2] / "other/report.json").read_text())
    ours = results.report()["classes"]["average_precision"]
    theirs = other["classes"]["average_precision"]
    element(opened, "#filter").send_keys("Name 30")
    assert rows(opened)[0][-1] == f"{ours[30] - theirs[30]:+.3f}"


def test_the_profile_is_shown_against_steps_or_images(opened):
    steps, images = ".against-steps", ".against-images"
    assert (element(opened, steps).is_displayed(), element(opened, images).is_displayed()) == (1, 0)
    assert "training steps" in element(opened, steps).text
    element(opened, "[for=against-images]").click()
    assert (element(opened, steps).is_displayed(), element(opened, images).is_displayed()) == (0, 1)
    assert "training images" in element(opened, images).text


def test_a_click_opens_the_definitions_of_metrics_and_columns(opened):
    summaries = opened.find_elements("css selector", "details > summary")
    for title, words in (
        ("How each is defined", "The definition of gap_at_20."),
        ("What the columns say", "recall@100"),
    ):
        (summary,) = [found for found in summaries if found.text == title]
        details = summary.find_element("xpath", "..")
        assert words not in details.text
        summary.click()
        assert words in details.text


@pytest.mark.parametrize("width", [1200, 390])
def test_no_part_is_wider_than_the_screen(chromium, results, width):
    with browser.screen(chromium, width):
        browser.load(chromium, results.page_path)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


def test_17000_classes_are_sorted_and_scrolled_with_few_rows_in_the_page(chromium, tmp_path):
    results = write_page(tmp_path, num_classes=17_000, compared=False)
    browser.load(chromium, results.page_path)
    sort_by(chromium, "class")
    assert len(rows(chromium)) < 100
    chromium.execute_script(
        "const pane = document.querySelector('.window');"
        "pane.scrollTop = 10000 * document.querySelector('#classes tbody tr:nth-child(2)')"
        ".getBoundingClientRect().height; draw()"
    )
    # The script's name comes first, then Name 0, Name 1, … in numeric order.
    assert "Name 9999" in names(chromium)
    assert len(rows(chromium)) < 100
    element(chromium, "#filter").send_keys("name 16998")
    assert names(chromium) == ["Name 16998"]
    assert chromium.get_log("browser") == []
