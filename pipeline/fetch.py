"""An image's bytes by its URI: a local path, or anything that Beam's FileSystems opens."""

import os
import stat
import time

from pipeline import storage
from pipeline.images import MAX_FILE_BYTES, ImageError

_REMOTE_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.5


def resolve(images: str, uri: str) -> str:
    """The address of `uri`: absolute paths and URIs stand as they are, others are below `images`.

    A label file is trusted: it may name any file that the job can read, `..` included.
    """
    uri = storage.without_file_scheme(uri)
    if "://" in uri or os.path.isabs(uri):
        return uri
    return storage.join(images, uri)


def fetch(address: str) -> bytes:
    """The bytes of an image file; raises ImageError. Remote reads are tried again with back-off."""
    attempts_left = 1 if storage.is_local(address) else _REMOTE_ATTEMPTS
    wait_seconds = _FIRST_WAIT_SECONDS
    while True:
        attempts_left -= 1
        try:
            return _read(address)
        except FileNotFoundError as error:
            raise ImageError("not_found", f"no file {address}") from error
        except (OSError, ValueError) as error:
            # ValueError: a scheme that no installed file system knows, or a path with a NUL in it.
            if isinstance(error, ValueError) or not attempts_left:
                raise ImageError("unreadable", f"{address}: {error}") from error
        time.sleep(wait_seconds)
        wait_seconds *= 2


def _read(address: str) -> bytes:
    if storage.is_local(address) and not stat.S_ISREG(os.stat(address).st_mode):
        raise ImageError("unreadable", f"{address}: not a regular file")  # a pipe would block
    with storage.open_to_read(address) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("too_many_bytes", f"{address}: more than {MAX_FILE_BYTES} bytes")
    return data
