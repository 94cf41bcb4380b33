"""TFRecord files of tf.train.Examples: a dataset of ours, to shard it anew, or another project's.

    --images=OUT                              completed splits that beam_runner.py wrote there
    --images='a/*.tfrecord*,b/train-*.gz'     any other files

Features are looked for by usual names. Labels are text, several values or one with delimiters in
it, or numbers, which stand for themselves where no class list says what they mean.
"""

import itertools
from collections.abc import Iterator
from typing import BinaryIO

from pipeline import compressed, example_proto, metadata, schema, storage, tfrecord
from pipeline.labels import Vocabulary
from pipeline.sources import globs
from pipeline.sources.example_rows import Features, LabelFeatures
from pipeline.sources.examples import Dataset, ExampleSource, RecordFile, shards
from pipeline.sources.source import SourceError, SourceOptions

# What a feature is called where no flag names it; the first that is there is taken.
IMAGE_FEATURES = ("image", "image/encoded", "image_raw", "jpg", "encoded_image")
ID_FEATURES = ("image_id", "id", "image/filename", "image/source_id", "key")
LABELS_FEATURES = ("labels", "label", "image/class/label", "image/class/text", "objects/label")
CONFIDENCE_FEATURES = ("confidences", "confidence")  # beside the labels: objects/confidence
SOURCE_FEATURES = ("label_sources", "label_source")

_OWN_FEATURES = {
    schema.IMAGE,
    schema.IMAGE_ID,
    schema.LABELS,
    schema.CONFIDENCES,
    schema.LABEL_SOURCES,
    schema.NEGATIVES,
    schema.NEGATIVE_SOURCES,
}
_GLOB = set("*?[{,")
_SAMPLED_FILES = 8
_SAMPLED_RECORDS = 16  # of each of these files
_COLUMNS = (
    "image_column",
    "labels_column",
    "id_column",
    "confidence_column",
    "label_source_column",
)


class TFRecord(ExampleSource):
    """Reads TFRecord files; see the top of this file."""

    def find(self) -> Dataset:
        """The dataset; raises SourceError."""
        images = self._options.images
        if not _GLOB & set(images) and storage.exists(storage.join(images, metadata.CLASSES_FILE)):
            return _own_dataset(self._options)
        if self._options.source_split:
            raise SourceError(
                f"--source_split={self._options.source_split}: --images={images} is no folder that "
                "beam_runner.py wrote, and has no splits: name the files of one"
            )
        return _any_dataset(self._options)


def _own_dataset(options: SourceOptions) -> Dataset:
    """The completed splits of a folder that beam_runner.py wrote."""
    folder = options.images
    given = [f"--{name}" for name in _COLUMNS if getattr(options, name)]
    if options.split_column not in (None, "split"):
        given.append("--split_column")
    if given:
        raise SourceError(
            f"beam_runner.py wrote {folder}, and knows its features: leave out {', '.join(given)}"
        )
    vocabulary = _vocabulary(folder)
    try:
        wanted = options.source_split
        splits = [wanted] if wanted else metadata.completed_splits(folder)
        markers = [metadata.load_completed(folder, split) for split in splits]
    except metadata.MetadataError as error:
        raise SourceError(str(error)) from error
    files = []
    for split, marker in zip(splits, markers, strict=True):
        lengths = marker["shard_lengths"]
        names = [metadata.shard_file(split, shard, len(lengths)) for shard in range(len(lengths))]
        files += shards(folder, names, lengths, split)
    if not files:
        raise SourceError(f"{folder} has no completed split: finish its beam_runner.py command")
    return Dataset(
        files=tuple(sorted(files)),
        features=_own_features(vocabulary, options),
        num_records=sum(marker["num_examples"] for marker in markers),
        vocabulary=vocabulary,
        fingerprint=" ".join(marker["fingerprint"] for marker in markers),
    )


def _vocabulary(folder: str) -> Vocabulary:
    try:
        return metadata.load_vocabulary(folder)
    except metadata.MetadataError as error:
        raise SourceError(str(error)) from error


