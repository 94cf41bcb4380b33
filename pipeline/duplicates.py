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

from pipeline import metadata, rows, storage
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
            path = storage.join(output, metadata.contents_file(split))
            for line in csv.DictReader(io.StringIO(storage.read_text(path), newline="")):
                for name in Content._fields[1:]:
                    if line[name]:
                        self._split_of[line[name]] = split

    def __bool__(self) -> bool:
        return bool(self._split_of)

    def split_of(self, key: str) -> str | None:
        """The evaluation split that has such a content key, sha256 or checksum."""
        return self._split_of.get(key)


class FindKeys(beam.DoFn):
    """(shard, packs) to (group of contents, pack), and to notices of what is held out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        plan = self._plan
        self._fetcher = Fetcher(plan.images, plan.allow_hosts)
        self._chooser = Chooser(plan.recipe.selection, plan.rules, plan.recipe.min_labels)
        try:
            self._held_out = HeldOut(plan.output, dict(plan.recipe.held_out))
        except (OSError, KeyError) as error:
            raise ShardError(f"cannot read what is held out: {error}") from error

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
            row = ImageRow(image.image_id, image.uri, image.annotations, image.place, checksum=key)
            keys.append(key.encode())
            lines.append(rows.encode(row))
        groups = rows.groups_of(rows.hashes(keys).order, self._plan.recipe.num_shards)
        yield from rows.packs(pa.array(lines, pa.large_binary()), groups)

    def _keys(self, images: list[Image]) -> Iterator[tuple[Image, str]]:
        """(image, checksum or content key) of the images that can be read and have labels."""
        reads_files = self._plan.recipe.deduplicate == "content"
        wanted = [image for image in images if self._is_wanted(image, reads_files)]
        probed = self._fetcher.probe_all(image.uri for image in wanted if not image.checksum)
        for image in wanted:
            key: str | ImageError = image.checksum or next(probed)
            if not isinstance(key, ImageError):  # the writer meets the error again
                yield image, key

    def _is_wanted(self, image: Image, reads_files: bool) -> bool:
        has_key = image.checksum or (reads_files and image.uri)
        return (
            bool(has_key)
            and self._chooser.takes(image)
            and self._chooser.has_labels(image.annotations)
        )

    def _held_out_in(self, image: Image, key: str) -> str | None:
        """The evaluation split that has this content."""
        if key == image.checksum:
            split = self._held_out.split_of(key)
            if split is not None or self._plan.recipe.deduplicate == "checksum" or not image.uri:
                return split
            try:
                key = self._fetcher.probe(image.uri)
            except ImageError:
                return None
        if self._held_out.split_of(key) is None:
            return None
        sha256 = _sha256(self._fetcher, image.uri)
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
            by_key.setdefault(image.checksum, []).append(image)
        for key in sorted(by_key):
            if len(by_key[key]) > 1:
                for same in self._same_content(key, by_key[key]):
                    yield from self._notices(*same)

    def _same_content(self, key: str, images: list[Image]) -> Iterator[list[Image]]:
        """The images in lists of one content, kept one first, where a list has several."""
        by_content: dict[str, list[Image]] = {}
        for image in images:
            is_checksum = ":" in key  # it speaks for the whole file
            content = key if is_checksum else _sha256(self._fetcher, image.uri)
            if content:
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


def _sha256(fetcher: Fetcher, uri: str) -> str | None:
    """Hex digest of an image file; None where it cannot be read, which the writer meets again."""
    try:
        return hashlib.sha256(fetcher.fetch(uri)).hexdigest()
    except ImageError:
        return None
