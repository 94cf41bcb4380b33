"""Finds images of the same content, and training images whose content is held out for evaluation.

    shards of rows ── content keys ── by content ── notices, by shard

A content key is the checksum that the source brings, or the file's length and the hash of its end:
that costs one short read of each file, and only files that are alike in it are read whole. What
is found becomes notices for the shards' writers. Of several images of one content the one whose
id's hash is the lowest is kept, with the labels of all.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from pipeline import metadata, publish, rows, storage
from pipeline.fetch import Fetcher
from pipeline.images import ImageError
from pipeline.merging import Chooser, Image, merged, unpacked
from pipeline.records import ImageRow
from pipeline.sharding import Content, Duplicate, Plan, ShardError

_NOTICES = "notices"


class HeldOut:
    """The contents of evaluation splits."""

    def __init__(self, output: str, splits: Iterable[str]) -> None:
        self._split_of: dict[str, str] = {}  # of a content key, sha256 or checksum
        for split in splits:
            for content in _read_contents(output, split):
                self._split_of.update((key, split) for key in content[1:] if key)

    def __bool__(self) -> bool:
        return bool(self._split_of)

    def split_of(self, key: str) -> str | None:
        """The evaluation split that has such a content key, sha256 or checksum."""
        return self._split_of.get(key)


def _read_contents(output: str, split: str) -> list[Content]:
    """What an evaluation split has left; raises ShardError where that is not whole."""
    path = storage.join(output, metadata.contents_file(split))
    marker = publish.read_marker(output, split)
    try:
        lines = list(csv.reader(io.StringIO(storage.read_text(path), newline="")))
        found = [Content(*line) for line in lines[1:]]
        is_whole = marker is not None and len(found) == marker["num_examples"]
        if not is_whole or lines[0] != list(Content._fields):
            raise ValueError(f"{len(found)} contents")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ShardError(
            f"{path}, by which {split!r} is kept out of training, is missing or damaged ({error}): "
            "delete it and start that split's command again, then this one"
        ) from error
    return found


class FindKeys(beam.DoFn):
    """(shard, packs) to (group of contents, pack), and to notices of what is held out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        plan = self._plan
        self._fetcher = Fetcher(plan.images, plan.allow_hosts)
        self._chooser = Chooser(plan.recipe.selection, plan.draw_rules, plan.recipe.min_labels)
        self._held_out = HeldOut(plan.output, dict(plan.recipe.held_out))

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        _, packs = element
        keys = []
        lines = []
        for image, key in self._keys(merged(unpacked(packs))[1]):
            split = self._held_out_in(image, key) if self._held_out else None
            if split is not None:
                notice = _notice(Duplicate(image.image_id, "", split), self._plan)
                yield pvalue.TaggedOutput(_NOTICES, notice)
                continue
            keys.append(key.encode())
            lines.append(rows.encode(_with_key(image, key)))
        groups = rows.groups_of(rows.hashes(keys).order, self._plan.recipe.num_shards)
        yield from rows.packs(pa.array(lines, pa.large_binary()), groups)

    def _keys(self, images: list[Image]) -> Iterator[tuple[Image, str]]:
        """(image, checksum or content key) of the images that can be read and have labels."""
        reads_files = self._plan.recipe.deduplicate == "content"
        wanted = [
            image
            for image in images
            if (self._checksum_speaks(image) or (reads_files and image.uri))
            and self._chooser.takes(image)
            and self._chooser.has_labels(image)
        ]
        probed = self._fetcher.probe_all(
            image.uri for image in wanted if not self._checksum_speaks(image)
        )
        for image in wanted:
            key = image.checksum if self._checksum_speaks(image) else next(probed)
            if not isinstance(key, ImageError):  # the writer meets the error again
                yield image, key

    def _checksum_speaks(self, image: Image) -> bool:
        """Whether the checksum stands for the content: where files are read, it is only checked,
        unless it is of another file than the one that is read."""
        plan = self._plan
        is_trusted = plan.recipe.deduplicate == "checksum" or not plan.verifies_checksums
        return bool(image.checksum) and is_trusted

    def _held_out_in(self, image: Image, key: str) -> str | None:
        """The evaluation split that has this content."""
        if key == image.checksum:
            split = self._held_out.split_of(key)
            if split is not None:
                return split if _content(self._fetcher, image, self._plan) else None
            if self._plan.recipe.deduplicate == "checksum" or not image.uri:
                return None
            try:
                key = self._fetcher.probe(image.uri)
            except ImageError:
                return None
        if self._held_out.split_of(key) is None:
            return None
        sha256 = _content(self._fetcher, image, self._plan)
        return self._held_out.split_of(sha256) if sha256 else None


