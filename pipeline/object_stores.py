"""What Beam's own file systems lack where the job runs on them; put right once a process.

Beam 2.77's S3 makes a new client for every call, which is 80 ms of work; it cannot write an empty
object; and its errors are no OSErrors.
"""

import copy
import functools
from typing import Any


class _S3ClientError(OSError):
    """An error of the store, with its HTTP status."""

    def __init__(self, message: str | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def mend() -> None:
    """Mends the file systems that are installed."""
    try:
        from apache_beam.io.aws import s3io
        from apache_beam.io.aws.clients.s3 import boto3_client, messages
        from apache_beam.utils import retry
    except ImportError:
        return
    if boto3_client.boto3 is not None:
        _mend_s3(s3io, boto3_client)
        messages.S3ClientError = retry.S3ClientError = _S3ClientError


def _mend_s3(s3io: Any, boto3_client: Any) -> None:
    make = functools.cache(boto3_client.Client)

    class SharedClient:
        """A client with a stream of its own, over the connections that all share."""

        def __new__(cls, options: Any) -> Any:
            return copy.copy(make(options))

    class Uploader(s3io.S3Uploader):
        """One that can end before anything was written."""

        def finish(self) -> None:
            if not self.parts and not self.buffer:
                self._write_to_s3(b"")
            super().finish()

    boto3_client.Client = SharedClient
    s3io.S3Uploader = Uploader
