"""The flags of beam_runner.py, and every check that can be made before anything runs.

Ours are parsed first, into frozen dataclasses; what is left is Beam's (pipeline.beam_options), and
must be known to Beam. They cannot be a PipelineOptions subclass: Beam has a `--labels` of its own,
for Dataflow jobs (give those as `--label`).
"""

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pipeline import beam_options, sources, storage
from pipeline.beam_options import GOOGLE_CLOUD, OptionsError
from pipeline.recipe import FASTEVAL, ImageRecipe
from pipeline.sources.source import SourceOptions

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DEDUPLICATE = ("content", "checksum", "off")
_DEFAULTS = {"label_delimiter": "|", "jpeg_quality": 90}
_IN_COLUMNS = ("manifest", "tfds", "webdataset", "tfrecord")
_FLAGS_OF_SOURCES = {  # the flags that not every source knows
    "labels": sources.WITH_LABEL_FILES,
    "image_info": ("open_images",),
    "source_split": ("tfds", "tfrecord"),
    "long_form": ("manifest",),
    "image_column": _IN_COLUMNS,
    "labels_column": _IN_COLUMNS,
    "id_column": _IN_COLUMNS,
    "confidence_column": _IN_COLUMNS,
    "label_source_column": _IN_COLUMNS,
    "checksum_column": ("manifest", "webdataset"),
    "rotation_column": ("manifest", "webdataset"),
    "split_column": (*_IN_COLUMNS, "open_images"),
    "label_delimiter": _IN_COLUMNS,
}
_EXAMPLE = """\
examples:
  python beam_runner.py --source=manifest --labels=train.csv --images=photos --output=dataset \\
      --split=train --classes=classes.tsv --shorter_side=299
  python beam_runner.py --source=open_images --labels='meta/*-imagelabels.csv' --images=photos \\
      --image_info=meta/image_ids_and_rotation.csv --class_names=meta/class-descriptions.csv \\
      --hierarchy=meta/hierarchy.json --max_classes=17000 --split=train --fasteval=14000 \\
      --output=dataset --shorter_side=299 --workers=8

Any option of Beam's is accepted besides, for instance --runner=DataflowRunner --project=P
--region=R --setup_file=./setup.py. Start a run that was stopped again with the same command: it
goes on where it was.

exit codes: 0 done, 1 bug, 2 wrong usage or configuration, 3 too many dead letters, 75 try again,
130 stopped with Ctrl-C"""


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Which labels count, and what they are called."""

    classes: str | None = None  # class list; None: the folder's own, or built from the rows
    class_names: str | None = None  # what people read, for a list that is built
    min_class_count: int | None = None  # images that a class of a built list has at least
    max_classes: int | None = None  # the most frequent ones make a built list
    hierarchy: str | None = None  # what implies what
    min_confidence: float = 0.0  # a positive below is unknown
    trusted_sources: tuple[str, ...] | None = None  # annotations of others are passed over
    min_labels: int = 0  # images with fewer annotations are left out
    max_unknown_rate: float = 0.5  # share of the labels that may be outside the class list


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """Which splits are written, and what falls into which."""

    name: str | None = None  # all rows
    shares: tuple[tuple[str, float], ...] = ()  # by a hash of the id
    by_column: bool = False  # by SourceOptions.split_column
    fasteval: int | None = None  # images drawn first, by a hash of the id, into split `fasteval`

    @property
    def names(self) -> tuple[str, ...]:
        """As far as they are known before the rows are read."""
        drawn = (FASTEVAL,) if self.fasteval else ()
        return (*drawn, *(name for name, _ in self.shares), *((self.name,) if self.name else ()))


@dataclasses.dataclass(frozen=True)
class ShardingOptions:
    """What to shard, how, and where to."""

    source: SourceOptions
    labels: LabelOptions
    images: ImageRecipe
    splits: SplitOptions
    output: str  # dataset folder; several splits share one
    num_shards: int | None  # of each split; None: from its number of images
    deduplicate: str  # one of DEDUPLICATE
    allow_hosts: tuple[str, ...]  # host:port of private addresses that images may be fetched from
    max_failure_rate: float  # share of the images that may end outside a shard
    plan_only: bool
    overwrite: bool


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
    _add_inputs(arguments.add_argument_group("what to read"))
    _add_columns(arguments.add_argument_group("columns, fields or features (by usual names)"))
    _add_labels(arguments.add_argument_group("which labels count"))
    _add_images(arguments.add_argument_group("images"))
    _add_outputs(arguments.add_argument_group("what to write"))
    return arguments


# fmt: off
def _add_inputs(group: Any) -> None:
    add = group.add_argument
    add("--source", required=True, choices=list(sources.SOURCES), help="what the input is")
    add("--images", help="folder or URI that image paths stand below (manifest: .); or the "
        "archives, shards or dataset itself: a glob, a folder, the name of a TFDS dataset")
    add("--labels", help="label files (manifest: .csv .tsv .jsonl .parquet, the text ones also "
        ".gz; open_images): a path or glob, several with commas between")
    add("--image_info", help="open_images: its image files, with checksum, rotation and subset")
    add("--source_split", help="tfds, tfrecord: the split to read (all)")
    add("--allow_hosts", type=_words, default=(), help="host:port, with commas between: "
        "addresses in private networks that images may be fetched from (none)")


def _add_columns(group: Any) -> None:
    add = group.add_argument
    add("--image_column", help="the image's path or URI, or its bytes (image_path, image, ...)")
    add("--labels_column", help="its labels (labels, label, classes, ...)")
    add("--id_column", help="its id (image_id, else the path)")
    add("--confidence_column", help="how sure a label is, 0 to 1; 0 is a verified negative")
    add("--label_source_column", help="who says so: verification, machine, ...")
    add("--checksum_column", help="md5 or sha256 of the image file, hex or base64; verified")
    add("--rotation_column", help="degrees counter-clockwise that make the image upright")
    add("--split_column", help="the split, instead of --split; of tfds and our own shards: split")
    add("--label_delimiter", default=_DEFAULTS["label_delimiter"],
        help="what stands between labels in a cell (|)")
    add("--long_form", action="store_true", help="manifest: a row is one label of an image")


def _add_labels(group: Any) -> None:
    add = group.add_argument
    add("--classes", help="class list: TSV with the column `class`, maybe `name`; or a class a "
        "line (the list of the folder's other splits, else built from the labels)")
    add("--class_names", help="names to show for a class list that is built: class, name")
    add("--min_class_count", type=int, help="build the class list: images of a class, at least")
    add("--max_classes", type=int, help="build the class list: this many, the most frequent")
    add("--hierarchy", help="Open Images' JSON, or a table of child, parent: a positive makes its "
        "ancestors positive, a verified negative its descendants negative")
    add("--min_confidence", type=float, default=0.0, help="less sure positives are unknown (0)")
    add("--trusted_sources", type=_words, help="annotations of others are passed over (all)")
    add("--min_labels", type=int, help="leave out images with fewer annotations (0; "
        "open_images: 1)")
    add("--max_unknown_rate", type=float, default=0.5,
        help="end with code 3 where more of the labels are outside --classes (0.5)")


def _add_images(group: Any) -> None:
    add = group.add_argument
    add("--shorter_side", type=int, help="bring the shorter side down to these pixels (keep)")
    add("--crop", type=int, help="and cut the centre out: a square of these pixels")
    add("--upscale", action="store_true", help="enlarge what is smaller, too")
    add("--untouched", action="store_true", help="keep the bytes of JPEG and PNG files")
    add("--jpeg_quality", type=int, default=_DEFAULTS["jpeg_quality"],
        help="of images that are encoded again (90)")
    add("--deduplicate", choices=DEDUPLICATE, default="content", help="merge images of the same "
        "content, and keep those of evaluation splits out of training: by the files, by the "
        "checksums that the source brings, or not at all (content)")


def _add_outputs(group: Any) -> None:
    add = group.add_argument
    add("--output", required=True, help="dataset folder to write")
    add("--split", help="name of the split that takes all rows: train, eval, ...")
    add("--splits", type=_shares, default=(), help="shares by a hash of the id, instead: "
        "train=0.98,eval=0.02")
    add("--fasteval", type=int, help="draw this many images by a hash of the id into an "
        "evaluation split `fasteval`, before any other split takes its rows")
    add("--num_shards", type=int, help="files of a split (16, or one for every 8192 images)")
    add("--max_failure_rate", type=float, default=0.01,
        help="end with code 3 where more of the images are lost (0.01)")
    add("--workers", type=int, default=1, help="processes on this machine (1)")
    add("--plan_only", action="store_true", help="read the rows, print what the shards would "
        "hold, and write nothing")
    add("--overwrite", action="store_true", help="delete the split that is there, write it anew")
# fmt: on


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (word.strip() for word in text.split(",")) if word)


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [word.partition("=") for word in _words(text)]
    try:
        return tuple((name, float(share)) for name, _, share in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"each split needs its share, as in train=0.98,eval=0.02. Received: {text!r}"
        ) from None


_Group = TypeVar("_Group")


def _filled(kind: type[_Group], values: Mapping[str, Any]) -> _Group:
    """A dataclass from the flags of the same names."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})


