"""How often a nominal 95% interval of MAP@100 holds the true value, by simulation.

    python -m benchmarks.coverage

Draws many evaluation sets of one size from a population of labels and scores. What MAP@100 is
expected to be on a set of that size is the mean over all of them; counted is how often the interval
of a single set holds it: for one checkpoint, and for the difference of two on the same images. To
compare, the interval that forgets that the images are the same, and, on fewer sets, the percentile
bootstrap over images. And since average precision falls as a set grows, where classes have few
positives, also how often the value of an endless set is held: numbers are comparable on sets of one
size.

Of 60 classes the 15 highest scores are retrieved, so that the cut takes part; classes have from
0.5% to 30% of the images, and an image's scores go up and down together.
"""

import argparse

import numpy as np

from eval import intervals
from eval.average_precision import Accumulator, weighted_mean
from eval.metrics import Measured

NUM_CLASSES, K = 60, 15
PREVALENCE = np.geomspace(0.005, 0.3, NUM_CLASSES)
WEIGHTS = PREVALENCE**0.5
SIGNALS = (1.2, 1.5)  # standard deviations by which a label raises its score: two checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the intervals of MAP@100.")
    parser.add_argument("--num_images", type=int, nargs="+", default=[1_000, 4_000])
    parser.add_argument("--repeats", type=int, default=1_000)
    parser.add_argument("--bootstrap_repeats", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=100, help="of a bootstrap")
    parser.add_argument("--endless", type=int, default=300_000, help="images of an endless set")
    options = parser.parse_args()
    endless = values_of(*draw(np.random.default_rng(options.repeats), options.endless))
    print(f"endless set: {endless[0]:.4f} and {endless[1]:.4f}; {options.repeats:,} sets of a size")
    for num_images in options.num_images:
        values, errors, paired = simulate(num_images, options.repeats)
        expected = values.mean(axis=0)
        change, unpaired = values[:, 1] - values[:, 0], np.hypot(errors[:, 0], errors[:, 1])
        lines = {
            "one checkpoint": share_held(values, errors, expected),
            "paired difference": share_held(change, paired, change.mean()),
            "difference, pairing forgotten": share_held(change, unpaired, change.mean()),
            "percentile bootstrap": bootstrap(
                num_images, expected[0], options.bootstrap_repeats, options.resamples
            ),
            "endless set: one checkpoint": share_held(values, errors, endless),
            "endless set: paired difference": share_held(change, paired, endless[1] - endless[0]),
        }
        print(f"{num_images:,} images: expected {expected[0]:.4f} and {expected[1]:.4f}")
        for name, share in lines.items():
            print(f"    {name:34}{share:6.3f}", flush=True)


def simulate(num_images: int, repeats: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MAP and its standard error, [sets, 2], and the standard error of the difference, [sets]."""
    values, errors, paired = [], [], []
    for repeat in range(repeats):
        scores, labels = draw(np.random.default_rng(repeat), num_images)
        measured = [Measured.of(accumulated(part, labels), WEIGHTS) for part in scores]
        influences = [of_checkpoint.influence for of_checkpoint in measured]
        values.append([weighted_mean(found.result.class_ap, WEIGHTS) for found in measured])
        errors.append([intervals.standard_error(influence) for influence in influences])
        paired.append(intervals.standard_error(influences[1] - influences[0]))
    return np.array(values), np.array(errors), np.array(paired)


def share_held(values: np.ndarray, errors: np.ndarray, truth: np.ndarray | float) -> float:
    """Share of intervals that hold the truth."""
    return float((np.abs(values - truth) <= intervals.Z * errors).mean())


def draw(rng: np.random.Generator, num_images: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The scores of each checkpoint, float32 [images, classes], and the images' class ids."""
    shape = (num_images, NUM_CLASSES)
    truth = rng.random(shape) < PREVALENCE
    of_image = rng.normal(size=(num_images, 1))  # some images are bright, and score high everywhere
    shared = 0.5 * of_image + rng.normal(size=shape)
    scores = [
        (signal * truth + shared + 0.5 * rng.normal(size=shape)).astype(np.float32)
        for signal in SIGNALS
    ]
    return scores, [np.flatnonzero(row) for row in truth]


def bootstrap(num_images: int, truth: float, repeats: int, resamples: int) -> float:
    """Share of sets whose resampled means hold the truth between their 2.5 and 97.5 percentiles."""
    held = []
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        scores, labels = draw(rng, num_images)
        values = []
        for _ in range(resamples):
            chosen = rng.integers(0, num_images, num_images)
            of_chosen = [labels[image] for image in chosen]
            values += values_of([scores[0][chosen]], of_chosen)
        low, high = np.quantile(values, [0.025, 0.975])
        held.append(low <= truth <= high)
    return float(np.mean(held))


def values_of(scores: list[np.ndarray], labels: list[np.ndarray]) -> list[float]:
    """The weighted mean of D1 of each checkpoint."""
    results = [accumulated(part, labels).result() for part in scores]
    return [weighted_mean(result.class_ap, WEIGHTS) for result in results]


def accumulated(scores: np.ndarray, labels: list[np.ndarray]) -> Accumulator:
    accumulator = Accumulator(NUM_CLASSES, WEIGHTS, K)
    accumulator.update(scores, labels)
    return accumulator


if __name__ == "__main__":
    main()
