"""Which shard an image belongs to, and the writer of one shard.

A keyed hash of the image id gives the shard and the place in it: the concatenated shards are in one
global random order, the same for any order of the input rows, any runner, any number of workers.

A shard is written in two steps, each whole or not at all: its records, then its commit, a JSON file
that says what is in it and what it was made from. A shard without a commit does not exist.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline import metadata, schema, storage, tfrecord
from pipeline.dead_letter import (
    BAD_ROW,
    TRANSIENT_REASONS,
    UNKNOWN_LABEL,
    DeadLetter,
    dead_letter,
)
from pipeline.fetch import fetch, resolve
from pipeline.images import ImageError, prepare
from pipeline.records import BadRow
from pipeline.sources.manifest import format_labels

SALT = "xception-at-scale shard order 1"
CODECS = ("simplejpeg", "opencv-python-headless", "pillow")  # distributions that decide bytes


NUM_UNKNOWN_LABELS = 5  # that a commit names, as examples


class ShardError(RuntimeError):
    """A shard that cannot be written; the same command, started again, goes on from here."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything but the inputs that decides the bytes of a split."""

    split: str
    num_shards: int
    shorter_side: int | None
    jpeg_quality: int
    label_delimiter: str
    format_version: int = schema.FORMAT_VERSION
    salt: str = SALT
    codecs: tuple[tuple[str, str], ...] = ()  # (distribution, version)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the writer of a shard knows of its run."""

    output: str
    images: str
    fingerprint: str  # of the run: inputs and recipe
    classes: tuple[str, ...]
    recipe: Recipe


class Row(NamedTuple):
    """An image on its way to a shard."""

    image_id: str
    uri: str
    class_ids: tuple[int, ...]
    unknown_labels: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Commit:
    """What a shard's JSON file holds."""

    fingerprint: str  # of the run and of this shard's rows
    shard: int
    num_rows: int  # that came in: images, duplicates and bad rows
    num_duplicates: int  # rows merged into another of the same id
    num_examples: int
    num_bytes: int  # of the shard file
    sha256: str  # of the shard file
    num_known_labels: int  # label occurrences in the class list, lost images included
    num_unknown_labels: int  # and those that are not
    class_counts: dict[int, int]  # examples by class id
    dead_letters: tuple[DeadLetter, ...]
    unknown_labels: dict[str, int]  # the most frequent, with their occurrences

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Commit":
        fields = {"unknown_labels": {}, **json.loads(text)}  # which early commits do not have
        fields["class_counts"] = {int(key): n for key, n in fields["class_counts"].items()}
        fields["dead_letters"] = tuple(DeadLetter(*letter) for letter in fields["dead_letters"])
        return cls(**fields)


def codec_versions() -> tuple[tuple[str, str], ...]:
    """The installed versions of what decides bytes."""
    return tuple((name, importlib.metadata.version(name)) for name in CODECS)


