import itertools
import pickle
import random

import pytest

from pipeline.annotations import LabelRules, Negative, Positive, Resolved
from pipeline.hierarchy import Hierarchy
from pipeline.records import Annotation

# thing ← animal ← cat ← tabby; thing ← pet ← cat; animal ← dog
HIERARCHY = Hierarchy.parse(
    b"child,parent\ntabby,cat\ncat,animal\ncat,pet\ndog,animal\nanimal,thing\npet,thing\n", "h.csv"
)
CLASSES = ("thing", "pet", "animal", "cat", "dog", "tabby")


def say(*words):
    """Annotations of `label`, `label:confidence` or `label:confidence:source`."""
    split = (word.split(":") for word in words)
    return [Annotation(label, float(*rest[:1] or [1]), *rest[1:]) for label, *rest in split]


def spoken(resolved):
    """The labels as `label:confidence:source`, and the negatives as `label:0:source`."""
    return [f"{p.label}:{p.confidence:g}:{p.source}" for p in resolved.positives] + [
        f"{n.label}:0:{n.source}" for n in resolved.negatives
    ]


def test_labels_become_class_ids_in_their_order_and_the_rest_is_unknown():
    rules = LabelRules(("dog", "cat", "bird"))
    said = say("zebra:1", "cat:0.5:machine", "dog:1:human", "ant:1", "bird:0:human", "yak:0:human")
    assert rules.resolve(said) == Resolved(
        positives=(Positive("dog", 0, 1.0, "human"), Positive("cat", 1, 0.5, "machine")),
        negatives=(Negative("bird", 2, "human"),),
        unknown=("ant", "zebra"),
        num_conflicts=0,
        num_passed_over=1,  # that it is no yak
    )


def test_without_a_vocabulary_every_label_is_kept_in_the_order_of_the_labels():
    resolved = LabelRules(None).resolve(say("dog:1:x", "cat:0.5", "bird:0"))
    assert resolved.positives == (Positive("cat", -1, 0.5, ""), Positive("dog", -1, 1.0, "x"))
    assert resolved.negatives == (Negative("bird", -1, ""),)
    assert resolved.unknown == ()


def test_an_image_of_which_nothing_is_said_has_no_labels():
    assert LabelRules(CLASSES, HIERARCHY).resolve([]) == Resolved((), (), (), 0)


def test_only_trusted_sources_count():
    rules = LabelRules(CLASSES, trusted_sources=("verification", ""))
    said = say(
        "cat:1:verification", "dog:1:machine", "pet:0:crowd", "animal", "thing:1:Verification"
    )
    assert spoken(rules.resolve(said)) == ["animal:1:", "cat:1:verification"]


def test_positives_below_the_minimum_confidence_are_unknown_and_negatives_stay():
    rules = LabelRules(CLASSES, min_confidence=0.7)
    said = say("cat:0.7", "dog:0.69", "pet:0:human")
    assert spoken(rules.resolve(said)) == ["cat:0.7:", "pet:0:human"]


def test_the_minimum_confidence_lets_its_own_float32_pass():
    # 0.7 as float32, as Parquet, TFDS and our own shards store it, is a little below 0.7.
    rules = LabelRules(CLASSES, min_confidence=0.7)
    assert len(rules.resolve([Annotation("cat", 0.699999988079071)]).positives) == 1
    assert not rules.resolve([Annotation("cat", 0.6999999)]).positives


@pytest.mark.parametrize(
    ("said", "kept", "num_conflicts"),
    [
        # A human beats a machine, whatever both say.
        (["cat:0:human", "cat:0.9:machine"], ["cat:0:human"], 1),
        (["cat:0.2:human", "cat:0.9:machine"], ["cat:0.2:human"], 0),
        (["cat:0.5:", "cat:0.9:machine"], ["cat:0.5:"], 0),
        # Among humans a positive beats a negative, and then the surest counts.
        (["cat:0:a", "cat:0.1:b"], ["cat:0.1:b"], 1),
        (["cat:0.5:b", "cat:0.6:a", "cat:0:a"], ["cat:0.6:a"], 1),
        # Of equals the smallest source.
        (["cat:0.5:b", "cat:0.5:a"], ["cat:0.5:a"], 0),
        (["cat:0:b", "cat:0:a"], ["cat:0:a"], 0),
        (["cat:0.5:machine", "cat:0.4:machine"], ["cat:0.5:machine"], 0),
        # Two labels in conflict.
        (["cat:0:a", "cat:1:b", "dog:0:a", "dog:0.5:machine"], ["cat:1:b", "dog:0:a"], 2),
    ],
)
def test_of_a_label_that_is_said_several_times_one_word_counts(said, kept, num_conflicts):
    for order in itertools.permutations(said):
        resolved = LabelRules(CLASSES).resolve(say(*order))
        assert spoken(resolved) == kept
        assert resolved.num_conflicts == num_conflicts


