"""What a finished dataset folder says about itself: its class list, splits, and TFDS metadata.

    OUT/features.json, dataset_info.json,                     for tfds.builder_from_directory(OUT)
        labels.labels.txt, negatives.labels.txt
    OUT/classes.tsv                                           the class list of every split
    OUT/<split>.completed.json                                written last: the split is whole
    OUT/<split>.class_counts.tsv, <split>.dead_letters.csv, <split>.duplicates.csv
    OUT/<split>.contents.csv                                  of evaluation splits
    OUT/<split>.hierarchy.csv                                 where a hierarchy closed the labels
    OUT/report.html                                           all splits, to look at
    OUT/images-<split>.tfrecord-00000-of-00016                the shards
    OUT/commits/<split>/                                      a commit a shard; see sharding.py

Reading needs neither Beam nor TensorFlow, and works on local folders and object stores.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import numpy as np
from etils import epath

from pipeline import labels, schema
from pipeline.hierarchy import Hierarchy

DATASET_NAME = "images"  # TFDS begins the shards' names with it
DATASET_VERSION = "1.0.0"
CLASSES_FILE = "classes.tsv"
TFDS_FILES = (
    "dataset_info.json",
    "features.json",
    *(f"{feature}.labels.txt" for feature in (schema.LABELS, schema.NEGATIVES)),
)
_COMPLETED_SUFFIX = ".completed.json"
# What the completed marker must say to be read.
_MARKER_TYPES = {"split": str, "num_examples": int, "shard_lengths": list, "fingerprint": str}


_More = ParamSpec("_More")
_Loaded = TypeVar("_Loaded")
_REPAIR = "delete this file and start the beam_runner.py command of the split again"


class MetadataError(ValueError):
    """A dataset folder that cannot be read; says what is missing and what is there."""


class UnreachableError(MetadataError):
    """A store that does not answer now; starting again may help."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One finished split of a dataset."""

    name: str
    num_examples: int
    shard_paths: tuple[str, ...]
    shard_lengths: tuple[int, ...]  # examples in each shard
    class_counts: np.ndarray  # int64 [num_classes]
    fingerprint: str  # of the inputs and the recipe that made it


