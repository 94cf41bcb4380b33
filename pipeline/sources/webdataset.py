"""Tar shards of samples, as WebDataset has them and img2dataset writes them.

    --images='shards/{00000..00012}.tar'    globs and ranges, several with commas between

A sample is the neighbours that share a key, which is the name up to the first dot after the last
slash: `00017.jpg`, `00017.json`. Its id is the key, or the field of the JSON that --id_column
names. Its labels are, of these, the first that is there:

    .json   the field --labels_column, else one of LABELS_FIELDS: a list, or text with delimiters
    .cls    a class, by name or number
    .txt    text with delimiters or line feeds (img2dataset's is a caption)

Other fields are read only where a flag names them: img2dataset's `sha256` is of the file that it
downloaded, not of the one that it wrote. An image without labels is a row without annotations.
"""

import functools
import hashlib
import itertools
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import fetch, rows, tar
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import cells, globs
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions

LABELS_FIELDS = ("labels", "label", "classes", "class", "cls", "tags")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")

_MAX_TEXT_BYTES = 1 << 20
_SAMPLED = 100  # samples that are looked at to estimate how many there are
_SAMPLE_BYTES = 100_000  # where that cannot be done

_Members = dict[str, tar.Member]  # of a sample, by extension


class WebDataset:
    """The source."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options

    def inventory(self) -> Inventory:
        sizes = globs.sizes(self._options.images, "images")
        for path in sizes:
            if not path.lower().endswith(tar.SUFFIXES):
                raise SourceError(
                    f"--images: {path} is no tar archive. Expected: {', '.join(tar.SUFFIXES)}"
                )
        options = self._options
        contents = json.dumps([
            sorted((posixpath.basename(path), size) for path, size in sizes.items()),
            [options.image_column, options.labels_column, options.id_column],
            [options.confidence_column, options.label_source_column, options.checksum_column],
            [options.rotation_column, options.split_column, options.label_delimiter],
        ])  # fmt: skip
        num_samples = max(len(sizes), round(sum(sizes.values()) / _sample_bytes(list(sizes))))
        return Inventory(
            files=tuple(sizes),
            parts=tuple(Part(file, path) for file, path in enumerate(sizes)),
            digest=hashlib.sha256(contents.encode("utf-8", "surrogateescape")).hexdigest(),
            num_rows=num_samples,
            num_images=num_samples,
        )

    def vocabulary(self) -> None:
        """Tar shards list no classes."""

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[rows.Batch]:
        return rows.batched(self._rows(part, unpacked_dir))

    def _rows(self, part: Part, unpacked_dir: str) -> Iterator[ImageRow | BadRow]:
        number = 0
        key = part.path
        try:
            with tar.Archive(part.path, unpacked_dir) as archive:
                for number, (key, members) in enumerate(_samples(archive), start=1):
                    place = f"{part.file}:{number}"
                    read = functools.partial(self._row, archive, key, members, place)
                    yield cells.row_or_bad(read, key, place)
        except tar.TarError as error:
            detail = f"what comes after this sample cannot be read: {error}"
            yield cells.bad_row(key, detail, f"{part.file}:{number + 1}")

    def _row(self, archive: tar.Archive, key: str, members: _Members, place: str) -> ImageRow:
        options = self._options
        image = members[self._image_extension(members)]
        fields = _fields(archive, members)

        def field(name: str | None) -> Any:
            return None if name is None else fields.get(name)

        return ImageRow(
            cells.parse_text(field(options.id_column) if options.id_column else key, "image id"),
            fetch.reference(archive.path, image.offset, image.length),
            self._annotations(archive, members, fields),
            place,
            cells.parse_checksum(field(options.checksum_column)),
            cells.parse_rotation(field(options.rotation_column)),
            cells.parse_optional_text(field(options.split_column), "split"),
        )

    def _image_extension(self, members: _Members) -> str:
        wanted = self._options.image_column
        found = [name for name in ((wanted,) if wanted else IMAGE_EXTENSIONS) if name in members]
        if len(found) == 1:
            return found[0]
        received = ", ".join(f".{name}" for name in members)
        if found:
            raise ValueError(f"several images: say which with --image_column. Received: {received}")
        raise ValueError(f"no image. Received: {received}")

    def _annotations(
        self, archive: tar.Archive, members: _Members, fields: Mapping[str, Any]
    ) -> tuple[Annotation, ...]:
        options = self._options
        names = (options.labels_column,) if options.labels_column else LABELS_FIELDS
        delimiter = options.label_delimiter
        for name in names:
            if name in fields:
                confidences = fields.get(options.confidence_column or "")
                sources = fields.get(options.label_source_column or "")
                return cells.parse_annotations(fields[name], confidences, sources, delimiter)
        if options.labels_column:
            return ()
        if "cls" in members:
            return (Annotation(cells.parse_text(_text(archive, members["cls"]), "label")),)
        if "txt" in members:
            lines = _text(archive, members["txt"]).splitlines()
            labels = [label for line in lines for label in line.split(delimiter) if label.strip()]
            return tuple(Annotation(cells.parse_text(label, "label")) for label in labels)
        return ()


def _samples(archive: tar.Archive) -> Iterator[tuple[str, _Members]]:
    """(key, members) of each sample; raises TarError, without the sample that it may have cut."""
    last, members = "", _Members()
    for member in archive.members():
        folder, name = posixpath.split(member.name)
        stem, _, extension = name.partition(".")
        if not stem:  # hidden
            continue
        key = posixpath.join(folder, stem)
        extension = extension.lower()
        if members and (key != last or extension in members):
            yield last, members
            members = {}
        last = key
        members[extension] = member
    if members:
        yield last, members


def _fields(archive: tar.Archive, members: _Members) -> dict[str, Any]:
    """The JSON object of a sample; empty where it has none."""
    if "json" not in members:
        return {}
    try:
        fields = json.loads(_text(archive, members["json"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the JSON is no object: {str(fields)[:80]}")
    return fields


def _text(archive: tar.Archive, member: tar.Member) -> str:
    if member.length > _MAX_TEXT_BYTES:
        raise ValueError(f"{member.name} has {member.length} bytes, of at most {_MAX_TEXT_BYTES}")
    return archive.read(member).decode("utf-8-sig")


def _sample_bytes(paths: list[str]) -> float:
    """Bytes of a sample in the first shard that is not compressed."""
    plain = next((path for path in paths if path.lower().endswith(".tar")), None)
    if plain is None:
        return _SAMPLE_BYTES
    num_samples = num_bytes = 0
    try:
        with tar.Archive(plain, unpacked_dir="") as archive:
            for _, members in itertools.islice(_samples(archive), _SAMPLED):
                num_samples += 1
                num_bytes = max(member.offset + member.length for member in members.values())
    except tar.TarError:
        pass  # its rows will say so
    return num_bytes / num_samples if num_samples else _SAMPLE_BYTES
