"""Files in a local folder or an object store, through Beam's FileSystems; a lock for local runs."""

import contextlib
import csv
import fcntl
import functools
import gzip
import io
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from pipeline import object_stores

TEMPORARY_SUFFIX = ".tmp"
_AS_IS = "uncompressed"  # Beam's CompressionTypes.UNCOMPRESSED
_COPIED_AT_ONCE = 1 << 20  # bytes


@functools.cache
def _file_systems() -> Any:
    """Beam's FileSystems; imported at first use: it takes two seconds, and --help needs none."""
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    if FileSystems._pipeline_options is None:  # else Beam has set them, in its worker
        FileSystems.set_options(PipelineOptions([]))  # each store's own environment variables
    object_stores.mend()
    return FileSystems


def configure(options: Any) -> None:
    """Opens paths with these options of Beam's from now on: endpoints, regions, credentials."""
    _file_systems().set_options(options)


def without_file_scheme(path: str) -> str:
    """`file:///a/b` as the local path that it means, /a/b; any other path as it is."""
    return path.removeprefix("file://")


def is_local(path: str) -> bool:
    return "://" not in path


def has_file_system(path: str) -> bool:
    """Whether Beam, as installed, can open paths of this scheme."""
    try:
        _file_systems().get_filesystem(path)
    except ValueError:
        return False
    return True


def join(folder: str, *parts: str) -> str:
    return _file_systems().join(folder, *parts)


def exists(path: str) -> bool:
    return _file_systems().exists(path)


def size(path: str) -> int | None:
    """Bytes of the file; None where there is none. A path is no pattern, whatever stands in it."""
    if not exists(path):
        return None
    return _file_systems().get_filesystem(path).metadata(path).size_in_bytes


def open_to_read(path: str) -> BinaryIO:
    """A binary stream of the file's bytes as they are: nothing is decompressed.

    Raises OSError; also for a pipe, which would be waited for.
    """
    if is_local(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path}: not a regular file")
    return _file_systems().open(path, compression_type=_AS_IS)


def raise_if_not_damage(error: Exception) -> None:
    """Raises what reading a file has raised, unless the file's bytes are to blame.

    Of those, libraries raise errors of their own, or bare OSErrors; a disk's fault has an errno,
    and a network's or a store's is of a class of its own: the next attempt may read on.
    """
    is_bare = type(error) in (OSError, gzip.BadGzipFile)
    if isinstance(error, OSError) and not (is_bare and error.errno is None):
        raise error


def read_bytes(path: str) -> bytes:
    with open_to_read(path) as stream:
        return stream.read()


def read_part(path: str, offset: int, length: int) -> bytes:
    """So many bytes from an offset, or all there are, and no more of the file than that."""
    chunks = []
    with open_to_read(path) as stream:
        raw = getattr(stream, "raw", stream)  # an object store's buffer would be filled: 16 MB
        raw.seek(offset)
        while length > 0 and (chunk := raw.read(length)):
            chunks.append(chunk)
            length -= len(chunk)
    return b"".join(chunks)


def read_text(path: str) -> str:
    return read_bytes(path).decode()


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file, or something else in it.

    Raises OSError: what a store does not give at the moment is there all the same.
    """
    if not exists(path):
        return None
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError, OSError) as error:
        raise_if_not_damage(error)
        return None
    return found if isinstance(found, dict) else None


def match(pattern: str) -> list[str]:
    """Paths that match a glob pattern, sorted; none where none match."""
    return sorted(files(pattern))


class File(NamedTuple):
    """What a listing says of a file."""

    num_bytes: int
    time_written: float  # seconds since 1970; 0 where the store does not say


def files(pattern: str) -> dict[str, File]:
    """The files that match a glob pattern, by path."""
    found = _file_systems().match([pattern])[0].metadata_list
    return {each.path: File(each.size_in_bytes, each.last_updated_in_seconds) for each in found}


def sizes(pattern: str) -> dict[str, int]:
    """Bytes of each file that matches a glob pattern, by path."""
    return {path: file.num_bytes for path, file in files(pattern).items()}


def delete(paths: Sequence[str]) -> None:
    if paths:
        _file_systems().delete(list(paths))


@contextlib.contextmanager
def write_atomically(path: str, temporary_folder: str | None = None) -> Iterator[BinaryIO]:
    """A stream whose bytes stand at `path` once the block ends well, and nowhere if it does not.

    They are first written beside it (or in `temporary_folder`) under a unique name that ends with
    TEMPORARY_SUFFIX, which is what a killed process leaves behind.
    """
    place = join(temporary_folder, os.path.basename(path)) if temporary_folder else path
    temporary = f"{place}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    stream = _file_systems().create(temporary, compression_type=_AS_IS)
    try:
        with stream:
            yield stream
            stream.flush()
            if is_local(path):
                os.fsync(stream.fileno())
        _file_systems().rename([temporary], [path])
    except BaseException:
        if exists(temporary):
            delete([temporary])
        raise


def write_text(path: str, text: str, temporary_folder: str | None = None) -> None:
    """Replaces the file at `path`, whole or not at all."""
    with write_atomically(path, temporary_folder) as stream:
        stream.write(text.encode())


def delete_folder(folder: str) -> None:
    """Deletes a folder with all that is in it, where there is one."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        delete(match(join(folder, "*")))


def delete_temporary(folder: str) -> None:
    """Sweeps what killed processes have left in a folder."""
    delete(match(join(folder, "*" + TEMPORARY_SUFFIX)))


def copy(source: str, target: str) -> None:
    """Copies a file, between folders and stores, whole or not at all."""
    with open_to_read(source) as stream, write_atomically(target) as copied:
        shutil.copyfileobj(stream, copied, _COPIED_AT_ONCE)


def csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class LockedError(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def lock(path: str) -> Iterator[None]:
    """Holds `path` for this process alone, until the block or the process ends, however it ends.

    Object stores have no such lock: there, keeping runs apart is up to whoever starts them.
    """
    if not is_local(path):
        yield
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(path) from error
        yield
