"""The direction of imports, and what must not be imported at all (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("pipeline", "model", "eval", "beam_runner", "benchmarks", "tests")

# What a part may import of the others.
ALLOWED = {
    "pipeline": set(),
    "model": {
        "pipeline.schema",
        "pipeline.labels",
        "pipeline.metadata",
        "pipeline.tfrecord",
        "pipeline.cores",
    },
    "eval": {
        "model",
        "pipeline.schema",
        "pipeline.labels",
        "pipeline.metadata",
        "pipeline.figures",  # the look of both reports
        "pipeline.page",
        "pipeline.hierarchy",  # subtrees of the report
        "pipeline.local_runner",  # the engines, for bulk inference
        "pipeline.beam_options",
        "pipeline.sharding",
        "pipeline.storage",  # its results in object stores
        # ground truth without TensorFlow: shards, and label files as the pipeline reads them
        "pipeline.tfrecord",
        "pipeline.cores",
        "pipeline.sources",
        "pipeline.rows",
        "pipeline.records",
        "pipeline.annotations",
    },
    "beam_runner": {"pipeline"},
}
METRICS = (
    "average_precision",
    "baselines",
    "calibration",
    "curves",
    "influence",
    "intervals",
    "ranking",
    "retrieval",
    "top_predictions",
    "uncut",
)
NETWORKS = ("xception", "inception_v3", "vgg_separable", "layers", "heads")


def _imports(path):
    """Every module that a file imports, anywhere in it: `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _files(part):
    return [ROOT / f"{part}.py"] if part == "beam_runner" else sorted((ROOT / part).rglob("*.py"))


def _is_within(module, allowed):
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part):
    files = _files(part)
    assert files
    for path in files:
        for module in _imports(path):
            owner = module.split(".")[0]
            if owner in PARTS and owner != part:
                assert _is_within(module, ALLOWED[part]), f"{path} imports {module}"


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_keras_alone(name):
    modules = _imports(ROOT / "model" / f"{name}.py")
    allowed = {"keras", "numpy", "model.heads", "model.layers", "model.fused_batch_norm"}
    assert all(_is_within(module, allowed) for module in modules), modules


@pytest.mark.parametrize("name", METRICS)
def test_the_metrics_are_numpy_alone(name):
    modules = _imports(ROOT / "eval" / f"{name}.py")
    allowed = {"numpy", *(f"eval.{name}" for name in METRICS), *sys.stdlib_module_names}
    assert all(_is_within(module, allowed) for module in modules), modules


@pytest.mark.parametrize(
    "module",
    [
        "beam_runner",
        "pipeline.job",
        "pipeline.verify",
        "pipeline.report",
        "pipeline.synthetic",
        "pipeline.metadata",
        "model.train",
        "model.launch.__main__",
        "model.predict",
        "eval.evaluate",
        "eval.beam_job",
        "eval.class_weights",
    ],
)
def test_tensorflow_is_not_imported_before_it_is_needed(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0


def test_no_module_is_a_bag_of_odds_and_ends():
    names = {path.stem for part in ALLOWED for path in _files(part)}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
