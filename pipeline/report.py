"""Writes report.html about a dataset folder: one file that needs nothing else to be read.

    python -m pipeline.report dataset

Everything on the page comes from what stands in the folder: the numbers of each split that came to
its end (complete or not), the class list and counts, the first dead letters and images.
"""

import argparse
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import labels, metadata, page, samples, storage
from pipeline.dead_letter import BAD_ROW

PAGE_FILE = "report.html"
NOT_INSTALLED = "needs matplotlib and jinja2: pip install '.[report]'"
_SUMMARIES = ("commits", "*", "summary.json")  # of splits that came to their end, complete or not
_TEMPLATES_DIR = Path(__file__).parent / "templates"
_NUM_SAMPLES = 24  # images of a split; all splits together show four times as many at most
_SAMPLE_LABELS = 12  # named below an image
_TABLE_ROWS = 15  # of the most, and of the least frequent classes
_EMPTY_CLASSES = 100  # named
_UNKNOWN_LABELS = 10  # named
_RARE = 10  # examples; a class with fewer is rare
_SIDE_STEP = 16  # pixels; sizes are counted in such steps
_DIGITS = re.compile(r"[0-9]{1,9}")
_TEXT = 200  # characters of a name, a path or a detail


class ReportError(ValueError):
    """A folder that no page can be made of, or written into; says why."""


def write(output: str, split: str | None = None) -> str | None:
    """Writes report.html and gives its path; raises ReportError.

    It opens at `split`, else at one that is not complete, else at the largest.
    None where what draws the page is not installed: see NOT_INSTALLED.
    """
    try:
        html = render(output, split)
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "matplotlib"):
            raise
        return None
    path = storage.join(output, PAGE_FILE)
    try:
        storage.write_text(path, html, storage.join(output, "commits", split) if split else None)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error}") from error
    return path


