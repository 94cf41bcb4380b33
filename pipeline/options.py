"""The flags of beam_runner.py, and every check that can be made before anything runs.

Ours are parsed first, into a frozen dataclass; what is left is Beam's, and must be known to Beam.
They cannot be a PipelineOptions subclass: Beam has a `--labels` of its own, for Dataflow jobs (give
those as `--label`). Beam is imported only when it is needed, so that `--help` is quick.
"""

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from pipeline import labels, storage
from pipeline.sources import manifest

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DEFAULT_RUNNER = "FnApiRunner"
_GOOGLE_CLOUD = "pip install 'apache-beam[gcp]'"
_PATHS = ("labels", "images", "output", "classes")  # flags that name files or folders
_EXAMPLE = """\
example:
  python beam_runner.py --source=manifest --labels=train.csv --images=photos --output=dataset \\
      --split=train --classes=classes.tsv --shorter_side=299

Any option of Beam's is accepted besides, for instance --direct_running_mode=multi_processing
--direct_num_workers=8, or --runner=DataflowRunner --project=P --region=R --setup_file=./setup.py.
Start a run that was stopped again with the same command: it goes on where it was.

exit codes: 0 done, 1 bug, 2 wrong usage or configuration, 3 too many dead letters, 75 try again,
130 stopped with Ctrl-C"""


class OptionsError(ValueError):
    """A command line that cannot be run; says what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class ShardingOptions:
    """What to shard, how, and where to."""

    source: str  # name of the reader: manifest
    labels: str  # label file, or a glob of several
    images: str  # folder or URI that relative image paths stand below
    output: str  # dataset folder; several splits share one
    split: str
    classes: str  # class list, TSV
    num_shards: int | None  # None: from the number of rows
    shorter_side: int | None  # pixels; None: sizes stay
    jpeg_quality: int  # 1 to 100
    max_failure_rate: float  # share of the rows that may end without an image in a shard
    overwrite: bool
    image_column: str | None  # None: by usual names
    labels_column: str | None
    id_column: str | None
    label_delimiter: str

    @property
    def format(self) -> manifest.Format:
        """How the label files are to be read."""
        return manifest.Format(
            self.image_column, self.labels_column, self.id_column, self.label_delimiter
        )


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print and exit with."""

    def error(self, message: str) -> NoReturn:
        raise OptionsError(message)


