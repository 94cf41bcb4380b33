"""From options and inputs to the runs of a command: one run a split, evaluation splits first.

An evaluation split comes before training, so that its images can be kept out of training: by what
its own run has left in the folder, whether that was this command or an earlier one.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

from pipeline import labels, metadata, publish, rows, schema, sources, storage
from pipeline.annotations import LabelRules
from pipeline.hierarchy import Hierarchy
from pipeline.labels import LabelError, Vocabulary
from pipeline.options import OptionsError, ShardingOptions, check_split_name
from pipeline.recipe import FASTEVAL, Recipe, Selection, is_training, shares
from pipeline.sharding import Plan, codec_versions, commits_folder
from pipeline.sources.source import Inventory, Source, SourceError
from pipeline.survey import Question, Survey, check_drawn

_ROWS_PER_SHARD = 8192
_MIN_SHARDS = 16


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a command has to work with; read once."""

    options: ShardingOptions
    source: Source
    inventory: Inventory
    hierarchy: Hierarchy | None
    hierarchy_digest: str
    class_names: dict[str, str]
    vocabulary: Vocabulary | None  # None: to be built from the rows

    @property
    def unpacked_dir(self) -> str:
        """Where what cannot be read in place is unpacked, for this command alone."""
        found = [self.inventory.digest, self.inventory.stamp]
        name = _digest([found, dataclasses.asdict(self.options.splits)])[:16]
        return storage.join(self.options.output, "commits", "unpacked", name)

    @property
    def survey_path(self) -> str:
        """Where the survey of just this is kept: another class list draws other images."""
        chosen = self.options.labels
        asked = {
            "rows": [self.inventory.digest, self.inventory.stamp],
            "classes": _classes_digest(self.vocabulary) if self.vocabulary else None,
            "hierarchy": self.hierarchy_digest,
            "rules": [chosen.min_confidence, chosen.trusted_sources, chosen.min_labels],
            "splits": dataclasses.asdict(self.options.splits),
        }
        name = f"survey-{_digest(asked)[:16]}.json"
        return storage.join(self.options.output, "commits", name)

    @property
    def rows_are_images(self) -> bool:
        """Whether an image has one row; a second one is a duplicate."""
        source = self.options.source
        return not source.long_form and source.source != "open_images"

    @property
    def splits_need_survey(self) -> bool:
        """Whether it takes a survey to know what the splits will be, and how many shards."""
        splits = self.options.splits
        is_counted = self.rows_are_images or self.options.num_shards is not None
        return splits.by_column or bool(splits.fasteval) or not is_counted

    def rules(self, vocabulary: Vocabulary | None) -> LabelRules:
        chosen = self.options.labels
        return LabelRules(
            classes=None if vocabulary is None else vocabulary.classes,
            hierarchy=self.hierarchy,
            min_confidence=chosen.min_confidence,
            trusted_sources=chosen.trusted_sources,
        )

    def question(self) -> Question:
        """What a survey is to answer."""
        splits = self.options.splits
        selections = shares(splits.shares)
        if splits.name:
            selections[splits.name] = Selection()
        return Question(
            self.rules(self.vocabulary),
            self.options.labels.min_labels,
            tuple(selections.items()),
            splits.fasteval or 0,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A split that is about to be written."""

    plan: Plan
    vocabulary: Vocabulary
    inputs: dict[str, Any]  # what the fingerprint covers besides the recipe
    stamp: str  # of the input: another one, and its rows are read again
    warnings: tuple[str, ...]


def read_inputs(options: ShardingOptions) -> Inputs:
    """Finds what there is to read; raises OptionsError."""
    chosen = options.labels
    try:
        source = sources.make(options.source)
        inventory = source.inventory()
        if inventory.num_rows < 1:
            raise OptionsError(f"no row in {len(inventory.files):,} file(s) of the input")
        hierarchy, hierarchy_digest, class_names = None, "", {}
        if chosen.hierarchy:
            data = storage.read_bytes(chosen.hierarchy)
            hierarchy = Hierarchy.parse(data, chosen.hierarchy)
            hierarchy_digest = hashlib.sha256(data).hexdigest()
        if chosen.class_names:
            data = storage.read_bytes(chosen.class_names)
            class_names = labels.parse_class_names(data, chosen.class_names)
        vocabulary = _given_vocabulary(options, source)
    except (LabelError, SourceError, metadata.MetadataError) as error:
        raise OptionsError(str(error)) from error
    except OSError as error:
        raise OptionsError(f"cannot read: {error}") from error
    return Inputs(options, source, inventory, hierarchy, hierarchy_digest, class_names, vocabulary)


def _given_vocabulary(options: ShardingOptions, source: Source) -> Vocabulary | None:
    """The class list that is there before any row is read."""
    chosen = options.labels
    if chosen.classes:
        return publish.read_classes(chosen.classes)
    if chosen.min_class_count or chosen.max_classes:
        return None
    others = set(publish.run_records(options.output)) - set(options.splits.names)
    path = storage.join(options.output, metadata.CLASSES_FILE)
    if others and not options.splits.by_column and storage.exists(path):
        return publish.read_classes(path)
    return source.vocabulary()


@dataclasses.dataclass(frozen=True)
class PlannedSplit:
    """What falls into a split."""

    selection: Selection
    num_shards: int


def plan_splits(inputs: Inputs, survey: Survey | None) -> dict[str, PlannedSplit]:
    """The splits by name, in the order in which they are written; raises OptionsError."""
    splits = inputs.options.splits
    drawn_end = 0
    if survey is not None and splits.fasteval:
        check_drawn(survey, splits.fasteval)
        drawn_end = survey.drawn_end
    if splits.by_column:
        if survey is None:
            raise ValueError("splits in a column are not known without a survey")
        selections = _by_column(survey, inputs)
    else:
        selections = dict(inputs.question().selections)
    found = {}
    for name, selection in selections.items():
        num_images = round(inputs.inventory.num_images * selection.share)
        if survey is not None:
            num_images = survey.images_left()[name]
        num_shards = inputs.options.num_shards or _default_num_shards(num_images)
        drawn_apart = dataclasses.replace(selection, drawn_end=drawn_end)
        found[name] = PlannedSplit(drawn_apart, num_shards)
    if splits.fasteval:
        drawn = Selection(drawn_end=drawn_end, is_drawn=True)
        num_shards = inputs.options.num_shards or _default_num_shards(splits.fasteval)
        found[FASTEVAL] = PlannedSplit(drawn, num_shards)
    return dict(sorted(found.items(), key=lambda item: (is_training(item[0]), item[0])))


def _by_column(survey: Survey, inputs: Inputs) -> dict[str, Selection]:
    flag = f"--split_column={inputs.options.source.split_column}"
    without = survey.num_images[""]
    if without:
        raise OptionsError(f"{flag}: {without:,} images have no split there")
    # Images whose rows name several become dead letters of the first split.
    names = sorted(name for name in survey.num_images if name and "," not in name)
    if not names:
        found = _what_was_found(survey, inputs.inventory)
        raise OptionsError(f"{flag}: no image has a split there: {found}")
    for name in names:
        check_split_name(name, f"{flag}: a split")
    if inputs.options.splits.fasteval and FASTEVAL in names:
        raise OptionsError(f"{flag} has a split {FASTEVAL!r} of its own: leave out --fasteval")
    return {name: Selection(cell=name, takes_strays=index == 0) for index, name in enumerate(names)}


def _what_was_found(survey: Survey, inventory: Inventory) -> str:
    """For a message that there is nothing to work with."""
    found = f"{survey.num_images.total():,} images were found"
    if survey.bad_row is None:
        return found
    detail, place = survey.bad_row
    file, _, number = place.partition(":")
    where = f"{inventory.files[int(file)]}:{number}"
    return f"{found}, and {survey.num_bad_rows:,} rows that cannot be read, as {where}: {detail}"


def plan_runs(inputs: Inputs, survey: Survey | None) -> list["SplitRun"]:
    """What is to be written, split by split; raises OptionsError."""
    splits = plan_splits(inputs, survey)
    vocabulary = inputs.vocabulary
    if vocabulary is None:
        if survey is None:
            raise ValueError("a class list is not built without a survey")
        vocabulary = _built_vocabulary(inputs, survey)
    return [
        SplitRun(inputs, vocabulary, name, split.selection, split.num_shards)
        for name, split in splits.items()
    ]


def _built_vocabulary(inputs: Inputs, survey: Survey) -> Vocabulary:
    """The class list that the labels make."""
    counts = survey.label_counts()
    if not counts:
        raise OptionsError(
            "there is no positive label to make a class list of: "
            f"{_what_was_found(survey, inputs.inventory)}. Are --labels_column, --min_confidence, "
            "--trusted_sources and --min_labels the right ones?"
        )
    chosen = inputs.options.labels
    try:
        return labels.build(
            counts, chosen.min_class_count or 1, chosen.max_classes, inputs.class_names
        )
    except LabelError as error:
        raise OptionsError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class SplitRun:
    """A split that will be planned once the evaluation splits before it are written."""

    inputs: Inputs
    vocabulary: Vocabulary
    split: str
    selection: Selection
    num_shards: int

    def plan(self) -> Run:
        """The run, by what stands in the folder now."""
        inputs, options = self.inputs, self.inputs.options
        chosen = options.labels
        held_out, warnings = self._held_out()
        recipe = Recipe(
            split=self.split,
            selection=self.selection,
            num_shards=self.num_shards,
            images=options.images,
            min_confidence=chosen.min_confidence,
            trusted_sources=chosen.trusted_sources,
            hierarchy=inputs.hierarchy_digest,
            min_labels=chosen.min_labels,
            deduplicate=options.deduplicate,
            held_out=tuple(sorted(held_out.items())),
            format_version=schema.FORMAT_VERSION,
            salt=rows.SALT,
            codecs=codec_versions(),
        )
        identity = {
            "rows": inputs.inventory.digest,
            "classes": _classes_digest(self.vocabulary),
            "images": _normalized(options.source.images),
        }
        plan = Plan(
            output=options.output,
            images=options.source.images,
            allow_hosts=options.allow_hosts,
            files=inputs.inventory.files,
            verifies_checksums=options.source.source != "open_images",
            counts_duplicates=inputs.rows_are_images,
            fingerprint=_digest([identity, recipe.to_dict()]),
            rules=inputs.rules(self.vocabulary),
            draw_rules=inputs.rules(inputs.vocabulary),
            recipe=recipe,
        )
        return Run(plan, self.vocabulary, identity, inputs.inventory.stamp, warnings)

    def _held_out(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Evaluation splits with their fingerprints, to be kept out; and what to warn of.

        A run that has begun keeps to those that it began with.
        """
        options = self.inputs.options
        if options.deduplicate == "off":
            return {}, ()
        there = {m["split"]: m["fingerprint"] for m in publish.markers(options.output)}
        training = sorted(filter(is_training, there))
        if not is_training(self.split):
            warning = (
                f"{' and '.join(map(repr, training))} was written before {self.split!r}: images "
                "that they share are still in it. --overwrite writes it anew without them"
            )
            return {}, (warning,) * bool(training)
        there = {split: there[split] for split in there if split not in training}
        unfinished = sorted(
            split
            for split in publish.run_records(options.output)
            if split not in there and not is_training(split)
        )
        record = storage.read_json(
            storage.join(commits_folder(options.output, self.split), "run.json")
        )
        begun = record or publish.read_marker(options.output, self.split) or {}
        recipe = begun.get("recipe")
        begun_with = recipe.get("held_out") if isinstance(recipe, dict) else None
        if options.overwrite or not isinstance(begun_with, dict):
            if unfinished:
                raise OptionsError(
                    f"the evaluation split {unfinished[0]!r} of {options.output} is not complete: "
                    "its images cannot be kept out of training. Finish it first (or take its "
                    f"commits/{unfinished[0]} away), or give --deduplicate=off"
                )
            return there, ()
        later = sorted(name for name in there if there[name] != begun_with.get(name))
        if not later:
            return begun_with, ()
        warning = (
            f"split {self.split!r} was begun before {' and '.join(map(repr, later))}: images that "
            "they share are still in it. --overwrite writes it anew without them"
        )
        return begun_with, (warning,)


def _normalized(folder: str) -> str:
    """One spelling for a folder, so that `photos`, `photos/` and `./photos` make one run."""
    return os.path.normpath(folder) if storage.is_local(folder) else folder.rstrip("/")


def _default_num_shards(num_images: int) -> int:
    """Enough that workers share them evenly, few enough that each is worth opening."""
    return max(1, min(_MIN_SHARDS, num_images), -(-num_images // _ROWS_PER_SHARD))


def _classes_digest(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(vocabulary.to_tsv().encode()).hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