@pytest.mark.parametrize(
    ("said", "kept", "num_conflicts"),
    [
        # Ancestors by every road, as confident as the surest that implies them.
        ("tabby:0.5:machine", "thing:0.5:* pet:0.5:* animal:0.5:* cat:0.5:* tabby:0.5:machine", 0),
        ("cat:0.5:a dog:0.8:a", "thing:0.8:* pet:0.5:* animal:0.8:* cat:0.5:a dog:0.8:a", 0),
        # Descendants of a verified negative.
        ("pet:0:human", "pet:0:human cat:0:* tabby:0:*", 0),
        # What is said beats what is implied, from either side: animal and cat are both in doubt.
        ("cat:1:a animal:0:a", "thing:1:* pet:1:* cat:1:a animal:0:a dog:0:* tabby:0:*", 2),
        ("dog:0.9:a animal:0.2:machine", "thing:0.9:* animal:0.2:machine dog:0.9:a", 0),
        # tabby implies cat, and not-pet implies not-cat: the positive wins; pet, tabby as said.
        ("tabby:1:a pet:0:a", "thing:1:* animal:1:* cat:1:* tabby:1:a pet:0:a", 3),
        # A word that does not count implies nothing.
        ("cat:0:a cat:1:machine", "cat:0:a tabby:0:*", 1),
    ],
)
def test_the_hierarchy_closes_what_is_said(said, kept, num_conflicts):
    for order in itertools.permutations(said.split()):
        resolved = LabelRules(CLASSES, HIERARCHY).resolve(say(*order))
        assert spoken(resolved) == kept.replace("*", "hierarchy").split()
        assert resolved.num_conflicts == num_conflicts


def test_labels_outside_the_vocabulary_imply_and_only_those_that_were_said_are_listed():
    rules = LabelRules(("thing", "tabby"), HIERARCHY)
    resolved = rules.resolve(say("cat:0.5:a", "cat:0.6:machine", "unicorn:1:a", "pet:0:a"))
    assert spoken(resolved) == ["thing:0.5:hierarchy", "tabby:0:hierarchy"]
    assert resolved.unknown == ("cat", "unicorn")  # not animal and pet, which nobody said
    nothing = LabelRules(("thing",), HIERARCHY).resolve(say("pet:0:a"))
    assert nothing == Resolved((), (), (), 0, num_passed_over=1)


def test_what_was_implied_before_is_still_implied_when_shards_are_read_again():
    said = say("thing:0.4:hierarchy", "animal:0.4:hierarchy", "dog:0:hierarchy", "cat:0.8:machine")
    kept = "thing:0.8:* pet:0.8:* animal:0.8:* cat:0.8:machine dog:0:*"
    closed = LabelRules(CLASSES, HIERARCHY).resolve(said)
    assert spoken(closed) == kept.replace("*", "hierarchy").split()
    assert LabelRules(("cat",), HIERARCHY).resolve(said).unknown == ()
    kept = "thing:0.4:* animal:0.4:* cat:0.8:machine dog:0:*"
    assert spoken(LabelRules(CLASSES).resolve(said)) == kept.replace("*", "hierarchy").split()


def as_annotations(resolved):
    positives = [Annotation(p.label, p.confidence, p.source) for p in resolved.positives]
    return positives + [Annotation(n.label, 0.0, n.source) for n in resolved.negatives]


def drawn(rng):
    labels = [*CLASSES, "unicorn"]
    return [
        Annotation(
            rng.choice(labels), rng.choice((0, 0, 0.3, 0.7, 1)), rng.choice(("a", "b", "machine"))
        )
        for _ in range(rng.randrange(8))
    ]


@pytest.mark.parametrize("classes", [None, CLASSES, ("cat", "thing")])
@pytest.mark.parametrize("hierarchy", [None, HIERARCHY], ids=["flat", "hierarchy"])
def test_order_and_repetition_change_nothing(classes, hierarchy):
    rng = random.Random(0)
    rules = LabelRules(classes, hierarchy, min_confidence=0.2)
    for _ in range(300):
        said = drawn(rng)
        resolved = rules.resolve(said)
        again = said + rng.choices(said, k=5) if said else said
        rng.shuffle(again)
        assert rules.resolve(again) == resolved
        assert rules.resolve(iter(said)) == resolved
        if classes != ("cat", "thing"):  # where nothing was left out
            settled = rules.resolve(as_annotations(resolved))
            assert (settled.positives, settled.negatives) == (
                resolved.positives,
                resolved.negatives,
            )


def test_every_label_is_what_the_rules_say_of_it_one_by_one():
    ancestors = {
        "tabby": {"cat", "animal", "pet", "thing"},
        "cat": {"animal", "pet", "thing"},
        "dog": {"animal", "thing"},
        "animal": {"thing"},
        "pet": {"thing"},
    }
    rng = random.Random(1)
    for _ in range(500):
        said = drawn(rng)
        states = {}
        for label in CLASSES:
            words = [a for a in said if a.label == label]
            words = [a for a in words if a.source != "machine"] or words
            if words:
                states[label] = max(a.confidence for a in words)  # 0: negative
        expected = dict(states)
        for label in set(CLASSES) - set(states):
            below = [c for other, c in states.items() if c and label in ancestors.get(other, ())]
            above = any(states.get(a) == 0 for a in ancestors.get(label, ()))
            if below:
                expected[label] = max(below)
            elif above:
                expected[label] = 0
        resolved = LabelRules(CLASSES, HIERARCHY).resolve(said)
        found = {p.label: p.confidence for p in resolved.positives}
        found |= {n.label: 0 for n in resolved.negatives}
        assert found == expected


def test_pickled_rules_carry_no_more_than_their_fields():
    rules = LabelRules(CLASSES, HIERARCHY, 0.5, ("a", "machine"))
    before = pickle.dumps(rules)
    said = say("tabby:1:a", "dog:0:a", "cat:0.4:a")
    resolved = rules.resolve(said)
    assert pickle.dumps(rules) == before
    copy = pickle.loads(before)  # noqa: S301
    assert copy == rules
    assert copy.resolve(said) == resolved
