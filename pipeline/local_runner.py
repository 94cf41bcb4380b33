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
from collections.abc import Iterator

import apache_beam as beam
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

from pipeline.options import DEFAULT_RUNNER


class WorkerDiedError(RuntimeError):
    """A worker process ended before its work did."""


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline on the runner that the options name."""
    if options.view_as(StandardOptions).runner != DEFAULT_RUNNER:
        return beam.Pipeline(options=options)
    _let_workers_import_us()
    provision_info = beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused")
    # What goes wrong comes back as an exception; Beam would log it three times besides.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    options = copy.deepcopy(options)
    direct = options.view_as(DirectOptions)
    environment = None
    if direct.direct_running_mode == "multi_processing":
        direct.direct_running_mode = "in_memory"  # which lets the environment stand
        command = f"{shlex.quote(sys.executable)} -m pipeline.worker"
        environment = SubprocessSDKEnvironment.from_command_string(command)
    runner = FnApiRunner(
        default_environment=environment, provision_info=ExtendedProvisionInfo(provision_info)
    )
    return beam.Pipeline(runner=runner, options=options)


@contextlib.contextmanager
def ended_by_dead_worker() -> Iterator[None]:
    """Raises WorkerDiedError from the block, of the main thread, when a worker process dies.

    Beam starts a thread for each worker process, which raises when its process has ended badly.
    Where that was a Ctrl-C, it has reached us as well.
    """
    died: list[str] = []
    main_thread = threading.main_thread()
    usual_hook = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if failure.thread is None or failure.thread.name != "run_worker":
            usual_hook(failure)
        elif not died and not str(failure.exc_value).endswith(f" {-signal.SIGINT}"):
            died.append(str(failure.exc_value))
            signal.pthread_kill(main_thread.ident or 0, signal.SIGINT)

    threading.excepthook = hook
    try:
        yield
    except KeyboardInterrupt:
        if died:
            raise WorkerDiedError(died[0]) from None
        raise
    finally:
        threading.excepthook = usual_hook


def _let_workers_import_us() -> None:
    """Worker processes import `pipeline` wherever the command is started, installed or not."""
    root = str(pathlib.Path(__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])