def render(output: str, split: str | None = None) -> str:
    """The page about a dataset folder, as HTML; raises ReportError."""
    environment = page.environment(_TEMPLATES_DIR)
    environment.filters["short"] = _short
    try:
        vocabulary = metadata.load_vocabulary(output)
        found = _splits(output)
    except (metadata.MetadataError, OSError) as error:
        raise ReportError(str(error)) from error
    if not found:
        raise ReportError(f"{output} has no split that a beam_runner.py command brought to its end")
    num_samples = max(1, min(_NUM_SAMPLES, 4 * _NUM_SAMPLES // len(found)))
    html = environment.get_template("report.html").render(
        folder=os.path.basename(output.rstrip("/")),
        num_classes=len(vocabulary),
        splits=[
            _view(output, name, numbers, problem, vocabulary, num_samples)
            for name, (numbers, problem) in found.items()
        ],
        opened=split if split in found else max(found, key=lambda name: bool(found[name][1])),
        most_labels=_SAMPLE_LABELS,
    )
    return html.encode("utf-8", "replace").decode()  # what JSON escapes may be no character


def _splits(output: str) -> dict[str, tuple["_Numbers", str]]:
    """By name: the numbers of each split that came to its end, and why it must not be used.

    The largest comes first.
    """
    found = {}
    for path in storage.match(storage.join(output, *_SUMMARIES)):
        if (summary := storage.read_json(path)) is not None:
            numbers = _Numbers(summary)
            found[os.path.basename(os.path.dirname(path))] = (numbers, _why_incomplete(numbers))
    for name in metadata.completed_splits(output):
        try:
            found[name] = (_Numbers(metadata.load_completed(output, name)), "")
        except metadata.MetadataError as error:
            found[name] = (_Numbers({}), str(error))
    return dict(sorted(found.items(), key=lambda pair: (-pair[1][0]["num_examples"], pair[0])))


class _Numbers:
    """The numbers of a split, as far as its file has them."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    def number(self, key: str) -> float:
        value = self._found.get(key)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        return value if is_number else 0  # type: ignore[return-value]

    def __getitem__(self, key: str) -> int:
        return int(self.number(key))

    def text(self, key: str) -> str:
        value = self._found.get(key)
        return value if isinstance(value, str) else ""

    def fields(self, key: str) -> dict[str, Any]:
        value = self._found.get(key)
        return value if isinstance(value, dict) else {}

    def counts(self, key: str) -> dict[str, int]:
        """The most frequent first."""
        pairs = self.fields(key).items()
        counts = {name: count for name, count in pairs if isinstance(count, int) and count > 0}
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def histogram(self, key: str) -> dict[int, int]:
        pairs = self.counts(key).items()
        return {int(value): count for value, count in pairs if _DIGITS.fullmatch(value)}

    @property
    def shard_lengths(self) -> list[int]:
        value = self._found.get("shard_lengths")
        lengths = value if isinstance(value, list) else []
        return [length for length in lengths if isinstance(length, int)]


def _why_incomplete(numbers: _Numbers) -> str:
    if reason := numbers.text("problem"):
        return reason
    lost = [f"{count:,} {reason}" for reason, count in numbers.counts("dead_letters").items()]
    if not numbers["num_examples"]:
        return f"none of {numbers['num_rows']:,} rows gave an image: {', '.join(lost) or 'no row'}"
    if unknown := numbers["num_unknown_labels"]:
        lost.append(f"{unknown:,} of {unknown + numbers['num_known_labels']:,} labels unknown")
    limits = "--max_failure_rate and --max_unknown_rate"
    return f"more is lost than {limits} allow: {', '.join(lost)}"


def _view(
    output: str,
    name: str,
    numbers: _Numbers,
    problem: str,
    vocabulary: labels.Vocabulary,
    num_samples: int,
) -> dict[str, Any]:
    """What the page shows of a split."""
    lengths = numbers.shard_lengths
    examples = samples.dead_letters(output, name)
    return {
        "name": name,
        "problem": problem,
        "numbers": numbers,
        "labels_per_image": numbers.number("labels_per_image"),
        "negatives_per_image": numbers.number("negatives_per_image"),
        "size": _size(numbers["num_bytes"]),
        "shard_lengths": lengths,
        "road": _road(numbers),
        "classes": _classes(output, name, vocabulary),
        "labels_figure": _labels_figure(numbers),
        "sides": _sides(numbers),
        "dead_letters": [
            (reason, count, examples.get(reason, []))
            for reason, count in numbers.counts("dead_letters").items()
        ],
        "dead_letters_file": metadata.dead_letters_file(name),
        "unknown_labels": list(numbers.counts("unknown_labels").items())[:_UNKNOWN_LABELS],
        "samples": samples.thumbnails(output, name, len(lengths), vocabulary, num_samples),
        "fingerprint": numbers.text("fingerprint"),
        "recipe": dict(_flat(numbers.fields("recipe"))),
    }


def _classes(output: str, split: str, vocabulary: labels.Vocabulary) -> dict[str, Any] | None:
    """The long tail, its ends, and who is absent; None where there are no counts."""
    from pipeline import figures

    path = storage.join(output, metadata.class_counts_file(split))
    try:
        counts = labels.read_class_counts(path, vocabulary)
    except (labels.LabelError, OSError):
        return None
    names, keys = vocabulary.names, vocabulary.classes
    order = np.argsort(-counts, kind="stable")
    present, empty = order[counts[order] > 0], np.flatnonzero(counts == 0)
    rows = [(names[i], keys[i], int(counts[i])) for i in present]
    least = rows[_TABLE_ROWS:][-_TABLE_ROWS:]
    positive = counts[present].tolist()
    return {
        "num_present": len(present),
        "num_empty": len(empty),
        "empty": [names[i] for i in empty[:_EMPTY_CLASSES]],
        "tables": [("Most frequent", rows[:_TABLE_ROWS]), ("Least frequent", least[::-1])],
        "figure": figures.long_tail(positive) if positive else "",
        "half": figures.classes_of_half(positive) if positive else 0,
        "median": int(np.median(counts)),
        "num_rare": sum(count < _RARE for count in positive),
        "rare": _RARE,
    }


def _labels_figure(numbers: _Numbers) -> str:
    from pipeline import figures

    images_by_labels = numbers.histogram("labels_per_image_histogram")
    return figures.labels_per_image(images_by_labels) if images_by_labels else ""


def _sides(numbers: _Numbers) -> dict[str, Any] | None:
    """The sizes of the source images; None where they are not known."""
    from pipeline import figures

    sides = numbers.histogram("source_shorter_sides")
    if not sides:
        return None
    recipe = numbers.fields("recipe").get("images")
    recipe = recipe if isinstance(recipe, dict) else {}
    asked = recipe.get("crop") or recipe.get("shorter_side")
    target = asked if isinstance(asked, int) else None
    num_smaller = sum(n for side, n in sides.items() if target and side + _SIDE_STEP <= target)
    return {
        "figure": figures.shorter_sides(sides, target),
        "median": _median(sides),
        "target": target,
        "smaller": num_smaller / sum(sides.values()),
        "upscale": bool(recipe.get("upscale")),
    }


def _road(numbers: _Numbers) -> list[tuple[str, int, str]]:
    """(what became of them, how many, more words) of all images, and of rows that gave none.

    Rows of one image are counted once where a row is one of its labels, not all of them.
    """
    lost = numbers.counts("dead_letters")
    road = [
        ("in the shards", numbers["num_examples"], ""),
        ("merged by id", numbers["num_duplicates"], "another row has the same image id"),
        ("merged by content", numbers["num_content_duplicates"],
         "another image has the same content"),
        ("held out", numbers["num_held_out"], "the content stands in an evaluation split"),
        ("left out", numbers["num_left_out"], "fewer labels than --min_labels"),
        ("dead letters", sum(lost.values()), "lost, for the reasons below"),
    ]  # fmt: skip
    total = numbers["num_images"] + numbers["num_duplicates"] + lost.get(BAD_ROW, 0)
    missing = total - sum(count for _, count, _ in road)
    road.append(("unaccounted for", missing, "the numbers do not add up"))
    return [step for step in road if step[1] > 0]


def _size(num_bytes: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB" if num_bytes else ""


def _median(counts: Mapping[int, int]) -> int:
    values = sorted(counts)
    below = np.cumsum([counts[value] for value in values])
    return values[int(np.searchsorted(below, below[-1] / 2))]


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of everything that is set."""
    for key, value in recipe.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and value not in ("", [], False):
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _short(text: str, length: int = _TEXT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report",
        description="Writes report.html about a dataset folder, from what stands in it.",
        epilog="example: python -m pipeline.report dataset. exit codes: 0 written, 2 not possible",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="folder that beam_runner.py wrote")
    parser.add_argument(
        "--split", help="split to open the page at (one that is not complete, else the largest)"
    )
    args = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional packages when imported
    try:
        path = write(storage.without_file_scheme(args.dataset), args.split)
    except ReportError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if path is None:
        print(f"{parser.prog}: {NOT_INSTALLED}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