def parser() -> argparse.ArgumentParser:
    """The parser of our own flags."""
    arguments = _Parser(
        prog="beam_runner.py",
        description="Writes images and labels as TFRecord shards that TFDS reads, with Beam.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = arguments.add_argument
    add("--source", required=True, choices=["manifest"], help="format of the label files")
    add("--labels", required=True, help="label file (.csv, .jsonl), or a glob of several, quoted")
    add("--images", required=True, help="folder or URI that relative image paths stand below")
    add("--output", required=True, help="dataset folder to write")
    add("--split", required=True, help="name of the split: train, eval, ...")
    add("--classes", required=True, help="class list: TSV with the column `class`, maybe `name`")
    add("--num_shards", type=int, help="files to write (16, or one for every 8192 rows)")
    add("--shorter_side", type=int, help="bring the shorter side down to these pixels (keep)")
    add("--jpeg_quality", type=int, default=90, help="of images that are encoded again (90)")
    add("--max_failure_rate", type=float, default=0.01,
        help="end with code 3 where more of the rows are lost (0.01)")  # fmt: skip
    add("--overwrite", action="store_true", help="delete the split that is there, write it anew")
    add("--image_column", help="column of the image's path or URI (image_path, image, path, ...)")
    add("--labels_column", help="column of the labels (labels, label, classes, ...)")
    add("--id_column", help="column of the image's id (image_id, else the image's path)")
    add("--label_delimiter", default="|", help="what stands between labels in a cell (|)")
    return arguments


def parse(argv: Sequence[str]) -> tuple[ShardingOptions, "PipelineOptions"]:
    """Our options and Beam's, checked; raises OptionsError, and SystemExit for --help."""
    try:
        arguments, rest = parser().parse_known_args(argv)
    except OptionsError:
        _check_flags(argv)  # a misspelt flag is a likelier mistake than the one that it leaves out
        raise
    _check_repeated(argv)
    for flag in _PATHS:
        setattr(arguments, flag, storage.without_file_scheme(getattr(arguments, flag)))
    options = ShardingOptions(**vars(arguments))
    _check_values(options)
    beam_options = _beam_options(rest)
    _check_inputs(options)
    return options, beam_options


def _check_values(options: ShardingOptions) -> None:
    def check(is_right: bool, flag: str, rule: str) -> None:
        if not is_right:
            received = getattr(options, flag)
            raise OptionsError(f"--{flag} must be {rule}. Received: {received!r}")

    for flag in (*_PATHS, "label_delimiter"):
        check(bool(getattr(options, flag)), flag, "given a value")
    is_name = re.fullmatch(r"[A-Za-z]\w*", options.split, re.ASCII) is not None
    check(is_name, "split", "a name of letters, digits and _")
    check(options.split != "all", "split", "another name: TFDS calls all splits together 'all'")
    check(not set("*?[") & set(options.output), "output", "a folder without * ? or [ in its name")
    num_shards = 1 if options.num_shards is None else options.num_shards
    check(1 <= num_shards <= 99_999, "num_shards", "from 1 to 99999")
    check(options.shorter_side is None or options.shorter_side >= 1, "shorter_side", "at least 1")
    check(1 <= options.jpeg_quality <= 100, "jpeg_quality", "from 1 to 100")
    check(0 <= options.max_failure_rate <= 1, "max_failure_rate", "from 0 to 1")


def _beam_options(flags: list[str]) -> "PipelineOptions":
    """Beam's own options, with our default runner; raises OptionsError."""
    from apache_beam.options import pipeline_options
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    _check_flags(flags)
    _, unknown = _beam_parser().parse_known_args(flags)
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
        problems.append(f"Google Cloud is not installed: {_GOOGLE_CLOUD}.")
    if problems:
        raise OptionsError(f"--runner={standard.runner}: {' '.join(problems)}")
    return options


def _beam_parser() -> argparse.ArgumentParser:
    """The parser of every option that Beam has."""
    from apache_beam.options import pipeline_options

    class BeamParser(pipeline_options._BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise OptionsError(message)

    arguments = BeamParser(allow_abbrev=False, add_help=False)
    for view in pipeline_options.PipelineOptions.__subclasses__():
        view._add_argparse_args(arguments)
    return arguments


def _check_flags(arguments: Sequence[str]) -> None:
    """Raises OptionsError at the first flag that neither we nor Beam know."""
    known = [*_flags(parser()), *_flags(_beam_parser())]
    for argument in arguments:
        name = argument.split("=", 1)[0]
        if name.startswith("--") and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see --help"
            raise OptionsError(f"unknown flag {name}: {hint}")


def _check_repeated(arguments: Sequence[str]) -> None:
    """Raises OptionsError at a flag of ours that is given twice, of which only the last counts."""
    given = [argument.split("=", 1)[0] for argument in arguments]
    for flag in _flags(parser()):
        if given.count(flag) > 1:
            raise OptionsError(f"{flag} is given {given.count(flag)} times: give it once")


def _flags(arguments: argparse.ArgumentParser) -> list[str]:
    return [flag for action in arguments._actions for flag in action.option_strings]


def _check_inputs(options: ShardingOptions) -> None:
    """Every file is there and has what it must; raises OptionsError."""
    for flag in _PATHS:
        path = getattr(options, flag)
        if not storage.has_file_system(path):
            raise OptionsError(
                f"--{flag}={path}: no file system for this URI is installed "
                f"(for gs://: {_GOOGLE_CLOUD})"
            )
    if storage.is_local(options.images) and not os.path.isdir(options.images):
        raise OptionsError(f"--images={options.images}: no such folder")
    if storage.is_local(options.output) and os.path.isfile(options.output):
        raise OptionsError(f"--output={options.output} is a file, not a folder")
    try:
        labels.Vocabulary.parse(storage.read_bytes(options.classes), options.classes)
        for path in label_files(options):
            manifest.find_columns(path, options.format)
    except (labels.LabelError, manifest.ManifestError) as error:
        raise OptionsError(str(error)) from error
    except OSError as error:
        raise OptionsError(f"cannot read: {error}") from error


def label_files(options: ShardingOptions) -> list[str]:
    """The label files that --labels means, sorted; raises OptionsError where there is none."""
    paths = [options.labels] if storage.exists(options.labels) else storage.match(options.labels)
    if not paths:
        raise OptionsError(f"--labels={options.labels}: no such file")
    return paths
