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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.ranking import ClassRanking, ImageRanking, TopImages, retrieve, truth_of

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


class Accumulator:
    """Streams scores and labels into D1, D2 and D3.

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
        self._next_image = first_image
        self.num_images = 0
        self._positives = np.zeros(num_classes, np.int64)
        self._class_ranking = ClassRanking(num_classes)
        self._top_images = TopImages(num_classes, k)
        self._image_ranking = ImageRanking(
            np.ones(num_classes) if weights is None else np.asarray(weights, np.float64), k
        )

    def update(self, scores: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
        """Adds images; returns their unweighted average precision, NaN for one without labels.

        Args:
            scores: float32 [images, classes]; any order-preserving scale, logits at best.
            labels: for each image the ids of its classes; repeated ids count once.

        Raises:
            NotANumberError: a score is NaN. None of these images is added.
            ValueError: a shape, type or class id does not fit.
        """
        self._check(scores, labels)
        rows = max(1, _BLOCK_SCORES // self.num_classes)
        blocks = [
            self._update_block(scores[start : start + rows], labels[start : start + rows])
            for start in range(0, len(scores), rows)
        ]
        return np.concatenate(blocks) if blocks else np.empty(0)

    def merge(self, other: Accumulator) -> None:
        """Adds a partial state over other images, as if its images had been seen here."""
        if (self.num_classes, self.k) != (other.num_classes, other.k):
            raise ValueError(
                "Only states of the same number of classes and the same k can be merged. Received: "
                f"{self.num_classes} and {other.num_classes} classes, k = {self.k} and {other.k}."
            )
        self._next_image = max(self._next_image, other._next_image)
        self.num_images += other.num_images
        self._positives += other._positives
        self._class_ranking.merge(other._class_ranking)
        self._top_images.merge(other._top_images)
        self._image_ranking.merge(other._image_ranking)

    def result(self) -> Result:
        """The averages so far; more images may follow."""
        class_ap, recall = self._class_ranking.result(self._positives)
        image_map, image_map_unweighted = self._image_ranking.result()
        return Result(
            num_images=self.num_images,
            num_labels=int(self._positives.sum()),
            positives=self._positives.copy(),
            class_ap=class_ap,
            recall=recall,
            top_images_ap=self._top_images.result(self._positives),
            image_map=image_map,
            image_map_unweighted=image_map_unweighted,
        )

    def _check(self, scores: np.ndarray, labels: Sequence[np.ndarray]) -> None:
        if scores.dtype != np.float32 or scores.shape != (len(labels), self.num_classes):
            raise ValueError(
                f"Scores must be float32 [{len(labels)} images, {self.num_classes} classes]. "
                f"Received: {scores.dtype} of shape {list(scores.shape)}."
            )
        if scores.size and np.isnan(scores.min()):
            image, class_id = np.argwhere(np.isnan(scores))[0]
            raise NotANumberError(self._next_image + int(image), int(class_id))

    def _update_block(self, scores: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
        truth = truth_of(labels, self.num_classes)
        self._positives += np.bincount(truth.classes, minlength=self.num_classes)
        retrieved = retrieve(scores, truth.matrix, self.k)
        self._class_ranking.add(retrieved)
        self._top_images.add(scores, truth.matrix, self._next_image)
        self._next_image += len(scores)
        self.num_images += len(scores)
        return self._image_ranking.add(retrieved, truth)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of the values that are not NaN; NaN if those weigh nothing together."""
    counted = ~np.isnan(values)
    total = math.fsum(weights[counted])
    return math.fsum(values[counted] * weights[counted]) / total if total else math.nan


def prior_scores(class_counts: np.ndarray) -> np.ndarray:
    """Scores, float32 [classes], that rank classes by their training counts, whatever the image.

    The rank of the count, not the count: above 2^24 float32 would tie counts that differ.
    """
    return np.unique(class_counts, return_inverse=True)[1].astype(np.float32)


def prior_ap(
    class_counts: np.ndarray, positives: np.ndarray, num_images: int, k: int = K
) -> np.ndarray:
    """D1 per class of `prior_scores` given to every image, NaN for a class without positives.

    As all images tie, a retrieved class has its share of positives for average precision.
    """
    scores = prior_scores(class_counts)[None, :]
    retrieved = np.zeros(len(class_counts), bool)
    retrieved[retrieve(scores, np.zeros_like(scores, bool), k).classes] = True
    return np.where(positives > 0, retrieved * (positives / num_images), np.nan)
