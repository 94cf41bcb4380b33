"""The features of a TFDS dataset, from its features.json: which one is the image, the labels, ...

The file has two forms, of TFDS since 4.3 and before; only what says how the records are is read.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.sources.example_rows import Features, LabelFeatures
from pipeline.sources.source import SourceError, SourceOptions

ID_FEATURES = (
    "image_id", "id", "image/id", "image/filename", "file_name", "filename", "image/source_id",
    "key",
)  # fmt: skip
# What stands beside the labels: objects/confidence beside objects/label.
CONFIDENCE_FEATURES = ("confidence", "confidences")
SOURCE_FEATURES = ("label_source", "label_sources")
NESTED_SOURCE_FEATURES = (*SOURCE_FEATURES, "source", "sources")  # at the top they are the image's

_FULL_CONFIDENCE = 10  # of integers

_DICT, _SEQUENCE = "featuresDict", "sequence"
_CLASS_LABEL, _IMAGE, _TEXT, _TENSOR = "classLabel", "image", "text", "tensor"
_KINDS = {
    "FeaturesDict": _DICT,
    "Sequence": _SEQUENCE,
    "Dataset": _SEQUENCE,
    "ClassLabel": _CLASS_LABEL,
    "Image": _IMAGE,
    "Text": _TEXT,
    "Tensor": _TENSOR,
    "Scalar": _TENSOR,
}


class _Leaf(NamedTuple):
    """A feature that is stored."""

    parts: tuple[str, ...]  # its name, from the top dict down
    kind: str
    dtype: str  # "" where the kind has one alone
    rank: int  # sequences around it
    num_classes: int | None

    @property
    def name(self) -> str:
        return "/".join(self.parts)

    @property
    def key(self) -> str:
        """Its name in the records."""
        return f"{self.name}/ragged_flat_values" if self.rank > 1 else self.name

    @property
    def is_encoded_image(self) -> bool:
        return self.kind == _IMAGE and not self.rank and not self.dtype.startswith("float")

    @property
    def is_text(self) -> bool:
        return self.kind == _TEXT or (self.kind == _TENSOR and self.dtype in ("string", "object"))

    @property
    def is_integer(self) -> bool:
        return self.kind == _TENSOR and self.dtype.lstrip("u").startswith("int")

    def __str__(self) -> str:
        kind = f"{self.dtype} {self.kind}".strip()
        return f"{self.name} ({'sequence of ' * self.rank}{kind})"


def find(
    content: dict[str, Any], info: dict[str, Any], folder: str, options: SourceOptions
) -> Features:
    """What to read of the records, given features.json and dataset_info.json; raises SourceError.

    KeyError, TypeError or AttributeError where the files are not as TFDS writes them.
    """
    leaves = {leaf.name: leaf for leaf in _leaves(content, (), 0)}
    inputs, outputs = _supervised_keys(info.get("supervisedKeys", {}))
    mapping = _Mapping(folder, leaves, options)
    return Features(
        image=mapping.image(inputs).key,
        image_id=mapping.image_id(),
        labels=(mapping.labels(outputs),),
        label_delimiter=options.label_delimiter,
        split=mapping.split(),
    )


class _Mapping(NamedTuple):
    """Finds the features that are wanted, by the flags or by what they are."""

    folder: str
    leaves: dict[str, _Leaf]
    options: SourceOptions

    def image(self, preferred: set[str]) -> _Leaf:
        named = self._named("image")
        if named is None:
            images = [leaf for leaf in self.leaves.values() if leaf.is_encoded_image]
            return self._single("image", "an encoded image", images, preferred)
        if named.is_encoded_image or (named.is_text and not named.rank):
            return named
        raise SourceError(f"{self.folder}: --image_column={named} is no encoded image")

    def labels(self, preferred: set[str]) -> LabelFeatures:
        labels = self._named("labels")
        if labels is None:
            class_labels = [leaf for leaf in self.leaves.values() if leaf.kind == _CLASS_LABEL]
            about_others = {
                leaf.parts
                for leaf in class_labels
                if leaf.parts[-1] in NESTED_SOURCE_FEATURES and leaf.parts[:-1]
            }
            candidates = [leaf for leaf in class_labels if leaf.parts not in about_others]
            labels = self._single("labels", "a ClassLabel", candidates, preferred)
        elif not (labels.kind == _CLASS_LABEL or labels.is_text or labels.is_integer):
            raise SourceError(f"{self.folder}: --labels_column={labels} holds no labels")
        nested = len(labels.parts) > 1
        source_names = NESTED_SOURCE_FEATURES if nested else SOURCE_FEATURES
        confidences = self._named("confidence") or self._beside(labels, CONFIDENCE_FEATURES)
        sources = self._named("label_source") or self._beside(labels, source_names)
        return LabelFeatures(
            labels.key,
            confidences.key if confidences else None,
            sources.key if sources else None,
            class_names=self._class_names(labels),
            source_names=self._class_names(sources) if sources else None,
            full_confidence=_FULL_CONFIDENCE,
        )

    def image_id(self) -> str | None:
        named = self._named("id")
        if named is None:
            fitting = [
                leaf
                for name in ID_FEATURES
                if (leaf := self.leaves.get(name)) and (leaf.is_text or leaf.is_integer)
            ]
            named = next((leaf for leaf in fitting if not leaf.rank), None)
        return named.key if named else None

    def split(self) -> str | None:
        """The split column; `split` is the dataset's own split where no feature is called so."""
        if self.options.split_column == "split" and "split" not in self.leaves:
            return None
        named = self._named("split")
        return named.key if named else None

    def _named(self, what: str) -> _Leaf | None:
        """The feature that a flag names."""
        name = getattr(self.options, f"{what}_column")
        if name is None or name in self.leaves:
            return self.leaves.get(name)
        raise SourceError(
            f"{self.folder}: no feature {name!r} (--{what}_column). "
            f"Features: {_listed(self.leaves.values())}"
        )

    def _single(
        self, what: str, kind: str, candidates: Sequence[_Leaf], preferred: set[str]
    ) -> _Leaf:
        """The only candidate; among several the one that the dataset itself prefers."""
        supervised = [leaf for leaf in candidates if leaf.name in preferred]
        for choice in (candidates, supervised):
            if len(choice) == 1:
                return choice[0]
        found = (
            f"several features are {kind}: {_listed(candidates)}"
            if candidates
            else f"no feature is {kind}. Features: {_listed(self.leaves.values())}"
        )
        raise SourceError(f"{self.folder}: {found}: name the {what} with --{what}_column")

    def _beside(self, labels: _Leaf, names: Sequence[str]) -> _Leaf | None:
        found = ("/".join((*labels.parts[:-1], name)) for name in names)
        return next((self.leaves[name] for name in found if name in self.leaves), None)

    def _class_names(self, leaf: _Leaf) -> tuple[str, ...] | None:
        if leaf.kind != _CLASS_LABEL:
            return None
        file = "-".join(part.replace("/", ".") for part in leaf.parts) + ".labels.txt"
        path = storage.join(self.folder, file)
        if storage.exists(path):
            lines = storage.read_text(path).split("\n")
            return tuple(name.strip() for name in lines if name.strip())
        return None if leaf.num_classes is None else tuple(map(str, range(leaf.num_classes)))