def parse(argv: Sequence[str]) -> tuple[ShardingOptions, "PipelineOptions"]:
    """Our options and Beam's, checked; raises OptionsError, and SystemExit for --help."""
    try:
        arguments, rest = parser().parse_known_args(argv)
    except OptionsError:
        _check_flags(argv)  # a misspelt flag is a likelier mistake than the one that it leaves out
        raise
    _check_flags(rest)
    _check_repeated(argv)
    flags: dict[str, Any] = {
        name: storage.without_file_scheme(value) if isinstance(value, str) else value
        for name, value in vars(arguments).items()
    }
    if flags["images"] is None and flags["source"] == "manifest":
        flags["images"] = "."
    if flags["min_labels"] is None:
        flags["min_labels"] = 1 if flags["source"] == "open_images" else 0
    _check_values(flags, argv)
    splits = SplitOptions(
        flags["split"], flags["splits"], flags["split_column"] is not None, flags["fasteval"]
    )
    options = ShardingOptions(
        source=_filled(SourceOptions, flags),
        labels=_filled(LabelOptions, {**flags, "labels": None}),
        images=_filled(ImageRecipe, flags),
        splits=splits,
        **{
            name: flags[name]
            for name in ("output", "num_shards", "deduplicate", "allow_hosts",
                         "max_failure_rate", "plan_only", "overwrite")
        },
    )  # fmt: skip
    _check_splits(options)
    found = beam_options.parse(rest, flags["workers"])
    if beam_options.are_elsewhere(found):
        options = _with_absolute_paths(options)
    _check_places(options)
    return options, found


