"""Several processes: the same bits as one, and a clear end where one of them dies or hangs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from tiny_run import CLASSES, STEPS, save_checkpoint

from eval import evaluate
from eval.evaluation_set import EvaluationSet
from eval.evaluator import count_whole
from eval.processes import Processes, WorkerError
from eval.scores import Batch


class MadeUpScores:
    """Scores of 30 images that need no network; pickled into the processes."""

    def __init__(self, trouble=None, of_shard=1):
        self._trouble, self._of_shard = trouble, of_shard

    def batches(self, evaluation_set, part):
        for shard in range(len(evaluation_set.split.shard_paths))[part.shards]:
            if self._trouble and shard == self._of_shard:
                self._trouble()
            rng = np.random.default_rng(shard)
            for number in range(evaluation_set.split.shard_lengths[shard]):
                yield Batch(
                    image_ids=[f"image-{shard}-{number}"],
                    scores=rng.integers(0, 4, (1, len(CLASSES))).astype(np.float32),
                    labels=[rng.choice(len(CLASSES), 1)],
                    negatives=[np.array([], np.int64)],
                    images=[b"jpeg of %d" % number],
                )


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def refuse():
    raise ValueError("no such scores")


@pytest.fixture
def evaluation_set(folder):
    return EvaluationSet.read(str(folder / "data"), "eval", None)


def children():
    found = psutil.Process().children()
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


def test_parts_of_two_processes_merge_into_what_one_process_counts(evaluation_set, tmp_path):
    expected, expected_gallery = count_whole(MadeUpScores(), evaluation_set)
    with Processes(2) as processes:
        for _ in range(2):  # the second time with the processes of the first
            tally, gallery = processes.count(MadeUpScores(), evaluation_set)
            assert tally.image_ids() == expected.image_ids()
            found, wanted = tally.all.result(), expected.all.result()
            assert found.class_ap.tobytes() == wanted.class_ap.tobytes()
            assert found.top_images_ap.tobytes() == wanted.top_images_ap.tobytes()
            assert found.image_map == wanted.image_map
            classes = CLASSES.classes
            assert gallery.to_json(classes) == expected_gallery.to_json(classes)
        assert len(children()) == 2
    assert children() == []


@pytest.mark.parametrize(
    ("trouble", "told"),
    [(die, "process 2 of 2 died by SIGKILL"), (leave, "process 2 of 2 died with exit code 3")],
)
def test_a_process_that_dies_ends_the_others_and_is_named(evaluation_set, trouble, told):
    with pytest.raises(WorkerError, match=told), Processes(2) as processes:
        processes.count(MadeUpScores(trouble), evaluation_set)
    assert children() == []


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_and_is_named(evaluation_set):
    told = "process 2 of 2 has said nothing for 15 s"
    with pytest.raises(WorkerError, match=told), Processes(2, silence=15) as processes:
        processes.count(MadeUpScores(stop), evaluation_set)
    assert children() == []


def test_what_goes_wrong_in_a_process_is_raised_here_and_the_next_count_starts_anew(
    evaluation_set,
):
    with Processes(2) as processes:
        with pytest.raises(ValueError, match="no such scores") as error:
            processes.count(MadeUpScores(refuse), evaluation_set)
        assert "in refuse" in error.value.__notes__[0]
        tally, _ = processes.count(MadeUpScores(), evaluation_set)
    assert tally.num_images == 30


def command(folder, *more):
    return [f"--workdir={folder / 'run'}", f"--data={folder / 'data'}", "--split=eval", *more]


def without_times(report):
    return {key: value for key, value in report.items() if key not in ("written", "seconds")}


@pytest.mark.slow
def test_the_command_writes_the_same_report_with_two_processes(folder, network):
    save_checkpoint(folder / "run", network, step=30, noise=0.1)
    reports, examples = [], []
    for number in (1, 2):
        output = folder / f"results-{number}"
        flags = command(folder, f"--num_processes={number}", f"--output={output}")
        assert evaluate.main(flags) == 0
        reports.append(without_times(json.loads((output / "report.json").read_text())))
        examples.append((output / "examples.json").read_text())
    assert reports[0] == reports[1]
    assert examples[0] == examples[1]


@contextlib.contextmanager
def started(folder, *more):
    """The command in a process of its own, with what it says on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.evaluate", *command(folder, "--num_processes=2", *more)],
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, process.kill)  # ends a `communicate` that would not
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        for child in workers_of(process):
            child.kill()
        process.kill()
        process.communicate(timeout=30)


def workers_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children()
        return [child for child in found if "spawn_main" in " ".join(child.cmdline())]
    return []


def wait_for_workers(process, count=2):
    while len(workers_of(process)) < count:
        assert process.poll() is None
        time.sleep(0.05)
    return workers_of(process)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "died by SIGKILL"), (signal.SIGSTOP, "said nothing for")]
)
def test_the_command_ends_with_75_where_a_process_dies_or_hangs(folder, number, told):
    with started(folder, "--process_timeout=20") as process:
        workers = wait_for_workers(process)
        workers[1].send_signal(number)
        _, error = process.communicate(timeout=100)
        assert process.returncode == 75, error
        assert told in error
        assert "Start this command again" in error
        assert "Traceback" not in error
        assert not any(worker.is_running() for worker in workers)
    assert evaluate.main(command(folder)) == 0  # nothing is left that stands in the way


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_process_behind(folder):
    with started(folder) as process:
        workers = wait_for_workers(process)
        process.kill()
        process.wait(timeout=30)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []


@pytest.mark.slow
def test_watching_with_two_processes_evaluates_each_checkpoint(folder, capsys):
    (folder / "run/completed.json").write_text("{}")
    assert evaluate.main(command(folder, "--watch", "--num_processes=2")) == 0
    lines = (folder / "run/eval/eval/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(STEPS)