def order_key(key: str) -> int:
    """64 bits that decide an image's shard and its place there."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=SALT.encode())
    return int.from_bytes(digest.digest(), "big")


def shard_of(key: str, num_shards: int) -> int:
    return order_key(key) * num_shards >> 64


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


class ShardWriter:
    """Writes one shard of a plan and its commit."""

    def __init__(self, plan: Plan, shard: int) -> None:
        recipe = plan.recipe
        self._plan = plan
        self._recipe = recipe
        self._shard = shard
        self._shard_path = shard_path(plan.output, recipe.split, shard, recipe.num_shards)
        self._commit_path = commit_path(plan.output, recipe.split, shard, recipe.num_shards)

    def write(self, rows: Iterable[Row | BadRow]) -> Commit:
        """The shard's commit; an earlier one with the same rows stands. Raises ShardError."""
        bad_rows, images = _sorted_rows(rows)
        merged = [_merged(list(group)) for _, group in itertools.groupby(images, _row_id)]
        fingerprint = self._fingerprint(merged, bad_rows)
        try:
            return self._earlier_commit(fingerprint) or self._write(
                fingerprint, merged, bad_rows, num_images=len(images)
            )
        except OSError as error:
            raise ShardError(f"cannot write {self._shard_path}: {error}") from error

    def _fingerprint(self, rows: list[Row], bad_rows: list[BadRow]) -> str:
        digest = hashlib.sha256(self._plan.fingerprint.encode())
        for row in rows:
            digest.update(json.dumps(row[:-1]).encode())  # all but where it stood
        for bad_row in bad_rows:
            digest.update(json.dumps(bad_row.text).encode())
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

    def _write(
        self, fingerprint: str, rows: list[Row], bad_rows: list[BadRow], num_images: int
    ) -> Commit:
        letters = [dead_letter(BAD_ROW, f"{r.detail}: {r.text}", r.source) for r in bad_rows]
        class_counts: collections.Counter[int] = collections.Counter()
        unknown_labels = collections.Counter(label for row in rows for label in row.unknown_labels)
        digest = hashlib.sha256()
        num_examples = num_bytes = 0
        prefix = self._commit_path.removesuffix(".json")
        with storage.write_atomically(self._shard_path, temporary_prefix=prefix) as stream:
            for row in rows:
                if row.unknown_labels:
                    letters.append(self._letter(row, UNKNOWN_LABEL, ", ".join(row.unknown_labels)))
                try:
                    image = self._image(row)
                except ImageError as error:
                    letters.append(self._letter(row, error.reason, error.detail))
                    continue
                framed = tfrecord.frame(schema.encode(row.image_id, image, row.class_ids))
                stream.write(framed)
                digest.update(framed)
                num_bytes += len(framed)
                num_examples += 1
                class_counts.update(row.class_ids)
        commit = Commit(
            fingerprint=fingerprint,
            shard=self._shard,
            num_rows=num_images + len(bad_rows),
            num_duplicates=num_images - len(rows),
            num_examples=num_examples,
            num_bytes=num_bytes,
            sha256=digest.hexdigest(),
            num_known_labels=sum(len(row.class_ids) for row in rows),
            num_unknown_labels=unknown_labels.total(),
            class_counts=dict(sorted(class_counts.items())),
            dead_letters=tuple(letters),
            unknown_labels=dict(unknown_labels.most_common(NUM_UNKNOWN_LABELS)),
        )
        storage.write_text(self._commit_path, commit.to_json())
        return commit

    def _image(self, row: Row) -> bytes:
        data = fetch(resolve(self._plan.images, row.uri))
        return prepare(data, self._recipe.shorter_side, self._recipe.jpeg_quality)

    def _letter(self, row: Row, reason: str, detail: str) -> DeadLetter:
        known = [self._plan.classes[class_id] for class_id in row.class_ids]
        labels = format_labels([*known, *row.unknown_labels], self._recipe.label_delimiter)
        return dead_letter(reason, detail, row.source, row.uri, labels, row.image_id)


def read_commit(path: str) -> Commit | None:
    """The commit in a file; None where it cannot be read, which makes its shard one to write."""
    try:
        return Commit.from_json(storage.read_text(path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _row_id(row: Row) -> str:
    return row.image_id


def _sorted_rows(rows: Iterable[Row | BadRow]) -> tuple[list[BadRow], list[Row]]:
    bad_rows = []
    images = []
    for row in rows:
        if isinstance(row, BadRow):
            bad_rows.append(row)
        else:
            images.append(row)
    bad_rows.sort()
    images.sort(key=lambda row: (order_key(row.image_id), row))
    return bad_rows, images


def _merged(rows: list[Row]) -> Row:
    """One row for the rows of one id: the first URI, the union of the labels."""
    if len(rows) == 1:
        return rows[0]
    return rows[0]._replace(
        class_ids=tuple(sorted({class_id for row in rows for class_id in row.class_ids})),
        unknown_labels=tuple(sorted({label for row in rows for label in row.unknown_labels})),
    )


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON holds it."""
    return {**dataclasses.asdict(recipe), "codecs": dict(recipe.codecs)}
