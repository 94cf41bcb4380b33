"""Time and memory of MAP@100 at the size of FastEval14k, against one read of the scores.

    python -m benchmarks.map100

Draws 14,000 x 17,000 scores with about 36.5 labels an image among 6,000 classes into a temporary
file of 1 GB, and times in one process: reading the scores once; D1 alone; D1, D2 and D3 together;
and scikit-learn's average precision, class by class, on the first classes with positives, scaled
to all of those. scikit-learn ranks every image of a class, D1 those that kept the class in their
top 100: it is the peer that computes the nearest quantity, not the same one.
"""

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from eval.average_precision import Accumulator, K
from eval.ranking import ClassRanking, retrieve

_BLOCK = 64  # images; what an evaluator gets from the network at a time


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of MAP@100.")
    parser.add_argument("--num_images", type=int, default=14_000)
    parser.add_argument("--num_classes", type=int, default=17_000)
    parser.add_argument("--sklearn_classes", type=int, default=60, help="how many are measured")
    options = parser.parse_args()
    labels = draw_labels(options.num_images, options.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        scores = draw_scores(Path(folder) / "scores.npy", labels, options.num_classes)
        print(f"{scores.shape[0]:,} images x {scores.shape[1]:,} classes, {scores.nbytes:,} bytes")
        read_once(scores)  # brings the file into the page cache
        read = best_of(3, read_once, scores)
        print(f"{'reading the scores once':42}{read:8.2f} s")
        for name, function in (("D1", only_d1), ("D1, D2 and D3", all_three)):
            seconds = best_of(3, function, scores, labels)
            memory = peak_memory(function, scores, labels)
            print(f"{name:42}{seconds:8.2f} s {seconds / read:8.1f}x {memory / 1e6:8.0f} MB")
        seconds, measured, total = scikit_learn(scores, labels, options.sklearn_classes)
        name = f"scikit-learn, {measured} of {total:,} classes, scaled"
        print(f"{name:42}{seconds:8.2f} s {seconds / read:8.1f}x")


def draw_labels(num_images: int, num_classes: int) -> list[np.ndarray]:
    """For each image about 36.5 class ids, the frequent ones more often."""
    rng = np.random.default_rng(0)
    with_positives = rng.permutation(num_classes)[:6_000]
    shares = 1 / np.arange(10, 10 + len(with_positives))
    draws = [
        rng.choice(with_positives, rng.poisson(41), p=shares / shares.sum())
        for _ in range(num_images)
    ]
    return [np.unique(ids) for ids in draws]


def draw_scores(path: Path, labels: list[np.ndarray], num_classes: int) -> np.ndarray:
    """Normal scores, two standard deviations higher where the class is a label; memory-mapped."""
    rng = np.random.default_rng(1)
    shape = (len(labels), num_classes)
    scores = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(labels), _BLOCK):
        block = scores[start : start + _BLOCK]
        block[...] = rng.standard_normal(block.shape, np.float32)
        for row, ids in enumerate(labels[start : start + _BLOCK]):
            block[row, ids] += 2
    return scores


def read_once(scores: np.ndarray) -> float:
    return max(float(block.max()) for block in blocks(scores))


def only_d1(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """What MAP@100 alone needs."""
    ranking = ClassRanking(scores.shape[1])
    positives = np.zeros(scores.shape[1], np.int64)
    for start in range(0, len(scores), _BLOCK):
        block = scores[start : start + _BLOCK]
        truth = np.zeros(block.shape, bool)
        for row, ids in enumerate(labels[start : start + _BLOCK]):
            truth[row, ids] = True
            positives[ids] += 1
        ranking.add(retrieve(block, truth, K))
    ranking.result(positives)


def all_three(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """What the evaluator does."""
    accumulator = Accumulator(scores.shape[1])
    for start in range(0, len(scores), _BLOCK):
        accumulator.update(scores[start : start + _BLOCK], labels[start : start + _BLOCK])
    accumulator.result()


def scikit_learn(
    scores: np.ndarray, labels: list[np.ndarray], num_measured: int
) -> tuple[float, int, int]:
    """Returns (seconds for all classes with positives, classes measured, classes in all)."""
    with_positives = np.unique(np.concatenate(labels))
    measured = with_positives[:num_measured]
    truth = np.array([np.isin(measured, ids) for ids in labels])
    columns = scores[:, measured]  # the copy is not timed
    start = time.perf_counter()
    for column in range(len(measured)):
        average_precision_score(truth[:, column], columns[:, column])
    seconds = time.perf_counter() - start
    return seconds * len(with_positives) / len(measured), len(measured), len(with_positives)


def blocks(scores: np.ndarray) -> list[np.ndarray]:
    return [scores[start : start + _BLOCK] for start in range(0, len(scores), _BLOCK)]


def best_of(times: int, function, *arguments) -> float:
    """The shortest of several runs, in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_memory(function, *arguments) -> int:
    """Bytes that a run holds at most, beyond its arguments."""
    tracemalloc.start()
    function(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
