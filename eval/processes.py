"""Counts an evaluation in several processes: each a part of the shards, merged to the same bits.

    with Processes(4) as processes:
        evaluator = Evaluator(evaluation_set, count=processes.count)

The processes start at the first count and stay for the next ones, so that each builds its network
once. They die with this process, however it dies. One that dies, or says nothing for too long, ends
all of them: WorkerError.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NoReturn

from eval import part_files
from eval.evaluation_set import EvaluationSet, Part
from eval.evaluator import count
from eval.examples import Gallery
from eval.progress import Progress
from eval.scores import Scores
from eval.tally import Tally
from model import quiet
from model.launch.processes import die_with_parent
from pipeline.cores import num_cores

SILENCE = 300.0  # seconds; the first batch comes after TensorFlow's start


class WorkerError(RuntimeError):
    """A process died or hangs; starting again may help."""


class Processes:
    """A number of processes that count.

    Args:
        num_processes: how many; fewer are used where there are fewer shards.
        silence: seconds without a batch after which a process counts as hanging.
    """

    def __init__(self, num_processes: int, silence: float = SILENCE):
        self._num_processes, self._silence = num_processes, silence
        self._workers: list[_Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def count(self, scores: Scores, evaluation_set: EvaluationSet) -> tuple[Tally, Gallery]:
        """Goes once over all images, as `eval.evaluator.count_whole` does.

        Raises what that raises, or WorkerError.
        """
        parts = evaluation_set.parts(self._num_processes)
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
            results = [Path(folder) / str(number) for number in range(len(parts))]
            try:
                self._start(len(parts))
                for worker, part, result in zip(self._workers, parts, results, strict=False):
                    worker.send((scores, evaluation_set, part, result))
                self._wait(self._workers[: len(parts)], evaluation_set.split.num_examples)
            except BaseException:
                self._stop()  # none goes on with what nobody waits for
                raise
            return part_files.merged(results)

    def _start(self, num_workers: int) -> None:
        threads = max(1, num_cores() // self._num_processes)
        for number in range(len(self._workers), num_workers):
            self._workers.append(_Worker(f"process {number + 1} of {num_workers}", threads))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _wait(self, workers: list[_Worker], num_images: int) -> None:
        """Returns when all have said that they are done."""
        waiting = {worker.connection: worker for worker in workers}
        deadlines = dict.fromkeys(waiting, time.monotonic() + self._silence)
        with Progress(f"evaluating in {len(workers)} processes", num_images) as progress:
            while waiting:
                next_deadline = min(deadlines[connection] for connection in waiting)
                ready = wait(list(waiting), max(0.0, next_deadline - time.monotonic()))
                for connection, worker in list(waiting.items()):
                    if connection not in ready:
                        continue
                    num_seen = worker.receive()
                    deadlines[connection] = time.monotonic() + self._silence
                    if num_seen is None:
                        del waiting[connection]
                    else:
                        progress.advance(num_seen)
                if not ready:
                    silent = min(waiting, key=deadlines.__getitem__)
                    waiting[silent].fail(f"has said nothing for {self._silence:g} s")


class _Worker:
    """A process, and the pipe to it."""

    def __init__(self, name: str, threads: int):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self._name = name
        self.connection, theirs = context.Pipe()
        arguments = (theirs, threads, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that its death closes the pipe

    def send(self, task: tuple[Scores, EvaluationSet, Part, Path]) -> None:
        try:
            self.connection.send(task)
        except ConnectionError:
            self._fail_dead()

    def receive(self) -> int | None:
        """How many images it has seen since it spoke last; None: it is done. Raises its errors."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            self._fail_dead()
        if isinstance(message, Exception):
            raise message
        return message

    def _fail_dead(self) -> NoReturn:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        hint = " (the system does that where memory is short)" if code == -signal.SIGKILL else ""
        self.fail(f"died {how}{hint}")

    def fail(self, what: str) -> NoReturn:
        raise WorkerError(
            f"The evaluation's {self._name} {what}; the others were ended. Start this command "
            "again; with a lower --num_processes or --batch_size it needs less memory."
        )


def _serve(connection: Connection, threads: int, parent: int) -> None:
    """What a process does: count one part after another."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
    if os.getppid() != parent:
        sys.exit(1)  # it was quicker
    quiet.limit_threads(threads)
    while True:
        try:
            scores, evaluation_set, part, result = connection.recv()
        except EOFError:
            return
        try:
            tally, gallery = count(scores, evaluation_set, part, connection.send)
            part_files.write(result, tally, gallery)
            connection.send(None)
        except Exception as error:
            error.add_note(traceback.format_exc())  # its own does not travel
            connection.send(error)
