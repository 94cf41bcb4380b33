"""Which column of a label file holds what: by flag, or by the usual names, whatever their case."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.sources.source import SourceError, SourceOptions

# What a column is called where no flag names it; the first that is there is taken. A column that
# is only called `source` is none of them: the dead-letter file has its FILE:LINE in there.
_USUAL = {
    "image": ("image_path", "image", "path", "file_name", "filename", "file", "uri"),
    "labels": ("labels", "label", "classes", "class", "tags"),
    "id": ("image_id", "imageid"),
    "confidence": ("confidence", "confidences"),
    "label_source": ("label_source", "label_sources"),
    "checksum": ("checksum", "sha256", "md5"),
    "rotation": ("rotation",),
    "split": (),  # only where a flag names it
}
_REQUIRED, _OPTIONAL = list(_USUAL)[:2], list(_USUAL)[2:]


class Columns(NamedTuple):
    """The columns of one file, by name; None where it has none."""

    image: str
    labels: str
    image_id: str | None = None  # None: the image's path is its id
    confidence: str | None = None
    label_source: str | None = None
    checksum: str | None = None
    rotation: str | None = None
    split: str | None = None

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in self if name is not None))


def find_columns(place: str, names: Sequence[str], options: SourceOptions) -> Columns:
    """The columns among a header's names; raises SourceError, beginning with `place`."""
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise SourceError(f"{place}: the header names a column twice: {', '.join(repeated)}")
    return find_columns_of_objects(place, [names], options)


def find_columns_of_objects(
    place: str, objects: Sequence[Sequence[str]], options: SourceOptions
) -> Columns:
    """The columns among the names of JSON objects; raises SourceError, beginning with `place`.

    What a flag names must be in one of them. The image and the labels are called as in the first
    object that has them; of the others each object has its own (`columns_of_object`).
    """
    every = list(dict.fromkeys(name for names in objects for name in names))

    def find(what: str, objects: Sequence[Sequence[str]]) -> str | None:
        if _wanted(what, options) is not None:
            return _find(place, every, what, options)
        found = (_find(place, names, what, options) for names in objects)
        return next((name for name in found if name is not None), None)

    image, labels = (_require(place, every, what, find(what, objects)) for what in _REQUIRED)
    return Columns(image, labels, *(find(what, objects[:1]) for what in _OPTIONAL))


def columns_of_object(columns: Columns, names: Sequence[str], options: SourceOptions) -> Columns:
    """`columns` for a JSON object, which has the optional ones or has not, as it likes."""
    optional = (
        _wanted(what, options) or _find("the object", names, what, options) for what in _OPTIONAL
    )
    return Columns(columns.image, columns.labels, *optional)


def _wanted(what: str, options: SourceOptions) -> str | None:
    return getattr(options, f"{what}_column")


def _find(place: str, names: Sequence[str], what: str, options: SourceOptions) -> str | None:
    """The name of a column as the file spells it."""
    wanted = _wanted(what, options)
    if wanted is not None:
        if wanted in names:
            return wanted
        raise SourceError(
            f"{place}: no column {wanted!r} (--{what}_column). Columns found: {', '.join(names)}"
        )
    for name in _USUAL[what]:
        alike = [spelled for spelled in names if spelled.lower() == name]
        if len(alike) > 1:
            raise SourceError(
                f"{place}: columns {' and '.join(alike)} are alike: name one with --{what}_column"
            )
        if alike:
            return alike[0]
    return None


def _require(place: str, names: Sequence[str], what: str, found: str | None) -> str:
    if found is None:
        raise SourceError(
            f"{place}: no column for the {what}: name it with --{what}_column. "
            f"Columns found: {', '.join(names)}; usual names: {', '.join(_USUAL[what])}"
        )
    return found
