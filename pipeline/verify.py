"""Reads a dataset folder again, and names the first thing that is wrong in it:

    python -m pipeline.verify dataset [--split=train]

Every byte is read: the checksum of each record, its features, its place, its label ids against the
class list, the sha256 and counts of each shard against its commit and the metadata, and what TFDS
reads against the completed markers. Images are decoded in a sample spread over each shard.
"""

import argparse
import collections
import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence

from pipeline import labels, metadata, rows, schema, storage, tfrecord
from pipeline.images import ImageError, prepare
from pipeline.recipe import ImageRecipe
from pipeline.sharding import Commit, commit_path, read_commit, shards_pattern
from pipeline.tables import tables

DECODE_EVERY = 50  # records


class VerifyError(ValueError):
    """The first fault that was found, with file and record, and what to do."""

    def __init__(self, fault: str) -> None:
        super().__init__(
            f"{fault}. Delete this file, if it is there, and start the beam_runner.py command of "
            "its split again"
        )


def verify_split(
    data_dir: str, split: metadata.Split, vocabulary: labels.Vocabulary
) -> tuple[int, int]:
    """(examples, bytes) that were read; raises VerifyError."""
    _verify_files(data_dir, split)
    class_counts: collections.Counter[int] = collections.Counter()
    lists = {table: hashlib.sha256(table.header) for table in tables(split.name)}
    num_bytes = 0
    started = time.monotonic()
    for shard, path in enumerate(split.shard_paths):
        try:
            commit = _commit(data_dir, split, shard)
            class_counts.update(_verify_shard(path, commit, shard, split, len(vocabulary)))
        except OSError as error:
            raise VerifyError(f"{path}: {error}") from error
        num_bytes += commit.num_bytes
        for table, digest in lists.items():
            digest.update(table.lines(commit))
        if time.monotonic() - started > 2:
            started = time.monotonic()
            print(f"{shard + 1} of {len(split.shard_paths)} shards read", file=sys.stderr)
    for table, digest in lists.items():
        path = storage.join(data_dir, table.file_of(split.name))
        if not storage.exists(path) or _sha256(path) != digest.hexdigest():
            raise VerifyError(f"{path}: missing, or not what the shards' commits make it")
    for class_id, count in enumerate(split.class_counts):
        if class_counts[class_id] != count:
            raise VerifyError(
                f"{os.path.join(data_dir, metadata.class_counts_file(split.name))}: {count} "
                f"examples of class {vocabulary.classes[class_id]!r}, but the shards hold "
                f"{class_counts[class_id]}"
            )
    return split.num_examples, num_bytes


def verify_tfds_files(data_dir: str, vocabulary: labels.Vocabulary) -> None:
    """Raises VerifyError where TFDS reads something else than the completed markers say."""
    names = metadata.completed_splits(data_dir)
    markers = [metadata.load_completed(data_dir, name) for name in names]
    for name, text in metadata.tfds_files(vocabulary, markers).items():
        path = storage.join(data_dir, name)
        if not storage.exists(path) or storage.read_bytes(path) != text.encode():
            raise VerifyError(f"{path}: missing, or not what the completed splits make it")


def _verify_files(data_dir: str, split: metadata.Split) -> None:
    """The files of a split, before any is read."""
    marker = storage.join(data_dir, metadata.completed_file(split.name))
    num_examples = sum(split.shard_lengths)
    if num_examples != split.num_examples:
        raise VerifyError(
            f"{marker}: {split.num_examples} examples, but {num_examples} in the lengths of its "
            "shards"
        )
    ours = {os.path.basename(path) for path in split.shard_paths}
    for path in storage.match(shards_pattern(data_dir, split.name)):
        if os.path.basename(path) not in ours:
            raise VerifyError(f"{path}: none of the {len(ours)} shards of the split")


