"""Reports as an evaluation writes them, of any size, whose numbers are made up."""

import base64
import io

import numpy as np
from PIL import Image

from eval.evaluator import Evaluation
from eval.examples import GROUPS
from eval.influence import Influence
from eval.results import Results

NASTY = "<script>alert(1)</script>"
_VALUES = {
    "map_at_100": 0.4312,
    "prior_map_at_100": 0.0123,
    "top_images_map_at_100": 0.4577,
    "image_map_at_100": 0.5034,
}


def sample(num_classes=60, step=3000, seed=0, shift=0.0):
    """A report over classes `class-0`, …; the last one is called NASTY and has no positive."""
    rng = np.random.default_rng(seed)
    counts = np.sort((1e5 / (1 + np.arange(num_classes)) ** 0.8).astype(int) + 3)[::-1]
    ap = np.clip(0.75 - 0.09 * np.log(1 + np.arange(num_classes)) + shift, 0.02, 0.98)
    ap = np.clip(ap + rng.normal(0, 0.09, num_classes), 0, 1).tolist()
    recall = [min(1.0, value + 0.2) for value in ap]
    positives = np.maximum(1, counts // 400)
    ap[-1] = recall[-1] = None
    positives[-1] = 0
    weights = np.sqrt(counts)
    known = weights[:-1].sum()
    return {
        "format_version": 2,
        "step": step,
        "samples": 32 * step,
        "source": "checkpoint",
        "checkpoint": f"runs/7/checkpoints/step-{step:08d}",
        "checkpoint_sha256": f"{step:064x}",
        "split": "fasteval",
        "parameters": "ema",
        "data": "datasets/jft",
        "data_fingerprint": "of-the-test",
        "class_weights": "datasets/weights.tsv",
        "class_weights_sha256": "ab" * 32,
        "k": 100,
        "score_space": "logits float32",
        "num_images": 14000,
        "num_classes": num_classes,
        "num_classes_with_positives": num_classes - 1,
        "labels_per_image": 36.5,
        "headline": "map_at_100",
        "metrics": metrics_of(shift),
        "classes": {
            "class": [f"class-{n}" for n in range(num_classes)],
            "name": [*(f"Name {n}" for n in range(num_classes - 1)), NASTY],
            "positives": positives.tolist(),
            "training_count": counts.tolist(),
            "weight": weights.tolist(),
            "average_precision": ap,
            "recall": recall,
            "top_images_average_precision": ap,
            "contribution": [
                None if value is None else value * weight / known
                for value, weight in zip(ap, weights.tolist(), strict=True)
            ],
        },
        "calibration": {
            "definition": "Of the predictions in each tenth of the probabilities.",
            "error": 0.0213,
            "bins": [
                {
                    "low": n / 10,
                    "high": (n + 1) / 10,
                    "mean_probability": (n + 0.45) / 10,
                    "observed": min(1.0, (n + 0.2) / 10),
                    "count": int(1e6 / 4**n),
                }
                for n in range(10)
            ],
        },
        "curves": {
            f"class-{n}": {
                "recall": np.linspace(0, 0.5 + n / 12, 12).tolist(),
                "precision": (1 - np.linspace(0, 1, 12) ** (1 + n / 2) * 0.7).tolist(),
            }
            for n in range(min(6, num_classes))
        },
        "written": "2026-11-27T01:00:00Z",
        "seconds": 12.5,
        "versions": {"python": "3.11.2", "numpy": "2.4.0"},
    }


def metrics_of(shift=0.0):
    found = {}
    for name, value in _VALUES.items():
        moved = value if "prior" in name else value + shift
        found[name] = {
            "value": moved,
            "definition": f"The definition of {name}.",
            "interval": [moved - 0.0061, moved + 0.0061],
        }
        found[f"{name}_unweighted"] = {"value": moved - 0.01, "definition": "All alike."}
    for kind, value in (("hit", 0.7), ("precision", 0.6), ("recall", 0.2)):
        for rank in (1, 5, 10, 100):
            found[f"{kind}_at_{rank}"] = {"value": value, "definition": f"The {kind} at {rank}."}
    found["gap_at_20"] = {"value": 0.35, "definition": "The definition of gap_at_20."}
    return found


def examples_of(step):
    """Five images a group, of plain colours."""
    groups = {}
    for group, name in enumerate(GROUPS):
        groups[name] = []
        for n in range(5):
            pixels = np.full((48, 64, 3), (40 * n + 20, 60 * group + 30, 120), np.uint8)
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG")
            groups[name].append(
                {
                    "image_id": f"{name}/{n}",
                    "average_precision": 0.2 * n,
                    "labels": ["class-1", "class-2"],
                    "predictions": [
                        {"class": f"class-{m}", "logit": 2.0 - m, "correct": m in (1, 2)}
                        for m in range(5)
                    ],
                    "jpeg": base64.b64encode(jpeg.getvalue()).decode(),
                }
            )
    return {"step": step, **groups}


def influence_of(seed, num_images=14000):
    """Of as many images as the report has, for a standard error of about 0.0031."""
    values = np.random.default_rng(seed % 7).normal(0, 0.0031 / num_images**0.5, num_images)
    return Influence(tuple(f"image-{n}" for n in range(num_images)), values, values)


def write(folder, num_classes=60, shift=0.0, steps=(1000, 2000, 3000)):
    """Results of a run that was evaluated at some steps; the last one is shown."""
    results = Results(folder)
    for step in steps:
        evaluation = Evaluation(
            sample(num_classes, step, shift=shift),
            examples_of(step),
            influence_of(seed=round(1000 * shift)),
        )
        results.add(evaluation, show=step == steps[-1])
    return results