def shard_file(split: str, shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS names it."""
    return f"{DATASET_NAME}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def is_remote(path: epath.PathLike) -> bool:
    """Whether this is an address of a store, and no local path."""
    return "://" in os.fspath(path)


def shard_commit(shard_path: str) -> str:
    """The path of the commit of a shard, which holds its `sha256` and `num_bytes`."""
    folder, _, name = shard_path.rpartition("/")
    split, _, number = name.removeprefix(f"{DATASET_NAME}-").rpartition(".tfrecord-")
    return f"{folder}/commits/{split}/{number}.json"


def completed_file(split: str) -> str:
    """File name of the marker that says a split is whole."""
    return split + _COMPLETED_SUFFIX


def class_counts_file(split: str) -> str:
    return f"{split}.class_counts.tsv"


def dead_letters_file(split: str) -> str:
    return f"{split}.dead_letters.csv"


def duplicates_file(split: str) -> str:
    """File name of the list of images that were taken out, since others have their content."""
    return f"{split}.duplicates.csv"


def contents_file(split: str) -> str:
    """File name of the list of contents of an evaluation split, which training keeps out."""
    return f"{split}.contents.csv"


def hierarchy_file(split: str) -> str:
    """File name of the label hierarchy that closed a split's labels."""
    return f"{split}.hierarchy.csv"


def split_files(split: str) -> tuple[str, ...]:
    """File names of what stands beside the shards of a split, its marker apart."""
    kinds = (
        class_counts_file,
        dead_letters_file,
        duplicates_file,
        contents_file,
        hierarchy_file,
    )
    return tuple(kind(split) for kind in kinds)


def _in_words(
    load: Callable[Concatenate[epath.PathLike, _More], _Loaded],
) -> Callable[Concatenate[epath.PathLike, _More], _Loaded]:
    """Says what goes wrong with a store as MetadataError: its errors are those of its libraries."""

    @functools.wraps(load)
    def loaded(data_dir: epath.PathLike, *more: _More.args, **named: _More.kwargs) -> _Loaded:
        try:
            return load(data_dir, *more, **named)
        except MetadataError:
            raise
        except Exception as error:
            if not is_remote(data_dir):
                raise
            if isinstance(error, (ImportError, PermissionError)):
                raise MetadataError(f"{data_dir} cannot be read: {error}") from error
            what = f"{type(error).__name__}: {error}"
            raise UnreachableError(f"{data_dir} cannot be reached: {what}") from error

    return loaded


@_in_words
def load_vocabulary(data_dir: epath.PathLike) -> labels.Vocabulary:
    """The class list of a dataset folder; raises MetadataError."""
    path = _existing_dir(data_dir) / CLASSES_FILE
    if not path.exists():
        raise MetadataError(
            f"{path} does not exist: {data_dir} is not a dataset that beam_runner.py wrote"
        )
    try:
        return labels.Vocabulary.read(path)
    except (labels.LabelError, OSError) as error:
        raise MetadataError(str(error)) from error


@_in_words
def load_completed(data_dir: epath.PathLike, split: str) -> dict[str, Any]:
    """The completed marker of a split; raises MetadataError."""
    folder = _existing_dir(data_dir)
    path = folder / completed_file(split)
    if not path.exists():
        present = ", ".join(completed_splits(folder)) or "none"
        started = (folder / "commits" / split).exists()
        raise MetadataError(
            f"split {split!r} of {data_dir} is not completed: start its beam_runner.py command "
            f"again to finish it. Completed splits: {present}"
            if started
            else f"{data_dir} has no split {split!r}. Completed splits: {present}"
        )
    try:
        completed = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        completed = None
    if not is_marker(completed):
        raise MetadataError(f"{path} is damaged: {_REPAIR}")
    version = completed.get("format_version")
    if version != schema.FORMAT_VERSION:
        raise MetadataError(
            f"{path}: format version {version}, but this code reads version "
            f"{schema.FORMAT_VERSION}; write the split again with --overwrite"
        )
    return completed


def is_marker(found: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is what a completed marker holds."""
    if not isinstance(found, dict):
        return False
    has_types = all(isinstance(found.get(key), kind) for key, kind in _MARKER_TYPES.items())
    return has_types and all(isinstance(length, int) for length in found["shard_lengths"])


@_in_words
def load_split(data_dir: epath.PathLike, split: str) -> Split:
    """A finished split: its shards, counts and fingerprint; raises MetadataError."""
    completed = load_completed(data_dir, split)
    folder = epath.Path(data_dir)
    shard_lengths = tuple(completed["shard_lengths"])
    shard_paths = tuple(
        os.fspath(folder / shard_file(split, shard, len(shard_lengths)))
        for shard in range(len(shard_lengths))
    )
    present = {path.name for path in folder.iterdir()}  # one question to a store, not thousands
    missing = [path for path in shard_paths if os.path.basename(path) not in present]
    if missing:
        raise MetadataError(
            f"{len(missing)} of {len(shard_paths)} shards of split {split!r} are gone, "
            f"the first is {missing[0]}: start the beam_runner.py command of the split again"
        )
    counts_path = folder / class_counts_file(split)
    try:
        class_counts = labels.read_class_counts(counts_path, load_vocabulary(data_dir))
    except (labels.LabelError, OSError) as error:
        raise MetadataError(
            f"the class counts of split {split!r}: {error}; delete {counts_path} and start the "
            "beam_runner.py command of the split again"
        ) from error
    return Split(
        name=split,
        num_examples=completed["num_examples"],
        shard_paths=shard_paths,
        shard_lengths=shard_lengths,
        class_counts=class_counts,
        fingerprint=completed["fingerprint"],
    )


@_in_words
def load_hierarchy(data_dir: epath.PathLike, split: str) -> Hierarchy | None:
    """The hierarchy that closed a split's labels; None where none did. Raises MetadataError."""
    path = epath.Path(data_dir) / hierarchy_file(split)
    if not path.exists():
        return None
    try:
        return Hierarchy.parse(path.read_bytes(), path)
    except (labels.LabelError, OSError) as error:
        raise MetadataError(
            f"the hierarchy of split {split!r}: {error}; delete {path} and start the "
            "beam_runner.py command of the split again"
        ) from error


def completed_splits(data_dir: epath.PathLike) -> list[str]:
    """Names of the finished splits, sorted."""
    markers = epath.Path(data_dir).glob("*" + _COMPLETED_SUFFIX)
    return sorted(path.name.removesuffix(_COMPLETED_SUFFIX) for path in markers)


def tfds_files(vocabulary: labels.Vocabulary, splits: list[dict[str, Any]]) -> dict[str, str]:
    """The TFDS metadata, as text by file name, for the completed markers `splits`."""
    from google.protobuf import json_format  # type: ignore[import-untyped]

    dataset_info = {
        "name": DATASET_NAME,
        "version": DATASET_VERSION,
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split["split"],
                "shardLengths": [str(length) for length in split["shard_lengths"]],
                "numBytes": str(split["num_bytes"]),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split in sorted(splits, key=lambda split: split["split"])
        ],
    }
    class_names = "\n".join(vocabulary.classes) + "\n"  # TFDS looks for a file a feature
    texts = (
        json.dumps(dataset_info, indent=2) + "\n",
        json_format.MessageToJson(_tfds_features(vocabulary).to_proto(), sort_keys=True) + "\n",
        class_names,
        class_names,
    )
    return dict(zip(TFDS_FILES, texts, strict=True))


def _tfds_features(vocabulary: labels.Vocabulary) -> Any:
    """The FeaturesDict of a record: pipeline.schema, as TFDS says it."""
    from tensorflow_datasets import features  # half a second; does not import TensorFlow

    classes = features.ClassLabel(names=list(vocabulary.classes))
    return features.FeaturesDict(
        {
            schema.IMAGE: features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            schema.IMAGE_ID: features.Text(),
            schema.LABELS: features.Sequence(classes),
            schema.CONFIDENCES: features.Sequence(np.float32),
            schema.LABEL_SOURCES: features.Sequence(features.Text()),
            schema.NEGATIVES: features.Sequence(classes),
            schema.NEGATIVE_SOURCES: features.Sequence(features.Text()),
        }
    )


def _existing_dir(data_dir: epath.PathLike) -> epath.Path:
    folder = epath.Path(data_dir)
    if not folder.is_dir():
        raise MetadataError(f"no dataset folder {data_dir}")
    return folder