def _commit(data_dir: str, split: metadata.Split, shard: int) -> Commit:
    path = commit_path(data_dir, split.name, shard, len(split.shard_paths))
    commit = read_commit(path) if storage.exists(path) else None
    if commit is None:
        raise VerifyError(f"{path}: the shard's commit is missing or damaged")
    return commit


def _verify_shard(
    path: str, commit: Commit, shard: int, split: metadata.Split, num_classes: int
) -> collections.Counter[int]:
    """Examples by class id."""
    class_counts: collections.Counter[int] = collections.Counter()
    previous: tuple[int, str] = (-1, "")
    num_records = 0
    with storage.open_to_read(path) as stream:
        records = tfrecord.read(stream)
        while True:
            where = f"{path}: record {num_records}"
            try:
                record = next(records, None)
                if record is None:
                    break
                example = schema.decode(record)
            except (tfrecord.TFRecordError, schema.SchemaError) as error:
                raise VerifyError(f"{where}: {error}") from error
            where += f" ({example.image_id})"
            order_hash = rows.hashes([example.image_id.encode()]).order
            place = (int(order_hash[0]), example.image_id)
            if place <= previous or rows.groups_of(order_hash, len(split.shard_paths))[0] != shard:
                raise VerifyError(f"{where}: stands in the wrong place, or twice")
            _verify_labels(where, example, num_classes)
            if num_records % DECODE_EVERY == 0:
                _verify_image(where, example.image)
            class_counts.update(example.labels)
            previous = place
            num_records += 1
    if num_records != commit.num_examples or num_records != split.shard_lengths[shard]:
        raise VerifyError(
            f"{path}: {num_records} records; {commit.num_examples} by its commit, "
            f"{split.shard_lengths[shard]} by the completed marker"
        )
    if _sha256(path) != commit.sha256:
        raise VerifyError(f"{path}: sha256 is not the one in its commit")
    return class_counts


def _verify_labels(where: str, example: schema.Example, num_classes: int) -> None:
    for class_ids in (example.labels, example.negatives):
        if list(class_ids) != sorted(set(class_ids)):
            raise VerifyError(f"{where}: label ids are not sorted and unique: {class_ids}")
        if class_ids and not 0 <= class_ids[0] <= class_ids[-1] < num_classes:
            raise VerifyError(f"{where}: label ids {class_ids} with {num_classes} classes")
    both = sorted(set(example.labels) & set(example.negatives))
    if both:
        raise VerifyError(f"{where}: label ids are positive and negative at once: {both}")
    if not all(0 < confidence <= 1 for confidence in example.confidences):
        raise VerifyError(f"{where}: a confidence outside of 0 to 1: {example.confidences}")


def _verify_image(where: str, image: bytes) -> None:
    try:
        prepare(image, ImageRecipe(untouched=True))
    except ImageError as error:
        raise VerifyError(f"{where}: the image cannot be decoded: {error}") from error


def _sha256(path: str) -> str:
    with storage.open_to_read(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify",
        description="Reads a dataset folder again, and names the first thing wrong in it.",
        epilog="example: python -m pipeline.verify dataset --split=train. "
        "exit codes: 0 sound, 2 damaged or no dataset",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="folder that beam_runner.py wrote")
    parser.add_argument("--split", help="split to read (all that are completed)")
    args = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional packages when imported
    try:
        vocabulary = metadata.load_vocabulary(args.dataset)
        splits = [args.split] if args.split else metadata.completed_splits(args.dataset)
        if not splits:
            raise metadata.MetadataError(f"{args.dataset} has no completed split")
        verify_tfds_files(args.dataset, vocabulary)
        for name in splits:
            split = metadata.load_split(args.dataset, name)
            num_examples, num_bytes = verify_split(args.dataset, split, vocabulary)
            print(
                f"split {name!r} is sound: {num_examples:,} examples in "
                f"{len(split.shard_paths):,} shards, {num_bytes / 1e6:,.1f} MB"
            )
    except (VerifyError, metadata.MetadataError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
