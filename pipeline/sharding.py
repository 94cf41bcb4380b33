"""The writer of one shard.

A keyed hash of the image id gives the shard and the place in it: the concatenated shards are in one
global random order, the same for any order of the input rows, any runner, any number of workers.

A shard is written in two steps, each whole or not at all: its records, then its commit, a JSON file
that says what is in it and what it was made from. A shard without a commit does not exist.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from pipeline import metadata, schema, storage, tfrecord
from pipeline.annotations import HIERARCHY, LabelRules, Resolved
from pipeline.dead_letter import (
    BAD_ROW,
    DELIMITER,
    SEVERAL_SPLITS,
    TRANSIENT_REASONS,
    DeadLetter,
    dead_letter,
)
from pipeline.fetch import Fetcher, content_key
from pipeline.images import ImageError, prepare
from pipeline.merging import Chooser, Image, merged
from pipeline.recipe import Recipe, is_training
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources.manifest import format_labels

CODECS = ("simplejpeg", "opencv-python-headless", "pillow")  # distributions that decide bytes

NUM_UNKNOWN_LABELS = 100  # that a commit names: the most frequent
_NO_URI = ("not_found", "no row of the input says where the image is")
_SIDE_STEP = 16  # pixels; the histogram of sizes is this coarse


class ShardError(RuntimeError):
    """A shard that cannot be written; the same command, started again, goes on from here."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the writer of a shard knows of its run."""

    output: str
    images: str  # what relative URIs stand below
    allow_hosts: tuple[str, ...]
    files: tuple[str, ...]  # of the input, which places point into
    verifies_checksums: bool  # they are of the files that are read
    counts_duplicates: bool  # a second row of an id is one too many
    fingerprint: str  # of the run: inputs and recipe
    rules: LabelRules
    draw_rules: LabelRules  # what a drawn image needs a label of
    recipe: Recipe

    def where(self, place: str) -> str:
        """file:line of a row's place."""
        file, _, number = place.partition(":")
        return f"{self.files[int(file)]}:{number}"


class Duplicate(NamedTuple):
    """An image that was taken out, since another has the same content, or the same id."""

    image_id: str  # or the URI, where the id is that of the other
    duplicate_of: str  # id of the image that was kept with the labels of both, or ""
    split: str  # evaluation split that holds the content, or ""


class Content(NamedTuple):
    """What is known of the content of an image of an evaluation split."""

    image_id: str
    content_key: str  # see fetch.content_key
    sha256: str  # of the file, hex
    checksum: str  # as the source brings it, or ""


@dataclasses.dataclass(frozen=True)
class Commit:
    """What a shard's JSON file holds."""

    fingerprint: str  # of the run and of this shard's rows
    shard: int
    num_rows: int  # that came in, bad ones included
    num_bad_rows: int
    num_images: int  # by id, that fell into the split
    num_duplicates: int  # rows merged into another of the same id
    num_other_files: int  # that rows of an id name besides the one that is read
    num_left_out: int  # images with too few labels
    num_examples: int
    num_not_compared: int  # examples that could not be read when duplicates were looked for
    num_salvaged: int  # images whose missing end marker was put there
    num_conflicts: int  # labels that were said both ways
    num_bytes: int  # of the shard file
    sha256: str  # of the shard file
    num_known_labels: int  # of the positives that were said, lost images included
    num_unknown_labels: int  # and those outside the class list
    num_negatives: int  # in the shard
    num_passed_over: int  # annotations that do not count: see annotations
    class_counts: dict[int, int]  # examples by class id
    labels_per_image: dict[int, int]  # examples by number of positives
    shorter_sides: dict[int, int]  # examples by pixels of the file's shorter side, in steps of 16
    dead_letters: tuple[DeadLetter, ...]
    duplicates: tuple[Duplicate, ...]  # images that were taken out
    unknown_labels: dict[str, int]  # the most frequent, with their occurrences
    contents: tuple[Content, ...]  # of an evaluation split

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Commit":
        fields = json.loads(text)
        for name in ("class_counts", "labels_per_image", "shorter_sides"):
            fields[name] = {int(key): count for key, count in fields[name].items()}
        fields["dead_letters"] = tuple(DeadLetter(*letter) for letter in fields["dead_letters"])
        fields["duplicates"] = tuple(Duplicate(*found) for found in fields["duplicates"])
        fields["contents"] = tuple(Content(*content) for content in fields["contents"])
        return cls(**fields)


