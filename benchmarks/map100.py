"""Time and memory of MAP@100 at the size of FastEval14k, against one read of the scores.

    python -m benchmarks.map100

Draws 14,000 x 17,000 scores with about 36.5 labels an image among 6,000 classes into a temporary
file of 1 GB, and measures in one process, each as often as --repeats says, the median of them, in
seconds of the CPU, so that other programs do not count; two threads by the clock:

    reading the scores once                          the unit
    D1, of one thread and of two; its interval       what MAP@100 needs
    everything the evaluator computes from scores    D1, D2, D3, the first predictions
    average precision without a cut
    D1 of a half and of a quarter of the images      whether its cost is linear in images
    scikit-learn, ranx, pytrec_eval, torchmetrics    those that are installed, on a stated subset,
                                                     scaled to all classes with positives, or images

No peer computes D1. scikit-learn and torchmetrics rank every image of a class; ranx and
pytrec_eval rank the 100 best classes of each image, as D3 does, and get them chosen already.
"""

import argparse
import importlib.metadata
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from eval import intervals
from eval.average_precision import Accumulator, K, LabelPairs
from eval.metrics import Measured
from eval.ranking import ClassRanking
from eval.retrieval import floors_of_best, retrieve, truth_of
from eval.uncut import UncutRanking
from pipeline.cores import num_cores

