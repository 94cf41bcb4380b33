import re

import numpy as np

from pipeline import metadata


def test_a_preview_says_what_the_shards_will_hold_and_writes_nothing(workplace, capsys):
    workplace.write_labels(workplace.add_images(40))
    flags = ("--num_shards=4", "--shorter_side=20")
    assert workplace.run(*flags, "--plan_only") == 0
    assert not workplace.output.exists()
    text = capsys.readouterr().out
    assert "rows           40" in text
    least, most = map(int, re.search(r"rows a shard +(\d+) to (\d+), 10 on average", text).groups())
    (megabytes,) = map(float, re.search(r"([\d.]+) MB, 0.00 GB in all", text).groups())
    assert workplace.run(*flags) == 0
    lengths = metadata.load_split(workplace.output, "train").shard_lengths
    assert (least, most) == (min(lengths), max(lengths))
    written = np.mean([len(shard) for shard in workplace.shards().values()])
    assert abs(megabytes - written / 1e6) <= 0.1


def test_each_split_is_previewed(workplace, capsys):
    workplace.write_labels(workplace.add_images(40))
    assert workplace.run("--splits=train=0.5,eval=0.5", "--plan_only", split=None) == 0
    counts = [int(n) for n in re.findall(r"  rows +(\d+)", capsys.readouterr().out)]
    assert len(counts) == 2
    assert sum(counts) == 40


def test_a_column_and_a_drawn_split_are_previewed_as_they_will_be(workplace, capsys):
    rows = [
        f"{row},{'train' if n % 4 else 'eval'}" for n, row in enumerate(workplace.add_images(40))
    ]
    workplace.write_labels(rows, header="image_path,labels,subset")
    assert workplace.run("--split_column=subset", "--fasteval=8", "--plan_only", split=None) == 0
    text = capsys.readouterr().out
    assert re.findall(r"split '(\w+)' would have", text) == ["eval", "fasteval", "train"]
    assert workplace.run("--split_column=subset", "--fasteval=8", split=None) == 0
    shards = [len(workplace.shards(split)) for split in ("eval", "fasteval", "train")]
    assert [int(n) for n in re.findall(r"  shards +(\d+)", text)] == shards


def test_images_of_the_sample_that_cannot_be_read_are_said(workplace, capsys):
    workplace.write_labels([*workplace.add_images(5), "absent.jpg,cat"])
    assert workplace.run("--plan_only") == 0
    assert "unreadable     1 of" in capsys.readouterr().out
