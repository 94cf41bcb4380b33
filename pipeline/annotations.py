"""What a dataset says of an image's labels: positive, verified negative, or unknown.

Sources speak label by label, may contradict each other, and leave out what follows from the
hierarchy. `LabelRules.resolve` makes one answer of it, the same whatever the order of what is
said, and however often it is said.
"""

import dataclasses
import functools
import operator
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.hierarchy import Hierarchy
from pipeline.records import Annotation

MACHINE = "machine"  # source of labels that no human has verified
HIERARCHY = "hierarchy"  # source of labels that follow from others
NO_CLASS = -1  # class id where there is no vocabulary


class Positive(NamedTuple):
    """A label that the image has."""

    label: str
    class_id: int
    confidence: float  # above 0, to 1
    source: str


class Negative(NamedTuple):
    """A label that the image verifiably has not."""

    label: str
    class_id: int
    source: str


class Resolved(NamedTuple):
    """What is known of an image's labels."""

    positives: tuple[Positive, ...]  # by class id, or by label where there is no vocabulary
    negatives: tuple[Negative, ...]  # likewise
    unknown: tuple[str, ...]  # positive labels outside the vocabulary, as said, sorted
    num_conflicts: int  # labels that are claimed both ways
    num_passed_over: int = 0  # annotations not trusted, too unsure, or negative of what is no class


@dataclasses.dataclass(frozen=True)
class LabelRules:
    """How annotations become labels.

    1. Only trusted sources count, and positives of at least the minimum confidence.
    2. Of a label that is said several times, a human's word beats a machine's, then a positive
       a negative, then the higher confidence the lower.
    3. Ancestors of positives are positives, as confident as the most confident of those;
       descendants of verified negatives are negatives. What is said beats what is implied, and
       an implied positive an implied negative. What such rules implied before, in shards that
       are read again, counts as implied.
    4. What lies outside the vocabulary is left out last, so that it can imply what lies inside.
    """

    classes: tuple[str, ...] | None  # keys by class id; None: every label is kept
    hierarchy: Hierarchy | None = None
    min_confidence: float = 0.0
    trusted_sources: tuple[str, ...] | None = None  # exact names; None: all

    def resolve(self, annotations: Iterable[Annotation]) -> Resolved:
        """What `annotations`, of one image, come to."""
        said, conflicts, num_passed_over = self._said(annotations)
        if self.hierarchy is not None:
            said = _closed(said, self.hierarchy, conflicts)
        return self._in_vocabulary(said.values(), len(conflicts), num_passed_over)

    def _said(
        self, annotations: Iterable[Annotation]
    ) -> tuple[dict[str, Annotation], set[str], int]:
        """(the word that counts, by label; labels that are claimed both ways; what is passed)."""
        said: dict[str, Annotation] = {}
        conflicts: set[str] = set()
        passed_over: set[Annotation] = set()
        least, trusted = self._least, self._trusted
        for annotation in annotations:
            label, confidence, source = annotation
            if 0 < confidence < least or (trusted is not None and source not in trusted):
                passed_over.add(annotation)
                continue
            other = said.setdefault(label, annotation)
            if other is not annotation:
                if (confidence > 0) != (other.confidence > 0):
                    conflicts.add(label)
                said[label] = min(other, annotation, key=_rank)
        return said, conflicts, len(passed_over)

    def _in_vocabulary(
        self, kept: Iterable[Annotation], num_conflicts: int, num_passed_over: int
    ) -> Resolved:
        positives, negatives, unknown = [], [], []
        class_ids = self._class_ids
        for label, confidence, source in kept:
            class_id = NO_CLASS if class_ids is None else class_ids.get(label)
            if class_id is None:
                if source == HIERARCHY:
                    continue
                if confidence > 0:
                    unknown.append(label)
                else:
                    num_passed_over += 1
            elif confidence > 0:
                positives.append(Positive(label, class_id, confidence, source))
            else:
                negatives.append(Negative(label, class_id, source))
        positives.sort(key=_BY_CLASS)
        negatives.sort(key=_BY_CLASS)
        unknown.sort()
        return Resolved(
            tuple(positives), tuple(negatives), tuple(unknown), num_conflicts, num_passed_over
        )

    @functools.cached_property
    def _class_ids(self) -> dict[str, int] | None:
        if self.classes is None:
            return None
        return {label: class_id for class_id, label in enumerate(self.classes)}

    @functools.cached_property
    def _trusted(self) -> frozenset[str] | None:
        return None if self.trusted_sources is None else frozenset(self.trusted_sources)

    @functools.cached_property
    def _least(self) -> float:
        """The minimum confidence; 0.7 lets the float32 nearest to 0.7 pass, as files store it."""
        return min(
            self.min_confidence, struct.unpack("f", struct.pack("f", self.min_confidence))[0]
        )

    def __getstate__(self) -> dict[str, object]:
        """The fields alone: what is derived is made anew."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


_BY_CLASS = operator.attrgetter("class_id", "label")
_SPEAKERS = {MACHINE: 1, HIERARCHY: 2}  # a human: 0


def _rank(annotation: Annotation) -> tuple[int, float, str]:
    """Of several words about one label, the least of these counts."""
    return _SPEAKERS.get(annotation.source, 0), -annotation.confidence, annotation.source


def _closed(
    said: dict[str, Annotation], hierarchy: Hierarchy, conflicts: set[str]
) -> dict[str, Annotation]:
    """What is said and what it implies, by label; adds the new conflicts to `conflicts`."""
    positives: dict[str, float] = {}
    negatives: set[str] = set()
    for label, confidence, source in said.values():
        implied_before = (label,) if source == HIERARCHY else ()
        if confidence > 0:
            for implied in (*implied_before, *hierarchy.ancestors(label)):
                if confidence > positives.get(implied, 0):
                    positives[implied] = confidence
        else:
            negatives.update(implied_before, hierarchy.descendants(label))
    closed = {label: Annotation(label, 0.0, HIERARCHY) for label in negatives}
    for label, confidence in positives.items():
        closed[label] = Annotation(label, confidence, HIERARCHY)
    for label, annotation in said.items():
        if annotation.source != HIERARCHY:
            closed[label] = annotation
    conflicts.update(label for label in negatives if closed[label].confidence > 0)
    conflicts.update(label for label in positives if closed[label].confidence == 0)
    return closed
