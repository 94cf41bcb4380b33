"""Finds images of the same content.

    shards of rows ── content keys ── by content ── notices, by shard

A content key is the checksum that the source brings, or the file's length and the hash of its end:
that costs one short read of each file, and only files that are alike in it are read whole. What
is found becomes notices for the shards' writers. Of several images of one content the one whose
id's hash is the lowest is kept, with the labels of all.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from pipeline import rows
from pipeline.fetch import Fetcher
from pipeline.images import ImageError
from pipeline.merging import Chooser, Image, merged, unpacked
from pipeline.records import ImageRow
from pipeline.sharding import Duplicate, Plan

_NOTICES = "notices"
# (shard, a Duplicate, or a line with more labels, or the id of an image that cannot be read)
_Notice = tuple[int, tuple[str, ...] | bytes | str]


class FindKeys(beam.DoFn):
    """(shard, packs) to (group of contents, pack), and to notices of what cannot be read."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        plan = self._plan
        self._fetcher = Fetcher(plan.images, plan.allow_hosts)
        self._chooser = Chooser(plan.recipe.selection, plan.draw_rules, plan.recipe.min_labels)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        shard, packs = element
        keys = []
        lines = []
        for image, key in self._keys(merged(unpacked(packs))[1]):
            if isinstance(key, ImageError):
                yield pvalue.TaggedOutput(_NOTICES, (shard, image.image_id))
                continue
            keys.append(key.encode())
            lines.append(rows.encode(_with_key(image, key)))
        groups = rows.groups_of(rows.hashes(keys).order, self._plan.recipe.num_shards)
        yield from rows.packs(pa.array(lines, pa.large_binary()), groups)

    def _keys(self, images: list[Image]) -> Iterator[tuple[Image, str | ImageError]]:
        """(image, checksum or content key) of the images that the writer will read."""
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
            yield image, image.checksum if self._checksum_speaks(image) else next(probed)

    def _checksum_speaks(self, image: Image) -> bool:
        """Whether the checksum stands for the content: where files are read, it is only checked,
        unless it is of another file than the one that is read."""
        plan = self._plan
        is_trusted = plan.recipe.deduplicate == "checksum" or not plan.verifies_checksums
        return bool(image.checksum) and is_trusted


class FindDuplicates(beam.DoFn):
    """(group of contents, packs) to notices."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._fetcher = Fetcher(self._plan.images, self._plan.allow_hosts)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[_Notice]:
        _, packs = element
        by_key: dict[str, list[Image]] = {}
        for image in merged(unpacked(packs))[1]:
            by_key.setdefault(_key(image), []).append(image)
        for key in sorted(by_key):
            if len(by_key[key]) > 1:
                yield from self._compared(key, by_key[key])

    def _compared(self, key: str, images: list[Image]) -> Iterator[_Notice]:
        """Notices of the images that have this content key.

        What cannot be read, or is not what its checksum says, is left to the writer: nothing may be
        merged into it.
        """
        verifies = self._plan.verifies_checksums
        fetched = self._fetcher.fetch_all(
            (image.uri, image.checksum if verifies else "") for image in images
        )
        by_content: dict[str, list[Image]] = {}
        for image, data in zip(images, fetched, strict=True):
            if isinstance(data, ImageError):
                yield _shard(image.image_id, self._plan), image.image_id
                continue
            speaks = key == image.checksum
            content = key if speaks else hashlib.sha256(data).hexdigest()
            by_content.setdefault(content, []).append(image)
        for kept, *others in by_content.values():
            if others:
                yield from self._merged(kept, others)

    def _merged(self, kept: Image, others: list[Image]) -> Iterator[_Notice]:
        annotations = {annotation for other in others for annotation in other.annotations}
        more = ImageRow(kept.image_id, "", tuple(sorted(annotations)), kept.place)
        yield _shard(kept.image_id, self._plan), rows.encode(more)
        for other in others:
            duplicate = Duplicate(other.image_id, kept.image_id, "")
            yield _shard(other.image_id, self._plan), tuple(duplicate)


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
