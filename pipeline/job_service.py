"""Engines behind a Beam job service: Flink, Spark, Prism, and Beam's own portable runner.

As Beam comes, it waits five minutes for a service that is not there, leaves a job alone that runs
for longer than that, and prints each failure of a worker three times.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from pipeline.beam_options import OptionsError
from pipeline.sharding import ShardError

MESSAGES_THREAD = "wait_until_finish_read"  # Beam's, which reads what a job says
_CONNECT_SECONDS = 20
_JOB_SECONDS = 365 * 24 * 60 * 60


def prepare(options: PipelineOptions) -> None:
    """Makes the options fit for a long job; raises OptionsError where no service answers."""
    portable = options.view_as(PortableOptions)
    if portable.job_endpoint and portable.job_endpoint != "embed":  # which is Beam's own, in here
        _check_answers(portable.job_endpoint)
    portable.job_server_timeout = _JOB_SECONDS  # Beam cuts the stream of the job's states by it
    logging.getLogger().addFilter(_is_not_of_a_job)


def _check_answers(endpoint: str) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise OptionsError(
                f"--job_endpoint={endpoint}: no job service has answered in {_CONNECT_SECONDS} s: "
                "start it, or correct the address"
            ) from None


def _is_not_of_a_job(record: logging.LogRecord) -> bool:
    """What a job says of its failures comes back as an exception besides."""
    return record.module != "portable_runner"


@contextlib.contextmanager
def told_as_shard_error() -> Iterator[None]:
    """Raises ShardError where the block loses its connection to the service."""
    try:
        yield
    except grpc.RpcError as error:
        for thread in threading.enumerate():
            if thread.name == MESSAGES_THREAD:  # it ends of the same
                thread.join(timeout=_CONNECT_SECONDS)
        details = error.details() if isinstance(error, grpc.Call) else error
        raise ShardError(f"the job service is gone: {details}") from error
