"""A handful of example images for the report: some at random, the best and the worst ranked.

Chosen while the images stream by, and only the chosen are held. The choice depends on the images
and their scores alone, not on their order: ties are broken by a hash of the image id, which also
makes the random ones the same at every checkpoint.
"""

import base64
import hashlib
import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

EXAMPLES_A_GROUP = 8
TOP_PREDICTIONS = 5


@dataclass(frozen=True, order=True)
class _Example:
    priority: float  # the group keeps the highest
    digest: bytes
    image_id: str
    average_precision: float
    labels: tuple[int, ...]
    predictions: tuple[tuple[int, float], ...]  # (class id, logit), best first
    jpeg: bytes


class Gallery:
    """Three groups of examples: at random, best ranked, worst ranked (by unweighted AP@k)."""

    def __init__(self) -> None:
        self._groups: dict[str, list[_Example]] = {"random": [], "best": [], "worst": []}

    def offer(
        self,
        image_ids: list[str],
        jpegs: list[bytes],
        labels: list[np.ndarray],
        logits: np.ndarray,
        average_precision: np.ndarray,
    ) -> None:
        """Looks at a batch; the average precision is NaN for an image without labels."""
        for row, image_id in enumerate(image_ids):
            digest = hashlib.blake2b(image_id.encode(), digest_size=8).digest()
            ap = float(average_precision[row])
            priorities = {"random": 0.0}
            if not math.isnan(ap):
                priorities |= {"best": ap, "worst": -ap}
            for name, priority in priorities.items():
                group = self._groups[name]
                full = len(group) == EXAMPLES_A_GROUP
                if full and (priority, digest) <= (group[0].priority, group[0].digest):
                    continue
                example = _Example(
                    priority,
                    digest,
                    image_id,
                    ap,
                    tuple(int(class_id) for class_id in labels[row]),
                    _top_predictions(logits[row]),
                    jpegs[row],
                )
                (heapq.heapreplace if full else heapq.heappush)(group, example)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The examples by group, best first, with classes by their keys and JPEGs in base64."""
        return {
            name: [_example_json(example, classes) for example in sorted(group, reverse=True)]
            for name, group in self._groups.items()
        }


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
