"""What a report's page shows besides the evaluation itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from eval import comparison
from eval.evaluation_set import EvaluationError, EvaluationSet
from eval.evaluator import FORMAT_VERSION
from eval.results import Results
from pipeline import metadata
from pipeline.hierarchy import Hierarchy

_COMPARED = ("data_fingerprint", "class_weights_sha256", "k")  # must agree for a difference


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A training run, a hierarchy and another evaluation, each where there is one."""

    run_dir: Path | None = None  # its metrics.jsonl holds the training loss
    hierarchy: Hierarchy | None = None
    compared: Results | None = None  # another evaluation, of the same images and classes

    @classmethod
    def read(
        cls,
        run_dir: str | None,
        hierarchy: str | None,
        compared: str | None,
        evaluation_set: EvaluationSet,
    ) -> Surroundings:
        """From a run's folder, a file with a hierarchy, and another folder of results.

        Without such a file the hierarchy is the one that closed the labels of the split, if any.
        Raises LabelError, MetadataError, OSError where a file cannot be read, ComparisonError where
        the other results are none, or EvaluationError where they are of other images, weights or
        classes.
        """
        found = Results(compared) if compared else None
        if found:
            _check_comparable(evaluation_set, found)
        return cls(
            Path(run_dir) if run_dir else None,
            _hierarchy(hierarchy, evaluation_set),
            found,
        )


def _hierarchy(path: str | None, evaluation_set: EvaluationSet) -> Hierarchy | None:
    if path is not None:
        return Hierarchy.parse(Path(path).read_bytes(), path)
    if evaluation_set.manifest is not None:
        return None
    return metadata.load_hierarchy(evaluation_set.data, evaluation_set.split.name)


def _check_comparable(evaluation_set: EvaluationSet, compared: Results) -> None:
    other = comparison.read(str(compared.folder)).report
    if (version := other.get("format_version")) != FORMAT_VERSION:
        raise EvaluationError(
            f"{compared.report_path} is of format version {version}, and this code reads version "
            f"{FORMAT_VERSION}. Evaluate it again."
        )
    conditions = evaluation_set.conditions("")
    differing = [key for key in _COMPARED if other[key] != conditions[key]]
    if tuple(other["classes"]["class"]) != evaluation_set.vocabulary.classes:
        differing.append("class list")
    if differing:
        raise EvaluationError(
            f"The evaluation in {compared.folder} cannot be compared with: its "
            f"{', '.join(differing)} differ. Evaluate both on the same images with the same "
            "weights."
        )
