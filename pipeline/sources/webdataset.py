"""Tar shards of samples, as WebDataset has them and img2dataset writes them.

    --images='shards/{00000..00012}.tar'    globs and ranges, several with commas between

A sample is the neighbours that share a key, which is the name up to the first dot after the last
slash: `00017.jpg`, `00017.json`. Its id is the key, or the field of the JSON that --id_column
names. Its labels are, of these, the first that is there:

    .json   the field --labels_column, else one of LABELS_FIELDS: a list, or text with delimiters
    .cls    a class, by name or number
    .txt    text with delimiters or line feeds (img2dataset's is a caption)

Other fields are read only where a flag names them: img2dataset's `sha256` is of the file that it
downloaded, not of the one that it wrote. An image without labels is a row without annotations; one
with labels but without the confidence that a flag names is a bad row. What a flag names and none of
the first samples has is an error.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import posixpath
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import compressed, fetch, rows, storage, tar
from pipeline.loss import Usual
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import cells, globs
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions, stamp_of

LABELS_FIELDS = ("labels", "label", "classes", "class", "cls", "tags")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")

_MAX_TEXT_BYTES = 1 << 20
_SAMPLED = 100  # samples of a shard that are looked at
_SAMPLED_SHARDS = 4  # at most, as long as something that a flag names was not seen
_SAMPLED_BYTES = 32 << 20  # of a compressed shard
_CHUNK_BYTES = 1 << 20
_SAMPLE_BYTES = 100_000  # where none could be looked at
_FIELD_FLAGS = (
    "labels_column", "id_column", "confidence_column", "label_source_column", "checksum_column",
    "rotation_column", "split_column",
)  # fmt: skip

_Members = dict[str, tar.Member]  # of a sample, by extension


class WebDataset:
    """The source."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._usual = Usual(_SAMPLE_BYTES, 0)

    def inventory(self) -> Inventory:
        files = globs.files(self._options.images, "images")
        sizes = {path: file.num_bytes for path, file in files.items()}
        for path in files:
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
        sample_bytes = _Survey(options).sample_bytes(list(sizes))
        self._usual = Usual(sample_bytes, statistics.median_high(sizes.values()))
        num_samples = max(len(sizes), round(sum(sizes.values()) / sample_bytes))
        return Inventory(
            files=tuple(sizes),
            parts=tuple(Part(file, path) for file, path in enumerate(sizes)),
            digest=hashlib.sha256(contents.encode("utf-8", "surrogateescape")).hexdigest(),
            num_rows=num_samples,
            num_images=num_samples,
            stamp=stamp_of(files),
        )

    def vocabulary(self) -> None:
        """Tar shards list no classes."""

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[rows.Batch]:
        return rows.batched(self._rows(part, unpacked_dir))

    def _rows(self, part: Part, unpacked_dir: str) -> Iterator[ImageRow | BadRow]:
        number = 0
        try:
            with tar.Archive(part.path, unpacked_dir) as archive:
                for number, (key, members) in enumerate(_samples(archive), start=1):
                    place = f"{part.file}:{number}"
                    read = functools.partial(self._row, archive, key, members, place)
                    yield cells.row_or_bad(read, key, place)
        except tar.TarError as error:
            count = error.loss.num_rows(self._usual)
            detail = f"{error}; lost behind sample {number:,}, about: {count:,}"
            name = posixpath.basename(part.path)
            yield from cells.lost_rows(
                name, detail, part.file, range(number + 1, number + 1 + count)
            )

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
        labels = self._labels(archive, members, fields)
        if labels is None:
            return ()
        confidence, source = options.confidence_column, options.label_source_column
        found = cells.parse_annotations(
            labels,
            None if confidence is None else fields.get(confidence),
            None if source is None else fields.get(source),
            options.label_delimiter,
        )
        if found and confidence is not None and confidence not in fields:
            raise ValueError(f"labels, but no field {confidence!r} (--confidence_column)")
        return found

    def _labels(self, archive: tar.Archive, members: _Members, fields: Mapping[str, Any]) -> Any:
        """The cell of labels; None where there is none."""
        options = self._options
        for name in (options.labels_column,) if options.labels_column else LABELS_FIELDS:
            if name in fields:
                return fields[name]
        if options.labels_column:
            return None
        if "cls" in members:
            return [_text(archive, members["cls"])]
        if "txt" in members:
            lines = _text(archive, members["txt"]).splitlines()
            parts = (part for line in lines for part in line.split(options.label_delimiter))
            return [part for part in parts if part.strip()]
        return None


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


class _Survey:
    """What the first samples of some shards have."""

    def __init__(self, options: SourceOptions) -> None:
        self._images = options.images
        self._image = options.image_column
        self._named = {flag: name for flag in _FIELD_FLAGS if (name := getattr(options, flag))}
        self._num_samples = self._num_bytes = 0
        self._extensions: set[str] = set()
        self._fields: set[str] = set()

    def sample_bytes(self, paths: list[str]) -> float:
        """Bytes of a sample; raises SourceError where none has something that a flag names."""
        paths = [path for path in paths if path.lower().endswith(".tar")] or paths
        for path in paths[:: -(-len(paths) // _SAMPLED_SHARDS)]:
            with _beginning(path) as plain, tar.Archive(plain, unpacked_dir="") as archive:
                self._look_into(archive)
            if self._num_samples and not self._missing():
                break
        if not self._num_samples:
            return _SAMPLE_BYTES  # the rows will say what is wrong
        if missing := self._missing():
            raise SourceError(
                f"--images={self._images}: of {self._num_samples} samples looked at, none has "
                f"{missing}"
            )
        return self._num_bytes / self._num_samples

    def _look_into(self, archive: tar.Archive) -> None:
        start = 0
        with contextlib.suppress(tar.TarError):
            for _, members in itertools.islice(_samples(archive), _SAMPLED):
                end = max(member.offset + member.length for member in members.values())
                self._num_samples += 1
                self._num_bytes += end - start
                start = end
                self._extensions |= members.keys()
                if self._named:
                    with contextlib.suppress(ValueError, RecursionError):  # a bad row, later
                        self._fields |= _fields(archive, members).keys()

    def _missing(self) -> str:
        """What a flag names and no sample has had, in words."""
        if self._image and self._image not in self._extensions:
            found = ", ".join(f".{extension}" for extension in sorted(self._extensions))
            return f"a file .{self._image} (--image_column). Files found: {found}"
        for flag, name in self._named.items():
            if name not in self._fields:
                found = ", ".join(sorted(self._fields)) or "none"
                return f"a field {name!r} (--{flag}). Fields found: {found}"
        return ""


@contextlib.contextmanager
def _beginning(path: str) -> Iterator[str]:
    """Path of the shard, or of a plain copy of its beginning where it is compressed."""
    if path.lower().endswith(".tar"):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as copy:
        try:
            with compressed.open_to_read(path) as stream:
                while copy.tell() < _SAMPLED_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
                    copy.write(chunk)
        except compressed.DAMAGE as error:
            storage.raise_if_not_damage(error)
        copy.flush()
        yield copy.name
