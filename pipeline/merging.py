"""All rows of an image as one, in the order of a shard."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import NamedTuple

from pipeline import rows
from pipeline.annotations import LabelRules
from pipeline.recipe import Selection
from pipeline.records import Annotation, BadRow, ImageRow


class Image(NamedTuple):
    """What all rows say of an image."""

    order_hash: int  # uint64; with the id, its place in the shard
    image_id: str
    uri: str  # "" where no row has it
    annotations: tuple[Annotation, ...]  # sorted, unique
    checksum: str
    rotation: int
    place: str  # of one of its rows
    num_rows: int
    split_hash: int  # uint64
    split: str  # of the split column; where rows name several, all of them with commas between
    other_uris: tuple[str, ...]  # of rows of the same id, which are not read


def unpacked(packs: Iterable[bytes]) -> Iterable[ImageRow | BadRow]:
    """The rows of packs; an empty pack stands for its group alone."""
    return itertools.chain.from_iterable(rows.unpack(pack) for pack in packs if pack)


def merged(found: Iterable[ImageRow | BadRow]) -> tuple[list[BadRow], list[Image]]:
    """Bad rows, and an image for the rows of one id: sorted, whatever the order of the rows.

    Of several URIs, checksums or rotations of an id the first in the order of the text is taken.
    """
    bad_rows = []
    by_id: dict[str, list[ImageRow]] = {}
    for row in found:
        if isinstance(row, BadRow):
            bad_rows.append(row)
        else:
            by_id.setdefault(row.image_id, []).append(row)
    hashed = rows.hashes(image_id.encode() for image_id in by_id)
    images = [
        _image(group, order_hash, split_hash)
        for group, order_hash, split_hash in zip(
            by_id.values(), hashed.order.tolist(), hashed.split.tolist(), strict=True
        )
    ]
    return sorted(bad_rows), sorted(images)


def _image(group: list[ImageRow], order_hash: int, split_hash: int) -> Image:
    first = group[0]
    if len(group) > 1:
        # The URI and what belongs to the file come from one row, where one row has it all.
        first = min(group, key=lambda row: (not row.uri, row.uri, not row.checksum, *row[4:]))
    return Image(
        order_hash,
        first.image_id,
        first.uri,
        tuple(sorted({annotation for row in group for annotation in row.annotations})),
        first.checksum or min((row.checksum for row in group if row.checksum), default=""),
        first.rotation or min((row.rotation for row in group if row.rotation), default=0),
        first.place,
        len(group),
        split_hash,
        ",".join(sorted({row.split for row in group if row.split})),
        tuple(sorted({row.uri for row in group if row.uri} - {first.uri})),
    )


class Chooser:
    """Decides, once all rows of an image are known, whether a split takes it."""

    def __init__(self, selection: Selection, rules: LabelRules, min_labels: int) -> None:
        """`rules`: with the class list that is given; without one where it is built."""
        self._selection = selection
        self._rules = rules
        self._said = dataclasses.replace(rules, classes=None, hierarchy=None)
        self._min_labels = min_labels

    def takes(self, image: Image) -> bool:
        """Whether the image falls into the split."""
        is_drawn = image.split_hash < self._selection.drawn_end and self.is_eligible(image)
        return self._selection.takes(is_drawn, image.split)

    def is_eligible(self, image: Image) -> bool:
        """Whether an image may be drawn: it has a positive label, and annotations enough."""
        return bool(self._rules.resolve(image.annotations).positives) and self.has_labels(image)

    def has_labels(self, image: Image) -> bool:
        """Whether an image has annotations enough to be kept."""
        if not self._min_labels:
            return True
        found = self._said.resolve(image.annotations)
        return len(found.positives) + len(found.negatives) >= self._min_labels