def codec_versions() -> tuple[tuple[str, str], ...]:
    """The installed versions of what decides bytes."""
    return tuple((name, importlib.metadata.version(name)) for name in CODECS)


def commits_folder(output: str, split: str) -> str:
    return storage.join(output, "commits", split)


def commit_path(output: str, split: str, shard: int, num_shards: int) -> str:
    name = f"{shard:05d}-of-{num_shards:05d}.json"
    return storage.join(commits_folder(output, split), name)


def shard_path(output: str, split: str, shard: int, num_shards: int) -> str:
    return storage.join(output, metadata.shard_file(split, shard, num_shards))


def commits_pattern(output: str, split: str, num_shards: int) -> str:
    """Glob pattern of the commits of a split of so many shards."""
    return storage.join(commits_folder(output, split), f"*-of-{num_shards:05d}.json")


def shards_pattern(output: str, split: str, num_shards: int | None = None) -> str:
    """Glob pattern of the shards of a split, of any number of them if None."""
    ending = "*" if num_shards is None else f"*-of-{num_shards:05d}"
    return storage.join(output, f"{metadata.DATASET_NAME}-{split}.tfrecord-{ending}")


def being_written(plan: Plan) -> list[str]:
    """File names of the shards that workers are writing, or were when they were killed."""
    recipe = plan.recipe
    pattern = storage.join(
        commits_folder(plan.output, recipe.split), f"*.tfrecord-*{storage.TEMPORARY_SUFFIX}"
    )
    return sorted({".".join(os.path.basename(p).split(".")[:2]) for p in storage.match(pattern)})


class _Rows(NamedTuple):
    """What a shard is made of."""

    kept: list[Image]  # in their order, with their labels
    bad: list[BadRow]
    num_rows: int  # that came in, bad ones included
    num_images: int  # by id
    num_duplicates: int  # rows merged into another of the same id
    num_left_out: int  # images with too few labels
    not_compared: frozenset[str]  # ids that could not be read when duplicates were looked for