def _listed(leaves: Any) -> str:
    return ", ".join(map(str, leaves)) or "none"


def _leaves(node: dict[str, Any], parts: tuple[str, ...], rank: int) -> Iterator[_Leaf]:
    kind, content = _kind(node)
    if kind == _DICT:
        for name, child in content.items():
            yield from _leaves(child, (*parts, name), rank)
    elif kind == _SEQUENCE:
        yield from _leaves(content["feature"], parts, rank + 1)
    else:
        num_classes = content.get("numClasses", content.get("num_classes"))
        num_classes = None if num_classes is None else int(num_classes)
        yield _Leaf(parts, kind, content.get("dtype") or "", rank, num_classes)


def _kind(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a feature is, and its own fields: of a dict, its features by name."""
    class_name = (node.get("type") or node["pythonClassName"]).rpartition(".")[2]
    is_message = True  # the content is that of TFDS's protocol buffer
    if "type" in node:
        content, kind = node["content"], class_name
        is_message = bool(node.get("proto_cls"))
    else:
        (kind,) = (key for key in node if isinstance(node[key], dict))
        content = node[kind]
        if kind == "jsonFeature":
            content, kind, is_message = content["json"], class_name, False
    if isinstance(content, str):
        content = json.loads(content)
    kind = _KINDS.get(class_name, kind)
    if class_name == "LabeledImage":
        kind = class_name  # a mask of classes
    return kind, content.get("features", {}) if kind == _DICT and is_message else content


def _supervised_keys(keys: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The features that are a model's inputs and outputs, where the dataset says so."""
    items = keys.get("tuple", {}).get("items") or [
        {"featureKey": keys[role]} for role in ("input", "output") if keys.get(role)
    ]
    inputs, outputs = (*map(_feature_keys, items[:2]), set(), set())[:2]
    return inputs, outputs


def _feature_keys(nest: dict[str, Any]) -> set[str]:
    nested = [
        *nest.get("tuple", {}).get("items", ()),
        *nest.get("dict", {}).get("dict", {}).values(),
    ]
    return (
        {nest["featureKey"]} if "featureKey" in nest else set().union(*map(_feature_keys, nested))
    )
