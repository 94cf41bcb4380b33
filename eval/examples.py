"""A handful of example images for the report: at random, ranked best and worst, and surely wrong.

Chosen while the images stream by, and only the chosen are held. The choice depends on the images
and their scores alone, not on their order, so that partial galleries can be merged: ties are broken
by a hash of the image id, which also makes the random ones the same at every checkpoint.
"""

import base64
import dataclasses
import hashlib
import heapq
import math
from typing import Any

import numpy as np

GROUPS = ("random", "best", "worst", "wrong")
EXAMPLES_A_GROUP = 8
TOP_PREDICTIONS = 5


@dataclasses.dataclass(frozen=True, order=True)
class _Example:
    priority: float  # the group keeps the highest
    digest: bytes
    image_id: str
    average_precision: float
    labels: tuple[int, ...]
    predictions: tuple[tuple[int, float], ...]  # (class id, logit), best first
    jpeg: bytes


class Gallery:
    """Four groups of examples: at random, ranked best and worst (by unweighted AP@k), and those
    with the highest logit for a class that is not among their labels.
    """

    def __init__(self) -> None:
        self._groups: dict[str, list[_Example]] = {name: [] for name in GROUPS}

    def offer(
        self,
        image_ids: list[str],
        jpegs: list[bytes],
        labels: list[np.ndarray],
        logits: np.ndarray,
        average_precision: np.ndarray,
    ) -> None:
        """Looks at a batch; the average precision is NaN for an image without labels."""
        highest_wrong = _highest_wrong(logits, labels)
        for row, image_id in enumerate(image_ids):
            digest = hashlib.blake2b(image_id.encode(), digest_size=8).digest()
            ap = float(average_precision[row])
            priorities = {"random": 0.0}
            if not math.isnan(ap):
                priorities |= {"best": ap, "worst": -ap}
            if math.isfinite(highest_wrong[row]):
                priorities["wrong"] = float(highest_wrong[row])
            for name, priority in priorities.items():
                if self._has_place(name, priority, digest):
                    example = _Example(
                        priority,
                        digest,
                        image_id,
                        ap,
                        tuple(int(class_id) for class_id in labels[row]),
                        _top_predictions(logits[row]),
                        jpegs[row],
                    )
                    self._put(name, example)

    def merge(self, other: "Gallery") -> None:
        """Adds a gallery over other images, as if they had been offered here."""
        for name, group in other._groups.items():
            for example in group:
                if self._has_place(name, example.priority, example.digest):
                    self._put(name, example)

    def to_state(self) -> dict[str, Any]:
        """Everything it holds as JSON values, for `from_state` in another process."""
        return {
            name: [
                {
                    **dataclasses.asdict(example),
                    "digest": example.digest.hex(),
                    "jpeg": base64.b64encode(example.jpeg).decode(),
                }
                for example in group
            ]
            for name, group in self._groups.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Gallery":
        gallery = cls()
        for name in GROUPS:
            for held in state[name]:
                example = _Example(
                    **{
                        **held,
                        "digest": bytes.fromhex(held["digest"]),
                        "labels": tuple(held["labels"]),
                        "predictions": tuple((class_id, x) for class_id, x in held["predictions"]),
                        "jpeg": base64.b64decode(held["jpeg"]),
                    }
                )
                gallery._put(name, example)
        return gallery

    def _has_place(self, name: str, priority: float, digest: bytes) -> bool:
        group = self._groups[name]
        return len(group) < EXAMPLES_A_GROUP or (priority, digest) > (
            group[0].priority,
            group[0].digest,
        )

    def _put(self, name: str, example: _Example) -> None:
        group = self._groups[name]
        full = len(group) == EXAMPLES_A_GROUP
        (heapq.heapreplace if full else heapq.heappush)(group, example)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The examples by group, best first, with classes by their keys and JPEGs in base64."""
        return {
            name: [_example_json(example, classes) for example in sorted(group, reverse=True)]
            for name, group in self._groups.items()
        }


def _highest_wrong(logits: np.ndarray, labels: list[np.ndarray]) -> np.ndarray:
    """Of each image the highest logit of a class that is not among its labels."""
    wrong = logits.copy()
    rows = np.repeat(np.arange(len(labels)), [len(ids) for ids in labels])
    wrong[rows, np.concatenate(labels).astype(np.int64) if len(rows) else []] = -np.inf
    return wrong.max(axis=1)


def _top_predictions(logits: np.ndarray) -> tuple[tuple[int, float], ...]:
    order = np.argsort(-logits, kind="stable")[:TOP_PREDICTIONS]
    return tuple((int(class_id), float(logits[class_id])) for class_id in order)


def _example_json(example: _Example, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "image_id": example.image_id,
        "average_precision": (
            None if math.isnan(example.average_precision) else example.average_precision
        ),
        "labels": [classes[class_id] for class_id in example.labels],
        "predictions": [
            {
                "class": classes[class_id],
                "logit": logit if math.isfinite(logit) else None,
                "correct": class_id in example.labels,
            }
            for class_id, logit in example.predictions
        ],
        "jpeg": base64.b64encode(example.jpeg).decode(),
    }