_BLOCK = 61  # images; 17,000 classes of so many are what the evaluator looks at together


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of MAP@100.")
    parser.add_argument("--num_images", type=int, default=14_000)
    parser.add_argument("--num_classes", type=int, default=17_000)
    parser.add_argument("--peer_classes", type=int, default=60, help="how many are measured")
    parser.add_argument("--peer_images", type=int, default=500, help="how many are measured")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    labels = draw_labels(options.num_images, options.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        scores = draw_scores(Path(folder) / "scores.npy", labels, options.num_classes)
        print(f"{scores.shape[0]:,} images x {scores.shape[1]:,} classes, {scores.nbytes:,} bytes")
        measure_ours(scores, labels, options.repeats)
        measure_peers(scores, labels, options.peer_classes, options.peer_images)


def measure_ours(scores: np.ndarray, labels: list[np.ndarray], repeats: int) -> None:
    """Prints seconds, and multiples of reading the scores once."""
    read_once(scores)  # brings the file into the page cache
    read = median_of(repeats, read_once, scores)
    report = Report(read)
    report.line("reading the scores once", read)
    seconds = median_of(repeats, only_d1, scores, labels)
    report.line("D1", seconds, peak_memory(only_d1, scores, labels))
    by_clock = {"clock": time.perf_counter}
    one = median_of(repeats, only_d1, scores, labels, **by_clock)
    two = median_of(repeats, d1_in_two_threads, scores, labels, **by_clock)
    print(f"{'':42}by the clock {one:.2f} s, in two threads {two:.2f} s")
    with_interval = median_of(repeats, d1_with_interval, scores, labels)
    memory = peak_memory(d1_with_interval, scores, labels)
    report.line("D1 and its interval", with_interval, memory)
    print(f"{'':42}the interval takes {with_interval / seconds - 1:.0%} of D1's time")
    everything = median_of(max(1, repeats // 2), all_of_them, scores, labels)
    memory = peak_memory(all_of_them, scores, labels)
    report.line("D1, D2, D3, first predictions, interval", everything, memory)
    report.line("without a cut, besides", median_of(1, without_a_cut, scores, labels))
    for part in (2, 4):
        num_images = len(scores) // part
        some = median_of(repeats, only_d1, scores[:num_images], labels[:num_images])
        print(
            f"D1 of a {'half' if part == 2 else 'quarter'} of the images: {some:.2f} s, "
            f"{some / seconds * part:.2f} of its share"
        )


def measure_peers(
    scores: np.ndarray, labels: list[np.ndarray], num_classes: int, num_images: int
) -> None:
    """Prints the seconds of others, scaled to everything, and how many times D1's that is."""
    ours = median_of(3, only_d1, scores, labels)
    total = len(np.unique(np.concatenate(labels)))
    for name, function, num_measured, num_all, unit in (
        ("scikit-learn", scikit_learn, num_classes, total, "classes"),
        ("torchmetrics", torchmetrics_by_class, num_classes, total, "classes"),
        ("ranx", ranx_by_image, num_images, len(scores), "images"),
        ("pytrec_eval-terrier", pytrec_eval_by_image, num_images, len(scores), "images"),
    ):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed: pip install -e '.[bench]'")
            continue
        seconds = function(scores, labels, num_measured) * num_all / num_measured
        what = f"{name} {version}, {num_measured} of {num_all:,} {unit}, scaled"
        print(f"{what:58}{seconds:9.2f} s {seconds / ours:8.1f}x D1", flush=True)


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
    return max(float(scores[start : start + _BLOCK].max()) for start in starts(scores))


def only_d1(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """What MAP@100 alone needs."""
    ranking, found = retrieve_all(scores, labels, starts(scores))
    ranking.result(positives_of(found, scores.shape[1]))


def d1_in_two_threads(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """The same; each thread takes every other block, and the partial rankings are merged."""
    with ThreadPoolExecutor(2) as threads:
        halves = [starts(scores)[part::2] for part in range(2)]
        parts = list(threads.map(lambda half: retrieve_all(scores, labels, half), halves))
    (ranking, found), (other, others_found) = parts
    ranking.merge(other)
    ranking.result(positives_of(found + others_found, scores.shape[1]))


def d1_with_interval(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """MAP@100 and its standard error."""
    num_classes = scores.shape[1]
    ranking, found = retrieve_all(scores, labels, starts(scores))
    positives = positives_of(found, num_classes)
    ranked = ranking.ranked(positives)
    class_ap, _ = ranking.result(positives)
    pairs = LabelPairs(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    weightings = np.ones((1, num_classes))
    values = intervals.influence(ranked, pairs, positives, class_ap, weightings, len(scores))
    intervals.standard_error(values[0])


def all_of_them(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    """What the evaluator computes of scores as they come."""
    accumulator = Accumulator(scores.shape[1])
    for start in starts(scores):
        accumulator.update(scores[start : start + _BLOCK], labels[start : start + _BLOCK])
    Measured.of(accumulator, np.ones(scores.shape[1]))


def without_a_cut(scores: np.ndarray, labels: list[np.ndarray]) -> None:
    ranking = UncutRanking(scores.shape[1])
    for start in starts(scores):
        truth = truth_of(labels[start : start + _BLOCK], scores.shape[1])
        ranking.add(scores[start : start + _BLOCK], truth)
    ranking.result(num_cores())


def retrieve_all(
    scores: np.ndarray, labels: list[np.ndarray], block_starts: list[int]
) -> tuple[ClassRanking, list[tuple[np.ndarray, np.ndarray]]]:
    """The ranking of these blocks, and their labels: images and classes."""
    ranking, found = ClassRanking(scores.shape[1]), []
    for start in block_starts:
        block = scores[start : start + _BLOCK]
        floors = floors_of_best(block, K)
        if np.isnan(floors).any():
            raise ValueError("A score is NaN.")
        truth = truth_of(labels[start : start + _BLOCK], scores.shape[1])
        ranking.add(retrieve(block, truth, K, floors), start)
        found.append((truth.rows + start, truth.classes))
    return ranking, found


def positives_of(found: list[tuple[np.ndarray, np.ndarray]], num_classes: int) -> np.ndarray:
    return np.bincount(np.concatenate([classes for _, classes in found]), minlength=num_classes)


def scikit_learn(scores: np.ndarray, labels: list[np.ndarray], num_classes: int) -> float:
    """Seconds for the first classes with positives; copying their columns is not timed."""
    truth, columns = some_classes(scores, labels, num_classes)
    start = time.process_time()
    for column in range(num_classes):
        average_precision_score(truth[:, column], columns[:, column])
    return time.process_time() - start


def torchmetrics_by_class(scores: np.ndarray, labels: list[np.ndarray], num_classes: int) -> float:
    """As `scikit_learn`, in one call, of two classes or more; one thread, as waiting ones burn."""
    import torch
    from torchmetrics.functional.classification import multilabel_average_precision

    truth, columns = some_classes(scores, labels, num_classes)
    predicted, target = torch.from_numpy(columns), torch.from_numpy(truth.astype(np.int64))
    torch.set_num_threads(1)
    multilabel_average_precision(predicted[:, :2], target[:, :2], 2, average=None)  # warms up
    start = time.process_time()
    multilabel_average_precision(predicted, target, num_classes, average=None)
    return time.process_time() - start


def ranx_by_image(scores: np.ndarray, labels: list[np.ndarray], num_images: int) -> float:
    """Seconds for the first images, from dictionaries of their 100 best classes on."""
    import ranx

    truth, runs = some_images(scores, labels, num_images)
    ranx.evaluate(ranx.Qrels(truth), ranx.Run(runs), "map@100")  # compiles
    start = time.process_time()
    ranx.evaluate(ranx.Qrels(truth), ranx.Run(runs), "map@100")
    return time.process_time() - start


def pytrec_eval_by_image(scores: np.ndarray, labels: list[np.ndarray], num_images: int) -> float:
    """As `ranx_by_image`."""
    import pytrec_eval

    truth, runs = some_images(scores, labels, num_images)
    start = time.process_time()
    pytrec_eval.RelevanceEvaluator(truth, {"map_cut_100"}).evaluate(runs)
    return time.process_time() - start


def some_classes(
    scores: np.ndarray, labels: list[np.ndarray], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.unique(np.concatenate(labels))[:num_classes]
    return np.array([np.isin(chosen, ids) for ids in labels]), np.array(scores[:, chosen])


def some_images(
    scores: np.ndarray, labels: list[np.ndarray], num_images: int
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    truth, runs = {}, {}
    for image in range(num_images):
        best = np.argpartition(-scores[image], K)[:K]
        truth[str(image)] = {str(class_id): 1 for class_id in labels[image]}
        runs[str(image)] = {str(class_id): float(scores[image, class_id]) for class_id in best}
    return truth, runs


def starts(scores: np.ndarray) -> list[int]:
    return list(range(0, len(scores), _BLOCK))


class Report:
    """Lines of a table: seconds, multiples of reading once, megabytes."""

    def __init__(self, read: float):
        self._read = read

    def line(self, name: str, seconds: float, memory: int | None = None) -> None:
        held = "" if memory is None else f"{memory / 1e6:8.0f} MB"
        print(f"{name:42}{seconds:8.3f} s {seconds / self._read:8.1f}x{held}", flush=True)


def median_of(
    times: int,
    function: Callable[..., object],
    *arguments: object,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """The median seconds of several runs."""
    seconds = []
    for _ in range(times):
        start = clock()
        function(*arguments)
        seconds.append(clock() - start)
    return statistics.median(seconds)


def peak_memory(function: Callable[..., object], *arguments: object) -> int:
    """Bytes that a run holds at most, beyond its arguments."""
    tracemalloc.start()
    function(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
