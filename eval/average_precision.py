"""Average precision of the top k predictions: three exact definitions, streamed by image.

    accumulator = Accumulator(num_classes, weights, k=100)
    for scores, labels in blocks:              # float32 [images, classes]; class ids of each image
        accumulator.update(scores, labels)
    result = accumulator.result()
    weighted_mean(result.class_ap, weights)    # MAP@100

D1, D2 and D3 are defined at `DEFINITIONS`. All three share these rules:

- the precision at a score s is the number of hits with a score >= s over the number of retrieved
  pairs with a score >= s, so that equal scores share one threshold, as in scikit-learn;
- a NaN is an error; a score of minus infinity means 'not scored' and is never retrieved;
- a class without a positive has no average precision (NaN); one never retrieved has 0.

To the last bit, results depend neither on the size of the blocks nor on the order in which partial
states are merged: retrieved pairs are kept and sorted once, at the end, by their float32 bits, and
sums over classes and images are rounded once (`math.fsum`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.ranking import ClassRanking, ImageRanking, Ranked, TopImages
from eval.retrieval import Truth, floors_of_best, retrieve, truth_of
from eval.top_predictions import TopPredictions, TopResult

K = 100

DEFINITIONS = {
    "D1": (
        "Of each image the {k} highest scores are retrieved (at the edge the lower class id wins). "
        "Per class, AP = 1/n * sum of the precision at each hit's score, among the images in which "
        "the class was retrieved; n counts every positive of the class, retrieved or not."
    ),
    "D2": (
        "Of each class the {k} highest-scoring images are retrieved (at the edge the earlier image "
        "wins). Per class, AP = 1/min(n, {k}) * sum of the precision at each hit's score; n is the "
        "number of positives of the class."
    ),
    "D3": (
        "Of each image the {k} highest scores are retrieved (at the edge the lower class id wins). "
        "Per image, AP = sum of weight * precision at each hit's score, over the sum of the "
        "min(n, {k}) largest weights among the image's n labels; averaged over images whose labels "
        "have weight."
    ),
}

_BLOCK_SCORES = 1 << 20  # scores looked at together; bounds memory, never changes a result


class NotANumberError(ValueError):
    """A score is NaN; says of which image (its index among those seen) and which class."""

    def __init__(self, image: int, class_id: int):
        super().__init__(f"The score of image {image} for class {class_id} is NaN.")
        self.image, self.class_id = image, class_id


@dataclass(frozen=True)
class Result:
    """What an `Accumulator` has seen. Arrays have one entry a class."""

    num_images: int
    num_labels: int
    positives: np.ndarray  # int64
    class_ap: np.ndarray  # D1; NaN for a class without positives
    recall: np.ndarray  # share of the positives that D1 retrieved; NaN without positives
    top_images_ap: np.ndarray  # D2; NaN for a class without positives
    image_map: float  # D3; NaN if no image has a label of positive weight
    image_map_unweighted: float
    top: TopResult  # of the first few predictions of each image


@dataclass(frozen=True)
class LabelPairs:
    """Every label of every image."""

    images: np.ndarray  # uint32, the image's number
    classes: np.ndarray  # int64


class Accumulator:
    """Streams scores and labels into D1, D2 and D3, and what the first predictions are worth.

    Args:
        num_classes: columns of every block of scores.
        weights: float [num_classes], the class weights of D3 (None: all 1). D1 and D2 are a value a
            class; weigh those with `weighted_mean`.
        k: how many predictions are retrieved per image (D1, D3) or per class (D2).
        first_image: index of the first image, for a partial state that is merged later: which of
            two images comes first decides D2's ties at the edge.
    """

    def __init__(
        self,
        num_classes: int,
        weights: np.ndarray | None = None,
        k: int = K,
        first_image: int = 0,
    ):
        self.num_classes, self.k = num_classes, k
        self.next_image = first_image  # one above the highest number of an image
        self.num_images = 0
        self._label_images: list[np.ndarray] = [np.empty(0, np.uint32)]
        self._label_classes: list[np.ndarray] = [np.empty(0, np.int64)]
        self._class_ranking = ClassRanking(num_classes)
        self._top_images = TopImages(num_classes, k)
        self._image_ranking = ImageRanking(
            np.ones(num_classes) if weights is None else np.asarray(weights, np.float64), k
        )
        self._top_predictions = TopPredictions()

    def update(self, scores: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
        """Adds images; returns their unweighted average precision, NaN for one without labels.

        Args:
            scores: float32 [images, classes]; any order-preserving scale, logits at best.
            labels: for each image the ids of its classes; repeated ids count once.

        Raises:
            NotANumberError: a score is NaN. None of these images is added.
            ValueError: a shape, type or class id does not fit.
        """
        if scores.dtype != np.float32 or scores.shape != (len(labels), self.num_classes):
            raise ValueError(
                f"Scores must be float32 [{len(labels)} images, {self.num_classes} classes]. "
                f"Received: {scores.dtype} of shape {list(scores.shape)}."
            )
        rows = max(1, _BLOCK_SCORES // self.num_classes)
        blocks = [slice(start, start + rows) for start in range(0, len(scores), rows)]
        floors = [floors_of_best(scores[block], self.k) for block in blocks]
        self._check_numbers(scores, np.concatenate([np.empty(0, np.float32), *floors]))
        truths = [truth_of(labels[block], self.num_classes) for block in blocks]
        image_ap = [
            self._update_block(scores[block], truth, floor)
            for block, truth, floor in zip(blocks, truths, floors, strict=True)
        ]
        return np.concatenate([np.empty(0), *image_ap])

    def merge(self, other: Accumulator) -> None:
        """Adds a partial state over other images, as if its images had been seen here."""
        if (self.num_classes, self.k) != (other.num_classes, other.k):
            raise ValueError(
                "Only states of the same number of classes and the same k can be merged. Received: "
                f"{self.num_classes} and {other.num_classes} classes, k = {self.k} and {other.k}."
            )
        self.next_image = max(self.next_image, other.next_image)
        self.num_images += other.num_images
        self._label_images += other._label_images
        self._label_classes += other._label_classes
        self._class_ranking.merge(other._class_ranking)
        self._top_images.merge(other._top_images)
        self._image_ranking.merge(other._image_ranking)
        self._top_predictions.merge(other._top_predictions)

    def result(self) -> Result:
        """The averages so far; more images may follow."""
        positives = self._positives()
        class_ap, recall = self._class_ranking.result(positives)
        image_map, image_map_unweighted = self._image_ranking.result()
        return Result(
            num_images=self.num_images,
            num_labels=int(positives.sum()),
            positives=positives,
            class_ap=class_ap,
            recall=recall,
            top_images_ap=self._top_images.result(positives),
            image_map=image_map,
            image_map_unweighted=image_map_unweighted,
            top=self._top_predictions.result(),
        )

    def ranked(self) -> Ranked:
        """The pairs of classes with positives that D1 retrieved, in the order of its ranking."""
        return self._class_ranking.ranked(self._positives())

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(float32 scores, bool hits) of all pairs that D1 retrieved, in no particular order."""
        return self._class_ranking.pairs()

    def labels(self) -> LabelPairs:
        """Every label of every image, in no particular order."""
        return LabelPairs(np.concatenate(self._label_images), np.concatenate(self._label_classes))

    def _positives(self) -> np.ndarray:
        return np.bincount(self.labels().classes, minlength=self.num_classes)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that was seen, as arrays by name; `restore` takes it."""
        labels = self.labels()
        arrays = {
            "counts": np.array([self.num_images, self.next_image], np.int64),
            "labels/images": labels.images,
            "labels/classes": labels.classes,
        }
        for name, part in self._parts().items():
            arrays |= {f"{name}/{key}": array for key, array in part.state().items()}
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Puts a state of an accumulator of the same classes, weights and k in place of this."""
        self.num_images, self.next_image = (int(count) for count in state["counts"])
        self._label_images, self._label_classes = (
            [state["labels/images"]],
            [state["labels/classes"]],
        )
        for name, part in self._parts().items():
            prefix = f"{name}/"
            part.restore(
                {key[len(prefix) :]: a for key, a in state.items() if key.startswith(prefix)}
            )

    def _parts(self) -> dict[str, Any]:
        return {
            "class_ranking": self._class_ranking,
            "top_images": self._top_images,
            "image_ranking": self._image_ranking,
            "top_predictions": self._top_predictions,
        }

    def _check_numbers(self, scores: np.ndarray, floors: np.ndarray) -> None:
        broken = np.flatnonzero(np.isnan(floors))
        if len(broken):
            image = int(broken[0])
            class_id = int(np.flatnonzero(np.isnan(scores[image]))[0])
            raise NotANumberError(self.next_image + image, class_id)

    def _update_block(self, scores: np.ndarray, truth: Truth, floors: np.ndarray) -> np.ndarray:
        self._label_images.append((self.next_image + truth.rows).astype(np.uint32))
        self._label_classes.append(truth.classes)
        retrieved = retrieve(scores, truth, self.k, floors)
        self._class_ranking.add(retrieved, self.next_image)
        self._top_images.add(scores, truth, self.next_image)
        self.next_image += len(scores)
        self.num_images += len(scores)
        best_first = retrieved.best_first()
        self._top_predictions.add(best_first, truth)
        return self._image_ranking.add(best_first, truth)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of the values that are not NaN; NaN if those weigh nothing together."""
    counted = ~np.isnan(values)
    total = math.fsum(weights[counted])
    return math.fsum(values[counted] * weights[counted]) / total if total else math.nan
