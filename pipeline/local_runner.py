"""Beam's embedded runner, for one machine: with workers that find this package and keep quiet.

It waits for ever for a worker process that has died. Here such a death ends the run.
"""

import contextlib
import copy
import logging
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline import job_service, worker
from pipeline.beam_options import DEFAULT_RUNNER

_SECONDS_TO_END = 10.0  # after a worker's death
_CONNECTION_LOST = "Channel closed prematurely"  # Beam's words


class WorkerDiedError(RuntimeError):
    """A worker process ended before its work did."""


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline on the runner that the options name."""
    options = copy.deepcopy(options)  # Beam writes into them
    if options.view_as(StandardOptions).runner != DEFAULT_RUNNER:
        job_service.prepare(options)
        return beam.Pipeline(options=options)
    _let_workers_import_us()
    provision_info = beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused")
    # What goes wrong comes back as an exception; Beam would log it three times besides.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    direct = options.view_as(DirectOptions)
    environment = None
    if direct.direct_running_mode == "multi_processing":
        direct.direct_running_mode = "in_memory"  # which lets the environment stand
        os.environ[worker.LAUNCHER] = str(os.getpid())
        command = f"exec {shlex.quote(sys.executable)} -m pipeline.worker"  # no shell between
        environment = SubprocessSDKEnvironment.from_command_string(command)
    runner = FnApiRunner(
        default_environment=environment, provision_info=ExtendedProvisionInfo(provision_info)
    )
    return beam.Pipeline(runner=runner, options=options)


def run(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline to its end; Ctrl-C ends what runs elsewhere, too."""
    result = pipeline.run()
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(NotImplementedError):
            result.cancel()
        raise


@contextlib.contextmanager
def ended_by_dead_worker(give_up: Callable[[str], NoReturn]) -> Iterator[None]:
    """Raises WorkerDiedError from the block, of the main thread, when a worker process dies.

    Beam starts a thread for each worker process, which raises when its process has ended badly.
    Where that was a Ctrl-C, it has reached us as well. Beam then waits for the other workers, some
    of which may never have begun to listen: `give_up` is called, from another thread, with what
    was to be raised, where the block has not ended by then.
    """
    died: list[str] = []
    noticed = threading.Event()
    last_resort: list[threading.Timer] = []
    main_thread = threading.main_thread()
    usual_hook = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        name = failure.thread.name if failure.thread else ""
        if name == job_service.MESSAGES_THREAD or issubclass(failure.exc_type, grpc.RpcError):
            return  # the other end is gone, which the main thread is told as well
        if name != "run_worker":
            usual_hook(failure)
        elif not died and not str(failure.exc_value).endswith(f" {-signal.SIGINT}"):
            died.append(str(failure.exc_value))
            last_resort.append(threading.Timer(_SECONDS_TO_END, give_up, [died[0]]))
            last_resort[0].daemon = True
            last_resort[0].start()
            signal.pthread_kill(main_thread.ident or 0, signal.SIGINT)
            noticed.set()

    threading.excepthook = hook
    try:
        with job_service.told_as_shard_error():
            yield
    except KeyboardInterrupt:
        if died:
            raise WorkerDiedError(died[0]) from None
        raise
    except RuntimeError as error:
        if _CONNECTION_LOST in str(error):  # which may be noticed before the death of the worker is
            with contextlib.suppress(KeyboardInterrupt):
                noticed.wait(_SECONDS_TO_END)
        if died:
            raise WorkerDiedError(died[0]) from error
        raise
    finally:
        for timer in last_resort:
            timer.cancel()
        threading.excepthook = usual_hook


def _let_workers_import_us() -> None:
    """Worker processes import `pipeline` wherever the command is started, installed or not."""
    root = str(pathlib.Path(__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])
