"""Beam's own options: what is left of a command line when a command has taken its flags.

Beam is imported only when it is needed, so that `--help` is quick.
"""

import argparse
from typing import TYPE_CHECKING, NoReturn

from pipeline import storage

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DEFAULT_RUNNER = "FnApiRunner"
GOOGLE_CLOUD = "pip install 'apache-beam[gcp]'"


class OptionsError(ValueError):
    """A command line that cannot be run; says what is wrong and what to do."""


def parse(flags: list[str], workers: int) -> "PipelineOptions":
    """Beam's options, checked, for so many processes of this machine; raises OptionsError.

    Without a runner among the flags it is ours.
    """
    from apache_beam.options import pipeline_options
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    flags = _with_workers(flags, workers)
    _, unknown = parser().parse_known_args(flags)
    if unknown:
        raise OptionsError(f"an argument without a flag: {unknown[0]!r}")
    options = pipeline_options.PipelineOptions(flags)
    num_workers = options.view_as(pipeline_options.DirectOptions).direct_num_workers
    if num_workers < 0:
        raise OptionsError(f"--direct_num_workers must be at least 0. Received: {num_workers}")
    standard = options.view_as(pipeline_options.StandardOptions)
    name = (standard.runner or "DirectRunner").rsplit(".", 1)[-1].lower()  # Beam knows no case
    if name in ("directrunner", DEFAULT_RUNNER.lower()):  # the first would download a server
        standard.runner = DEFAULT_RUNNER
    try:
        runner = create_runner(standard.runner)
    except (ValueError, ImportError) as error:
        raise OptionsError(f"--runner={standard.runner}: {error}") from error
    problems = PipelineOptionsValidator(options, runner).validate()
    if name == "dataflowrunner" and not storage.has_file_system("gs://"):
        problems.append(f"Google Cloud is not installed: {GOOGLE_CLOUD}.")
    if problems:
        raise OptionsError(f"--runner={standard.runner}: {' '.join(problems)}")
    storage.configure(options)
    return options


def _with_workers(flags: list[str], workers: int) -> list[str]:
    """Beam's own flags for so many local processes."""
    if workers == 1:
        return flags
    taken = [flag for flag in flags if flag.startswith(("--direct_", "--runner"))]
    if taken:
        raise OptionsError(f"--workers={workers} is for this machine, without {', '.join(taken)}")
    return [
        *flags,
        "--direct_running_mode=multi_processing",
        f"--direct_num_workers={workers}",
    ]


def are_elsewhere(options: "PipelineOptions") -> bool:
    """Whether workers may have been started in another folder than this command."""
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner != DEFAULT_RUNNER


def parser() -> argparse.ArgumentParser:
    """The parser of every option that Beam has."""
    from apache_beam.options import pipeline_options

    class BeamParser(pipeline_options._BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise OptionsError(message)

    arguments = BeamParser(allow_abbrev=False, add_help=False)
    for view in pipeline_options.PipelineOptions.__subclasses__():
        view._add_argparse_args(arguments)
    return arguments