def _own_features(vocabulary: Vocabulary | None, options: SourceOptions) -> Features:
    names = vocabulary.classes if vocabulary else None
    positives = LabelFeatures(
        schema.LABELS, schema.CONFIDENCES, schema.LABEL_SOURCES, class_names=names
    )
    negatives = LabelFeatures(
        schema.NEGATIVES, None, schema.NEGATIVE_SOURCES, class_names=names, are_negatives=True
    )
    return Features(schema.IMAGE, schema.IMAGE_ID, (positives, negatives), options.label_delimiter)


def _any_dataset(options: SourceOptions) -> Dataset:
    """The files that globs match."""
    stored = globs.files(options.images, "images")
    files = tuple(RecordFile(path, file) for path, file in stored.items())
    kinds: dict[str, str] = {}
    num_sampled = num_bytes = 0
    for record in _sample(files):
        try:
            found = example_proto.features(record)
        except example_proto.ExampleError:
            continue
        kinds |= {name: feature.kind or kinds.get(name, "") for name, feature in found.items()}
        num_sampled += 1
        num_bytes += tfrecord.FRAME_BYTES + len(record)
    if not kinds:
        raise SourceError(
            f"--images={options.images}: the first records of {files[0].path} are no "
            "tf.train.Example: are these TFRecord files?"
        )
    vocabulary = None
    if kinds.keys() >= _OWN_FEATURES and not any(getattr(options, name) for name in _COLUMNS):
        folder = files[0].path.rpartition("/")[0]
        if storage.exists(storage.join(folder, metadata.CLASSES_FILE)):
            vocabulary = _vocabulary(folder)
        features = _own_features(vocabulary, options)
    else:
        features = _find_features(kinds, options)
    total_bytes = sum(file.stored.num_bytes for file in files)
    num_records = max(1, round(total_bytes * num_sampled / num_bytes))
    return Dataset(files, features, num_records, vocabulary)


def _sample(files: tuple[RecordFile, ...]) -> Iterator[bytes]:
    """The first records of some of the files."""
    readable = [file.path for file in files if file.stored.num_bytes]
    for path in readable[:: max(1, -(-len(readable) // _SAMPLED_FILES))]:
        with compressed.open_to_read(path) as stream:
            yield from _first_records(stream)


def _first_records(stream: BinaryIO) -> Iterator[bytes]:
    try:
        for found in itertools.islice(tfrecord.scan(stream), _SAMPLED_RECORDS):
            if isinstance(found, tfrecord.Record):
                yield found.data
    except compressed.DAMAGE as error:
        storage.raise_if_not_damage(error)


def _find_features(kinds: dict[str, str], options: SourceOptions) -> Features:
    """What to read of records that have features of these kinds; raises SourceError."""
    found = "Features found: " + ", ".join(f"{name} ({kinds[name]})" for name in sorted(kinds))

    def find(what: str, usual: tuple[str, ...], *usual_kinds: str) -> str | None:
        wanted = getattr(options, f"{what}_column")
        if wanted is not None and wanted not in kinds:
            raise SourceError(f"{options.images}: no feature {wanted!r} (--{what}_column). {found}")
        return wanted or next((name for name in usual if kinds.get(name) in usual_kinds), None)

    def need(what: str, usual: tuple[str, ...], *usual_kinds: str) -> str:
        feature = find(what, usual, *usual_kinds)
        if feature is None:
            raise SourceError(
                f"{options.images}: no feature for the {what}: name it with --{what}_column. "
                f"{found}; usual names: {', '.join(usual)}"
            )
        return feature

    text, number, empty = example_proto.BYTES, example_proto.INT64, ""
    labels = need("labels", LABELS_FEATURES, text, number, empty)
    beside = labels[: labels.rfind("/") + 1]
    confidences = (beside + name for name in CONFIDENCE_FEATURES)
    sources = (beside + name for name in SOURCE_FEATURES)
    group = LabelFeatures(
        labels,
        find("confidence", tuple(confidences), example_proto.FLOAT),
        find("label_source", tuple(sources), text),
    )
    return Features(
        image=need("image", IMAGE_FEATURES, text),
        image_id=find("id", ID_FEATURES, text, number),
        labels=(group,),
        label_delimiter=options.label_delimiter,
        split=find("split", ()),
    )
