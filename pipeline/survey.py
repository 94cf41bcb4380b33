"""Reads all rows once before a run that cannot be planned without it, and counts.

That is where the class list is built from the labels, where the splits are in a column, and where
images are drawn for evaluation. What comes out is small: images by split, images by class, and the
split hashes of the drawn images. It is kept beside the commits, so that a run that goes on does not
survey again.

    rows ── by id ── counted ── summed ── OUT/commits/survey-<fingerprint>.json
"""

import collections
import dataclasses
import heapq
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipeline import storage
from pipeline.annotations import LabelRules
from pipeline.merging import Chooser, Image, merged, unpacked
from pipeline.options import OptionsError
from pipeline.recipe import Selection, is_training
from pipeline.sharding import ShardError


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be found out."""

    rules: LabelRules  # without a class list, where that is to be built
    min_labels: int
    selections: tuple[tuple[str, Selection], ...]  # by split; empty where a column names them
    num_drawn: int  # images to draw


@dataclasses.dataclass
class Survey:
    """What was found; sums while it is being found."""

    num_images: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    # Images by label: of training splits, and of all others.
    training_counts: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    other_counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    # Of images that may be drawn, those with the lowest split hashes: (hash, split, labels).
    candidates: list[tuple[int, str, tuple[str, ...]]] = dataclasses.field(default_factory=list)
    num_bad_rows: int = 0
    bad_row: tuple[str, str] | None = None  # one of them: what is wrong with it, and its place

    @property
    def drawn_end(self) -> int:
        """The split hash that everything drawn is below; 0 where nothing is."""
        return max((split_hash for split_hash, _, _ in self.candidates), default=-1) + 1

    def label_counts(self) -> collections.Counter[str]:
        """Images by label: of what the draw leaves to training; of all, where none is training."""
        if not self.training_counts:
            return self.other_counts
        counts = self.training_counts.copy()
        for _, split, labels in self.candidates:
            if is_training(split):
                counts.subtract(labels)
        return +counts

    def images_left(self) -> collections.Counter[str]:
        """Images by split, after the draw."""
        counts = self.num_images.copy()
        counts.subtract(split for _, split, _ in self.candidates)
        return counts

    def to_json(self) -> str:
        return json.dumps(vars(self)) + "\n"

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Survey":
        candidates = [(key, split, tuple(labels)) for key, split, labels in fields["candidates"]]
        return cls(
            collections.Counter(fields["num_images"]),
            collections.Counter(fields["training_counts"]),
            collections.Counter(fields["other_counts"]),
            candidates,
            fields["num_bad_rows"],
            fields["bad_row"] and tuple(fields["bad_row"]),
        )


class CountImages(beam.DoFn):
    """(group, packs) to a Survey of the group."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def setup(self) -> None:
        question = self._question
        self._chooser = Chooser(Selection(), question.rules, question.min_labels)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Survey]:
        _, packs = element
        question = self._question
        bad_rows, images = merged(unpacked(packs))
        found = Survey(num_bad_rows=len(bad_rows))
        if bad_rows:
            found.bad_row = (bad_rows[0].detail, bad_rows[0].place)
        for image in images:
            split = self._split(image)
            has_labels = self._chooser.has_labels(image)
            found.num_images[split] += has_labels
            if not has_labels:
                continue
            labels = tuple(p.label for p in question.rules.resolve(image.annotations).positives)
            counts = found.training_counts if is_training(split) else found.other_counts
            counts.update(labels)
            if question.num_drawn and labels:
                found.candidates.append((image.split_hash, split, labels))
        found.candidates = heapq.nsmallest(question.num_drawn, found.candidates)
        yield found

    def _split(self, image: Image) -> str:
        """The split that an image falls into where it is not drawn; "" for none."""
        selections = self._question.selections
        if not selections:
            return image.split
        return next(
            (name for name, range_ in selections if range_.lowest <= image.split_hash < range_.end),
            "",
        )


class SumSurveys(beam.CombineFn):
    """Surveys of groups to that of all."""

    def __init__(self, num_drawn: int) -> None:
        self._num_drawn = num_drawn

    def create_accumulator(self) -> Survey:
        return Survey()

    def add_input(self, accumulator: Survey, found: Survey) -> Survey:
        accumulator.num_images.update(found.num_images)
        accumulator.training_counts.update(found.training_counts)
        accumulator.other_counts.update(found.other_counts)
        accumulator.num_bad_rows += found.num_bad_rows
        bad_rows = [row for row in (accumulator.bad_row, found.bad_row) if row]
        accumulator.bad_row = min(bad_rows, default=None)
        accumulator.candidates = heapq.nsmallest(
            self._num_drawn, accumulator.candidates + found.candidates
        )
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Survey]) -> Survey:
        total = self.create_accumulator()
        for accumulator in accumulators:
            total = self.add_input(total, accumulator)
        return total

    def extract_output(self, accumulator: Survey) -> Survey:
        return accumulator


class Keep(beam.DoFn):
    """Writes the survey."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, found: Survey) -> None:
        try:
            storage.write_text(self._path, found.to_json())
        except OSError as error:
            raise ShardError(f"cannot write {self._path}: {error}") from error


def build(grouped: beam.PCollection, question: Question, path: str) -> None:
    """Adds the survey of (group, packs) to a pipeline; the survey will stand at `path`."""
    _ = (
        grouped
        | "CountImages" >> beam.ParDo(CountImages(question))
        | "SumSurveys" >> beam.CombineGlobally(SumSurveys(question.num_drawn))
        | "KeepSurvey" >> beam.ParDo(Keep(path))
    )


def read(path: str) -> Survey | None:
    """The survey that stands at `path`; None where there is none that can be read."""
    try:
        found = storage.read_json(path)
        return Survey.from_dict(found) if found else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def check_drawn(found: Survey, num_drawn: int) -> None:
    """Raises OptionsError where there were not images enough to draw."""
    if len(found.candidates) < num_drawn:
        raise OptionsError(
            f"--fasteval={num_drawn}: only {len(found.candidates):,} of "
            f"{found.num_images.total():,} images have a positive label that counts"
        )