class FindDuplicates(beam.DoFn):
    """(group of contents, packs) to notices: (shard, a Duplicate, or a line with more labels)."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._fetcher = Fetcher(self._plan.images, self._plan.allow_hosts)

    def process(
        self, element: tuple[int, Iterable[bytes]]
    ) -> Iterator[tuple[int, tuple[str, ...] | bytes]]:
        _, packs = element
        by_key: dict[str, list[Image]] = {}
        for image in merged(unpacked(packs))[1]:
            by_key.setdefault(_key(image), []).append(image)
        for key in sorted(by_key):
            if len(by_key[key]) > 1:
                for same in self._same_content(key, by_key[key]):
                    yield from self._notices(*same)

    def _same_content(self, key: str, images: list[Image]) -> Iterator[list[Image]]:
        """The images in lists of one content, kept one first, where a list has several.

        What cannot be read, or is not what its checksum says, is left to the writer: nothing may be
        merged into it.
        """
        verifies = self._plan.verifies_checksums
        fetched = self._fetcher.fetch_all(
            (image.uri, image.checksum if verifies else "") for image in images
        )
        by_content: dict[str, list[Image]] = {}
        for image, data in zip(images, fetched, strict=True):
            if not isinstance(data, ImageError):
                speaks = key == image.checksum
                content = key if speaks else hashlib.sha256(data).hexdigest()
                by_content.setdefault(content, []).append(image)
        yield from (same for same in by_content.values() if len(same) > 1)

    def _notices(
        self, kept: Image, *others: Image
    ) -> Iterator[tuple[int, tuple[str, ...] | bytes]]:
        annotations = {annotation for other in others for annotation in other.annotations}
        more = ImageRow(kept.image_id, "", tuple(sorted(annotations)), kept.place)
        yield _shard(kept.image_id, self._plan), rows.encode(more)
        for other in others:
            yield _notice(Duplicate(other.image_id, kept.image_id, ""), self._plan)


class FindNotices(beam.PTransform):
    """(shard, packs) to (shard, notice)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        keyed = shards | "FindKeys" >> beam.ParDo(FindKeys(self._plan)).with_outputs(
            _NOTICES, main="keyed"
        )
        duplicates = (
            keyed.keyed
            | "GroupByContent" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.ParDo(FindDuplicates(self._plan))
        )
        return (duplicates, keyed[_NOTICES]) | "Notices" >> beam.Flatten()


def _notice(duplicate: Duplicate, plan: Plan) -> tuple[int, tuple[str, ...]]:
    return _shard(duplicate.image_id, plan), tuple(duplicate)


def _shard(image_id: str, plan: Plan) -> int:
    hashed = rows.hashes([image_id.encode()])
    return int(rows.groups_of(hashed.order, plan.recipe.num_shards)[0])


def _with_key(image: Image, key: str) -> ImageRow:
    """The image as a row; its key travels where the split would."""
    return ImageRow(
        image.image_id, image.uri, image.annotations, image.place, image.checksum, split=key
    )


def _key(image: Image) -> str:
    return image.split


def _content(fetcher: Fetcher, image: Image, plan: Plan) -> str | None:
    """sha256 of the image file, hex; None where it cannot be read, which the writer meets again."""
    try:
        data = fetcher.fetch(image.uri, image.checksum if plan.verifies_checksums else "")
    except ImageError:
        return None
    return hashlib.sha256(data).hexdigest()
