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
        name = _digest([self.inventory.digest, dataclasses.asdict(self.options.splits)])[:16]
        return storage.join(self.options.output, "commits", "unpacked", name)

    @property
    def survey_path(self) -> str:
        options = self.options
        question = dataclasses.asdict(options.labels) | dataclasses.asdict(options.splits)
        question |= {"output": "", "hierarchy": self.hierarchy_digest}
        name = f"survey-{_digest([self.inventory.digest, question])[:16]}.json"
        return storage.join(options.output, "commits", name)

    @property
    def needs_survey(self) -> bool:
        splits = self.options.splits
        return self.vocabulary is None or splits.by_column or bool(splits.fasteval)

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
            self.rules(None),
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
        return _read_classes(chosen.classes)
    if chosen.min_class_count or chosen.max_classes:
        return None
    others = _begun_splits(options.output) - set(options.splits.names)
    path = storage.join(options.output, metadata.CLASSES_FILE)
    if others and not options.splits.by_column and storage.exists(path):
        return _read_classes(path)
    return source.vocabulary()


def _read_classes(path: str) -> Vocabulary:
    return Vocabulary.parse(storage.read_bytes(path), path)


def _begun_splits(output: str) -> set[str]:
    records = storage.match(f"{output.rstrip('/')}/commits/*/run.json")
    return {record.rsplit("/", 2)[-2] for record in records}


@dataclasses.dataclass(frozen=True)
class _SplitPlan:
    selection: Selection
    num_images: int  # a close estimate


def _split_plans(inputs: Inputs, survey: Survey | None) -> dict[str, _SplitPlan]:
    """The splits, in the order in which they are written."""
    splits = inputs.options.splits
    drawn_end = 0
    if survey is not None and splits.fasteval:
        check_drawn(survey, splits.fasteval)
        drawn_end = survey.drawn_end
    if splits.by_column:
        assert survey is not None
        selections = _by_column(survey, inputs.options.source.split_column or "")
    else:
        selections = dict(inputs.question().selections)
    found = {}
    for name, selection in selections.items():
        num_images = round(inputs.inventory.num_images * selection.share)
        if survey is not None:
            num_images = survey.images_left()[name]
        found[name] = _SplitPlan(
            dataclasses.replace(selection, drawn_end=drawn_end), max(1, num_images)
        )
    if splits.fasteval:
        drawn = Selection(drawn_end=drawn_end, is_drawn=True)
        found[FASTEVAL] = _SplitPlan(drawn, splits.fasteval)
    return dict(sorted(found.items(), key=lambda item: (is_training(item[0]), item[0])))


def _by_column(survey: Survey, column: str) -> dict[str, Selection]:
    names = sorted(survey.num_images)
    without = survey.num_images.get("", 0)
    if without:
        raise OptionsError(f"--split_column={column}: {without:,} images have no split there")
    for name in names:
        check_split_name(name, f"--split_column={column}: a split")
    return {
        name: Selection(cell=name, takes_bad_rows=index == 0) for index, name in enumerate(names)
    }


def plan_runs(inputs: Inputs, survey: Survey | None) -> list["SplitRun"]:
    """What is to be written, split by split; raises OptionsError."""
    vocabulary = inputs.vocabulary
    if vocabulary is None:
        assert survey is not None
        chosen = inputs.options.labels
        try:
            vocabulary = labels.build(
                survey.training_counts() or survey.class_counts,
                chosen.min_class_count or 1,
                chosen.max_classes,
                inputs.class_names,
            )
        except LabelError as error:
            raise OptionsError(str(error)) from error
    return [
        SplitRun(inputs, vocabulary, name, split.selection, split.num_images)
        for name, split in _split_plans(inputs, survey).items()
    ]


@dataclasses.dataclass(frozen=True)
class SplitRun:
    """A split that will be planned once the evaluation splits before it are written."""

    inputs: Inputs
    vocabulary: Vocabulary
    split: str
    selection: Selection
    num_images: int  # a close estimate

    @property
    def num_shards(self) -> int:
        return self.inputs.options.num_shards or default_num_shards(self.num_images)

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
            "classes": hashlib.sha256(self.vocabulary.to_tsv().encode()).hexdigest(),
            "images": _normalized(options.source.images),
        }
        plan = Plan(
            output=options.output,
            images=options.source.images,
            allow_hosts=options.allow_hosts,
            files=inputs.inventory.files,
            label_delimiter=options.source.label_delimiter,
            verifies_checksums=options.source.source != "open_images",
            counts_duplicates=not (
                options.source.long_form or options.source.source == "open_images"
            ),
            fingerprint=_digest([identity, recipe.to_dict()]),
            rules=inputs.rules(self.vocabulary),
            recipe=recipe,
        )
        return Run(plan, self.vocabulary, identity, warnings)

    def _held_out(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Evaluation splits with their fingerprints, to be kept out; and what to warn of.

        A run that has begun keeps to those that it began with.
        """
        options = self.inputs.options
        if not is_training(self.split) or options.deduplicate == "off":
            return {}, ()
        there = {
            marker["split"]: marker["fingerprint"]
            for marker in publish.markers(options.output)
            if not is_training(marker["split"])
        }
        record = storage.read_json(
            storage.join(commits_folder(options.output, self.split), "run.json")
        )
        recipe = (record or {}).get("recipe")
        begun_with = recipe.get("held_out") if isinstance(recipe, dict) else None
        if options.overwrite or not isinstance(begun_with, dict):
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


def default_num_shards(num_images: int) -> int:
    """Enough that workers share them evenly, few enough that each is worth opening."""
    return max(min(_MIN_SHARDS, num_images), -(-num_images // _ROWS_PER_SHARD))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