def _is_given(flag: str, argv: Sequence[str]) -> bool:
    return any(argument.split("=", 1)[0] == f"--{flag}" for argument in argv)


def _check_values(flags: dict[str, Any], argv: Sequence[str]) -> None:
    def check(is_right: bool, flag: str, rule: str) -> None:
        if not is_right:
            raise OptionsError(f"--{flag} must be {rule}. Received: {flags[flag]!r}")

    for flag, value in flags.items():
        is_given = value != "" and not (value == () and _is_given(flag, argv))
        check(is_given, flag, "given a value")
    for flag in ("shorter_side", "crop", "min_class_count", "max_classes", "fasteval", "workers"):
        check(flags[flag] is None or flags[flag] >= 1, flag, "at least 1")
    check(not set("*?[") & set(flags["output"]), "output", "a folder without * ? or [ in its name")
    num_shards = 1 if flags["num_shards"] is None else flags["num_shards"]
    check(1 <= num_shards <= 99_999, "num_shards", "from 1 to 99999")
    check(1 <= flags["jpeg_quality"] <= 100, "jpeg_quality", "from 1 to 100")
    check(flags["min_labels"] >= 0, "min_labels", "at least 0")
    for flag in ("max_failure_rate", "min_confidence", "max_unknown_rate"):
        check(0 <= flags[flag] <= 1, flag, "from 0 to 1")
    for one, other in (
        ("shorter_side", "crop"), ("shorter_side", "untouched"), ("crop", "untouched"),
        ("upscale", "untouched"), ("classes", "max_classes"), ("classes", "min_class_count"),
        ("classes", "class_names"), ("plan_only", "overwrite"),
    ):  # fmt: skip
        if flags[one] and flags[other]:
            raise OptionsError(f"--{one} and --{other} exclude each other: give one of them")
    if flags["upscale"] and not (flags["shorter_side"] or flags["crop"]):
        raise OptionsError("--upscale needs a size: --shorter_side or --crop")
    if flags["untouched"] and flags["jpeg_quality"] != _DEFAULTS["jpeg_quality"]:
        raise OptionsError("--untouched and --jpeg_quality exclude each other: give one of them")
    source = flags["source"]
    if source in sources.WITH_LABEL_FILES and not flags["labels"]:
        raise OptionsError(f"--source={source} needs --labels: its label files")
    if not flags["images"]:
        raise OptionsError(f"--source={source} needs --images: where the images are")
    for flag, names in _FLAGS_OF_SOURCES.items():
        if flags[flag] not in (None, False, _DEFAULTS.get(flag)) and source not in names:
            raise OptionsError(f"--{flag} is for --source={' or '.join(names)} alone")
    for host in flags["allow_hosts"]:
        check(re.fullmatch(r".+:\d+", host) is not None, "allow_hosts", "HOST:PORT")


