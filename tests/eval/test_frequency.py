"""Head, torso and tail."""

from eval import frequency


def test_classes_with_positives_are_cut_into_thirds_by_training_count():
    groups = frequency.groups(
        {
            "training_count": [1, 100, 30, 0, 20, 50, 2],
            "average_precision": [0.2, 0.9, 0.6, None, 0.4, 0.7, 0.1],
            "recall": [0.5, 1.0, 1.0, None, 0.8, 1.0, 0.0],
        }
    )
    assert [(g.name, list(g.class_ids), g.lowest_count, g.highest_count) for g in groups] == [
        ("head", [1, 5], 50, 100),
        ("torso", [2, 4], 20, 30),
        ("tail", [6, 0], 1, 2),
    ]
    assert [round(g.mean_average_precision, 6) for g in groups] == [0.8, 0.5, 0.15]
    assert [round(g.mean_recall, 6) for g in groups] == [1.0, 0.9, 0.25]


def test_with_one_class_there_is_a_head_alone():
    columns = {"training_count": [5], "average_precision": [0.5], "recall": [1.0]}
    assert [group.name for group in frequency.groups(columns)] == ["head"]
