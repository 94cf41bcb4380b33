"""A dataset that TFDS prepared, as TFRecords: by the name of its builder, or by its directory.

    --images=open_images_v4/200k:2.0.0        below TFDS_DATA_DIR, or ~/tensorflow_datasets
    --images=/data/cifar10/3.0.2              the directory that holds features.json

Its two JSON files are read directly: neither TFDS nor TensorFlow is imported, and no code that a
dataset names. What a feature is called is what TFDS calls it, with `/` below a dict or a sequence:
objects/label. Integer confidences count from 0 to 10, as those of open_images_v4.
"""

import glob
import os
import re
from typing import Any

from pipeline import metadata, storage
from pipeline.labels import Vocabulary, fault_of_key
from pipeline.sources import tfds_features
from pipeline.sources.example_rows import Features
from pipeline.sources.examples import Dataset, ExampleSource, RecordFile, shards
from pipeline.sources.source import SourceError

_INFO_FILE, _FEATURES_FILE = "dataset_info.json", "features.json"
_FORMAT = "tfrecord"
_FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w./-]+))?(:(?P<version>[\d.*]+))?", re.ASCII)


class Tfds(ExampleSource):
    """Reads a TFDS dataset; see the top of this file."""

    def find(self) -> Dataset:
        """The dataset; raises SourceError."""
        folder = _find_folder(self._options.images)
        info = _read_json(storage.join(folder, _INFO_FILE))
        content = _read_json(storage.join(folder, _FEATURES_FILE))
        if storage.exists(storage.join(folder, metadata.CLASSES_FILE)):
            raise SourceError(f"beam_runner.py wrote {folder}: read it with --source=tfrecord")
        try:
            features = tfds_features.find(content, info, folder, self._options)
            files = _files(folder, info, self._options.source_split)
        except SourceError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise SourceError(
                f"{folder}: {_INFO_FILE} or {_FEATURES_FILE} is not as TFDS writes it: {error!r}"
            ) from error
        return Dataset(
            files=tuple(sorted(files)),
            features=features,
            num_records=sum(file.num_records or 0 for file in files),
            vocabulary=_vocabulary(folder, features),
        )


def _vocabulary(folder: str, features: Features) -> Vocabulary | None:
    names = features.labels[0].class_names
    for name in names or ():
        fault = fault_of_key(name)
        if fault:
            raise SourceError(f"{folder}: {features.labels[0].labels}: {fault}")
    return Vocabulary(names, names) if names else None


def _find_folder(images: str) -> str:
    """The directory of a dataset; raises SourceError."""
    if storage.exists(storage.join(images, _INFO_FILE)):
        return images
    parsed = _NAME.fullmatch(images)
    if parsed is None:
        raise SourceError(
            f"--images={images}: neither a directory with {_INFO_FILE}, nor the name of a TFDS "
            f"dataset, such as open_images_v4/200k:2.0.0{_listed(images)}"
        )
    data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    folder = storage.join(data_dir, parsed["name"], *filter(None, [parsed["config"]]))
    version = parsed["version"] or "*"
    found = storage.match(storage.join(folder, version, _INFO_FILE))
    if not found:
        raise SourceError(
            f"--images={images}: {data_dir} has no such dataset: prepare it with `tfds build "
            f"{images}`, or set TFDS_DATA_DIR, or give its directory{_listed(folder)}"
        )
    return max((path.rpartition("/")[0] for path in found), key=_version)


def _version(folder: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.rpartition("/")[2])]


def _listed(folder: str) -> str:
    """The datasets below a local folder, or below one in it, for a message."""
    levels = (("*",), ("*", "*")) if storage.is_local(folder) else ()
    found = [
        path for level in levels for path in glob.glob(os.path.join(folder, *level, _INFO_FILE))
    ]
    return f". Found: {', '.join(sorted(map(os.path.dirname, found)))}" if found else ""


def _read_json(path: str) -> dict[str, Any]:
    found = storage.read_json(path)
    if found is None:
        raise SourceError(
            f"{path} is missing or damaged: prepare the dataset anew, with TFDS 4 or later"
        )
    return found


def _files(folder: str, info: dict[str, Any], wanted: str | None) -> list[RecordFile]:
    formats = [info.get("fileFormat") or _FORMAT, *info.get("alternativeFileFormats", ())]
    if _FORMAT not in formats:
        raise SourceError(
            f"{folder} is stored as {formats[0]}: make TFRecords of it with `tfds convert_format "
            f"--dataset_version_dir={folder} --out_file_format={_FORMAT} --out_dir=…`"
        )
    splits = {split["name"]: split for split in info.get("splits", ())}
    if wanted is not None and wanted not in splits:
        raise SourceError(
            f"{folder} has no split {wanted!r} (--source_split). "
            f"Splits: {', '.join(splits) or 'none'}"
        )
    files = []
    for name, split in splits.items():
        if wanted in (None, name):
            lengths = [int(length) for length in split.get("shardLengths", ())]
            template = split.get("filepathTemplate") or _FILE_TEMPLATE
            files += shards(
                folder, _shard_names(template, info["name"], name, len(lengths)), lengths, name
            )
    if not files:
        raise SourceError(f"{folder} has no examples")
    return files


def _shard_names(template: str, dataset: str, split: str, num_shards: int) -> list[str]:
    values = {"DATASET": dataset, "SPLIT": split, "FILEFORMAT": _FORMAT}
    pattern = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
    width = max(5, len(str(num_shards)))
    total = f"{num_shards:0{width}d}"
    indices = [f"{shard:0{width}d}" for shard in range(num_shards)]
    return [
        pattern.replace("{SHARD_X_OF_Y}", f"{index}-of-{total}")
        .replace("{SHARD_INDEX}", index)
        .replace("{NUM_SHARDS}", total)
        for index in indices
    ]