def _check_splits(options: ShardingOptions) -> None:
    splits = options.splits
    ways = [
        flag
        for flag, given in (
            ("--split", splits.name), ("--splits", splits.shares),
            ("--split_column", splits.by_column),
        )
        if given
    ]  # fmt: skip
    if len(ways) > 1:
        raise OptionsError(f"{' and '.join(ways)} exclude each other: give one of them")
    if not ways and not splits.fasteval:
        raise OptionsError("name the split that the rows fall into, for instance --split=train")
    for name in splits.names:
        check_split_name(name, "--split" if name == splits.name else "--splits")
    if len(set(splits.names)) < len(splits.names):
        raise OptionsError(f"a split is named twice: {', '.join(splits.names)}")
    total = sum(share for _, share in splits.shares)
    if any(not 0 < share <= 1 for _, share in splits.shares) or total > 1 + 1e-9:
        raise OptionsError(
            "--splits gives each split a share above 0, together at most 1. Received: "
            + ",".join(f"{name}={share:g}" for name, share in splits.shares)
        )


def check_split_name(name: str, what: str) -> None:
    """Raises OptionsError where TFDS could not have a split of this name."""
    if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is None:
        raise OptionsError(f"{what} must be a name of letters, digits and _. Received: {name!r}")
    if name == "all":
        raise OptionsError(
            f"{what} must be another name: TFDS calls all splits together 'all'. Received: 'all'"
        )


def _with_absolute_paths(options: ShardingOptions) -> ShardingOptions:
    def absolute(patterns: str | None) -> str | None:
        """Each of the patterns that is a path of this machine, and no name of a dataset."""
        return patterns and ",".join(
            os.path.abspath(path) if storage.is_local(path) and storage.match(path) else path
            for path in patterns.split(",")
        )

    source = dataclasses.replace(
        options.source,
        images=absolute(options.source.images) or "",
        labels=absolute(options.source.labels),
        image_info=absolute(options.source.image_info),
    )
    is_local = storage.is_local(options.output)
    output = os.path.abspath(options.output) if is_local else options.output
    return dataclasses.replace(options, source=source, output=output)


def _check_flags(arguments: Sequence[str]) -> None:
    """Raises OptionsError at the first flag that neither we nor Beam know."""
    known = [*_flags(parser()), *_flags(beam_options.parser())]
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


def _check_places(options: ShardingOptions) -> None:
    """Every path has a file system, and the folders that are named can be; raises OptionsError."""
    for flag, path in (
        ("labels", options.source.labels), ("images", options.source.images),
        ("image_info", options.source.image_info), ("output", options.output),
        ("classes", options.labels.classes), ("class_names", options.labels.class_names),
        ("hierarchy", options.labels.hierarchy),
    ):  # fmt: skip
        if path and not storage.has_file_system(path):
            raise OptionsError(
                f"--{flag}={path}: no file system for this URI is installed "
                f"(for gs://: {GOOGLE_CLOUD})"
            )
    images = options.source.images
    is_folder = options.source.source == "manifest" and storage.is_local(images)
    if is_folder and not os.path.isdir(images):
        raise OptionsError(f"--images={images}: no such folder")
    if storage.is_local(options.output) and os.path.isfile(options.output):
        raise OptionsError(f"--output={options.output} is a file, not a folder")
