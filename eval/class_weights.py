"""Class weights: how much each class counts in a weighted mean. A TSV file of class and weight.

    python -m eval.class_weights --counts=class_counts.tsv --power=0.5 --output=weights.tsv

makes such a file from a table of counts: weight = count ** power.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from pipeline import labels
from pipeline.labels import Vocabulary

_HEADER = ["class", "weight"]
_MAX_WEIGHT = 1e303  # the sum of 100,000 larger ones would overflow
_EXIT_USAGE = 2


class ClassWeightsError(ValueError):
    """A file of class weights that cannot be used; the message names its first mistakes."""


def read(path: str | Path, vocabulary: Vocabulary) -> np.ndarray:
    """The weight of every class, float64 [num_classes], in the order of the vocabulary.

    Raises ClassWeightsError: no such file; a class that is unknown, stands twice or is absent; a
    weight that is negative or no finite number.
    """
    weights = np.full(len(vocabulary), np.nan)
    mistakes = []
    for line_number, cells in _rows(Path(path)):
        mistake = _read_row(cells, vocabulary, weights)
        if mistake:
            mistakes.append(f"line {line_number}: {mistake}")
    if not mistakes:
        absent = [vocabulary.classes[class_id] for class_id in np.flatnonzero(np.isnan(weights))]
        mistakes = [f"class {key!r} of the class list has no weight" for key in absent]
    if mistakes:
        shown = "".join(f"\n  {mistake}" for mistake in mistakes[:5])
        more = f"\n  and {len(mistakes) - 5:,} more" if len(mistakes) > 5 else ""
        raise ClassWeightsError(
            f"{path}: the weights do not fit the {len(vocabulary):,} classes of the data:"
            f"{shown}{more}\nEvery class needs one line with a weight of 0 or more."
        )
    return weights


def write(path: str | Path, vocabulary: Vocabulary, weights: np.ndarray) -> None:
    """Writes the weights so that `read` returns the same numbers."""
    lines = ["\t".join(_HEADER)]
    lines += [
        f"{key}\t{float(weight)!r}" for key, weight in zip(vocabulary.classes, weights, strict=True)
    ]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def from_counts(counts: np.ndarray, power: float) -> np.ndarray:
    """count ** power, float64; a power of 0 weighs all classes alike, seen or not."""
    return counts.astype(np.float64) ** power


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The lines below the header with their numbers, from 1; blank lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ClassWeightsError(f"{path}: the class weights cannot be read: {error}.") from error
    if [cell.strip() for cell in lines[0].split("\t")] != _HEADER:
        raise ClassWeightsError(
            f"{path}: line 1 must be the header 'class<TAB>weight'. "
            f"Received: {lines[0] or 'an empty file'!r}."
        )
    rows = enumerate((line.split("\t") for line in lines[1:]), start=2)
    return [(number, [cell.strip() for cell in cells]) for number, cells in rows if any(cells)]


def _read_row(cells: list[str], vocabulary: Vocabulary, weights: np.ndarray) -> str | None:
    """Puts a row's weight in its place; returns what is wrong with the row, or None."""
    if len(cells) != 2:
        return f"expected a class and a weight with one tab between. Received: {cells}"
    key, text = cells
    class_id = vocabulary.index.get(key)
    if class_id is None:
        return f"class {key!r} is not in the class list"
    if not np.isnan(weights[class_id]):
        return f"class {key!r} has a weight already"
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= _MAX_WEIGHT:
        return (
            f"the weight of class {key!r} must be a number from 0 to {_MAX_WEIGHT:g}. "
            f"Received: {text!r}"
        )
    weights[class_id] = weight
    return None


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.class_weights",
        description="Make a file of class weights from a table of counts: count ** power.",
        epilog="example: python -m eval.class_weights --counts=run/class_counts.tsv --power=0.5 "
        "--output=weights.tsv",
    )
    parser.add_argument("--counts", required=True, help="TSV with the columns class and count")
    parser.add_argument(
        "--power",
        type=float,
        default=1.0,
        help="1: by frequency (default); 0.5: by its root; 0: all classes alike",
    )
    parser.add_argument("--output", required=True, help="file to write")
    options = parser.parse_args(argv)
    if not (math.isfinite(options.power) and options.power >= 0):
        parser.error(f"--power must be a finite number, 0 or more. Received: {options.power}")
    try:
        vocabulary = Vocabulary.read(options.counts)
        counts = labels.read_class_counts(options.counts, vocabulary)
        write(options.output, vocabulary, from_counts(counts, options.power))
    except (labels.LabelError, OSError) as error:
        print(f"eval.class_weights: {error}", file=sys.stderr)
        return _EXIT_USAGE
    print(f"{options.output}: {len(vocabulary):,} weights, count ** {options.power:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