class _Counts:
    """What is counted while a shard is written."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.contents: list[Content] = []
        self.held_out: list[Duplicate] = []
        self.class_counts: collections.Counter[int] = collections.Counter()
        self.labels_per_image: collections.Counter[int] = collections.Counter()
        self.shorter_sides: collections.Counter[int] = collections.Counter()
        self.unknown_labels: collections.Counter[str] = collections.Counter()
        self.num_examples = self.num_salvaged = self.num_conflicts = self.num_not_compared = 0
        self.num_known_labels = self.num_negatives = self.num_passed_over = self.num_bytes = 0
        self.digest = hashlib.sha256()

    def to_fields(self) -> dict[str, Any]:
        """Those fields of a Commit that come from here."""
        return {
            "num_examples": self.num_examples,
            "num_not_compared": self.num_not_compared,
            "num_salvaged": self.num_salvaged,
            "num_conflicts": self.num_conflicts,
            "num_bytes": self.num_bytes,
            "sha256": self.digest.hexdigest(),
            "num_known_labels": self.num_known_labels,
            "num_unknown_labels": self.unknown_labels.total(),
            "num_negatives": self.num_negatives,
            "num_passed_over": self.num_passed_over,
            "class_counts": dict(sorted(self.class_counts.items())),
            "labels_per_image": dict(sorted(self.labels_per_image.items())),
            "shorter_sides": dict(sorted(self.shorter_sides.items())),
            "dead_letters": tuple(self.letters),
            "unknown_labels": dict(self.unknown_labels.most_common(NUM_UNKNOWN_LABELS)),
            "contents": tuple(self.contents),
        }


class ShardWriter:
    """Writes one shard of a plan and its commit."""

    def __init__(
        self,
        plan: Plan,
        shard: int,
        fetcher: Fetcher,
        held_out_in: Callable[[bytes, str], str | None] = lambda data, checksum: None,
    ) -> None:
        """`held_out_in`: the evaluation split that holds such a file, or such a checksum."""
        recipe = plan.recipe
        self._plan = plan
        self._recipe = recipe
        self._shard = shard
        self._fetcher = fetcher
        self._held_out_in = held_out_in
        self._chooser = Chooser(recipe.selection, plan.draw_rules, recipe.min_labels)
        self._is_held_out = not is_training(recipe.split)
        self._shard_path = shard_path(plan.output, recipe.split, shard, recipe.num_shards)
        self._commit_path = commit_path(plan.output, recipe.split, shard, recipe.num_shards)

    def write(
        self,
        found: Iterable[ImageRow | BadRow],
        more: Iterable[ImageRow] = (),
        duplicates: Iterable[Duplicate] = (),
        not_compared: Iterable[str] = (),
    ) -> Commit:
        """The shard's commit; an earlier one with the same rows stands. Raises ShardError.

        Args:
            found: the rows of the shard.
            more: labels for images of the shard, from others of the same content.
            duplicates: images of the shard that are taken out.
            not_compared: ids of images that could not be read when duplicates were looked for.
        """
        taken_out = {duplicate.image_id: duplicate for duplicate in duplicates}
        rows = self._sort_out(found, more, taken_out, frozenset(not_compared))
        fingerprint = self._fingerprint(rows, taken_out)
        try:
            earlier = self._earlier_commit(fingerprint)
            if earlier is not None:
                return earlier
            counts = self._write(rows)
            commit = Commit(
                fingerprint=fingerprint,
                shard=self._shard,
                num_rows=rows.num_rows,
                num_bad_rows=len(rows.bad),
                num_images=rows.num_images,
                num_duplicates=rows.num_duplicates,
                num_other_files=sum(len(image.other_uris) for image in rows.kept),
                num_left_out=rows.num_left_out,
                duplicates=(
                    *sorted([*taken_out.values(), *counts.held_out]),
                    *(Duplicate(uri, i.image_id, "") for i in rows.kept for uri in i.other_uris),
                ),
                **counts.to_fields(),
            )
            storage.write_text(self._commit_path, commit.to_json())
        except OSError as error:
            raise ShardError(f"cannot write {self._shard_path}: {error}") from error
        return commit

    def _sort_out(
        self,
        found: Iterable[ImageRow | BadRow],
        more: Iterable[ImageRow],
        taken_out: Container[str],
        not_compared: frozenset[str],
    ) -> _Rows:
        """Merges the rows of an image, and finds the images that the shard is made of."""
        bad, images = merged(found)
        selection = self._recipe.selection
        if selection.is_drawn or not selection.takes_strays:
            bad = []  # nobody knows whether they would have been drawn, or were for this split
        images = [image for image in images if self._chooser.takes(image)]
        labelled = [image for image in images if self._chooser.has_labels(image)]
        num_rows = sum(image.num_rows for image in images)
        return _Rows(
            kept=_with_more([image for image in labelled if image.image_id not in taken_out], more),
            bad=bad,
            num_rows=num_rows + len(bad),
            num_images=len(images),
            num_duplicates=num_rows - len(images) if self._plan.counts_duplicates else 0,
            num_left_out=len(images) - len(labelled),
            not_compared=not_compared,
        )

    def _fingerprint(self, rows: _Rows, taken_out: dict[str, Duplicate]) -> str:
        digest = hashlib.sha256(self._plan.fingerprint.encode())
        for image in rows.kept:
            digest.update(json.dumps(image._replace(place="")).encode())
        for bad_row in rows.bad:
            digest.update(json.dumps(bad_row.text).encode())
        for found in (taken_out.values(), rows.not_compared):
            digest.update(json.dumps(sorted(found)).encode())
        return digest.hexdigest()

    def _earlier_commit(self, fingerprint: str) -> Commit | None:
        if not storage.exists(self._commit_path):
            return None
        commit = read_commit(self._commit_path)
        if commit is None or commit.fingerprint != fingerprint:
            return None
        if storage.size(self._shard_path) != commit.num_bytes:
            return None
        is_final = all(letter.reason not in TRANSIENT_REASONS for letter in commit.dead_letters)
        return commit if is_final else None

    def _write(self, rows: _Rows) -> _Counts:
        counts = _Counts()
        for row in rows.bad:
            where = self._plan.where(row.place)
            counts.letters.append(dead_letter(BAD_ROW, f"{row.detail}: {row.text}", where))
        verifies = self._plan.verifies_checksums
        fetched = self._fetcher.fetch_all(
            (image.uri, image.checksum if verifies else "") for image in rows.kept if image.uri
        )
        folder = commits_folder(self._plan.output, self._recipe.split)
        with storage.write_atomically(self._shard_path, folder) as stream:
            for image in rows.kept:
                data = next(fetched) if image.uri else ImageError(*_NO_URI)
                split = self._split_that_holds(data, image)
                if split is not None:
                    counts.held_out.append(Duplicate(image.image_id, "", split))
                    continue
                labels = self._plan.rules.resolve(image.annotations)
                counts.num_known_labels += sum(p.source != HIERARCHY for p in labels.positives)
                counts.unknown_labels.update(labels.unknown)
                counts.num_passed_over += labels.num_passed_over
                try:
                    record = self._record(image, data, labels, counts)
                except ImageError as error:
                    counts.letters.append(self._letter(image, error))
                    continue
                framed = tfrecord.frame(record)
                stream.write(framed)
                counts.digest.update(framed)
                counts.num_bytes += len(framed)
                counts.num_not_compared += image.image_id in rows.not_compared
        return counts

    def _split_that_holds(self, data: bytes | ImageError, image: Image) -> str | None:
        return None if isinstance(data, ImageError) else self._held_out_in(data, image.checksum)

    def _record(
        self, image: Image, data: bytes | ImageError, labels: Resolved, counts: _Counts
    ) -> bytes:
        """The image's example, serialized; raises ImageError."""
        if isinstance(data, ImageError):
            raise data
        if "," in image.split:
            raise ImageError(SEVERAL_SPLITS, f"its rows name {image.split}")
        try:
            prepared = prepare(data, self._recipe.images, image.rotation)
        except MemoryError as error:
            raise ImageError("unreadable", f"not enough memory to decode it: {error}") from error
        if self._is_held_out:
            sha256 = hashlib.sha256(data).hexdigest()
            content = Content(image.image_id, content_key(data), sha256, image.checksum)
            counts.contents.append(content)
        shorter_side = min(prepared.width, prepared.height)
        counts.num_examples += 1
        counts.num_salvaged += prepared.salvaged
        counts.num_conflicts += labels.num_conflicts
        counts.num_negatives += len(labels.negatives)
        counts.class_counts.update(positive.class_id for positive in labels.positives)
        counts.labels_per_image[len(labels.positives)] += 1
        counts.shorter_sides[shorter_side // _SIDE_STEP * _SIDE_STEP] += 1
        return schema.encode(_example(image.image_id, prepared.image, labels))

    def _letter(self, image: Image, error: ImageError) -> DeadLetter:
        return dead_letter(
            error.reason,
            error.detail,
            self._plan.where(image.place),
            image.uri,
            format_labels(image.annotations, DELIMITER),
            image.image_id,
            image.checksum if self._plan.verifies_checksums else "",
            image.rotation,
        )


def read_commit(path: str) -> Commit | None:
    """The commit in a file; None where it cannot be read, which makes its shard one to write."""
    return parse_commit(storage.read_bytes(path))


def parse_commit(data: bytes) -> Commit | None:
    """The commit that a file's bytes are; None where they are none."""
    try:
        return Commit.from_json(data.decode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _example(image_id: str, image: bytes, labels: Resolved) -> schema.Example:
    return schema.Example(
        image_id,
        image,
        labels=tuple(positive.class_id for positive in labels.positives),
        confidences=tuple(positive.confidence for positive in labels.positives),
        label_sources=tuple(positive.source for positive in labels.positives),
        negatives=tuple(negative.class_id for negative in labels.negatives),
        negative_sources=tuple(negative.source for negative in labels.negatives),
    )


def _with_more(images: list[Image], more: Iterable[ImageRow]) -> list[Image]:
    """The images, with what others of the same content say of them."""
    said: dict[str, set[Annotation]] = collections.defaultdict(set)
    for row in more:
        said[row.image_id].update(row.annotations)
    return [
        image._replace(annotations=tuple(sorted({*image.annotations, *said[image.image_id]})))
        if image.image_id in said
        else image
        for image in images
    ]
