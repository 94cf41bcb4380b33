"""What takes the steps of a training: this process, or the workers of a cluster.

Both have `advance`, which takes steps or has them taken, `restart_input`, `workers_alive`,
`why_start_anew`, `damaged`, the DamagedRecords of the input, and `is_here`: whether the steps are
taken inside of `advance`.
"""

import time

import tensorflow as tf

from model import run_folder
from model.cluster import silent
from model.damage import DamagedRecords
from model.input import forget_seed, training_dataset
from model.telemetry import report
from model.training_step import training_step
from model.watchdog import WorkerWatch
from pipeline import metadata

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5  # seconds

# So many times `train.stall_timeout` a worker that answers may take no step before the chief wants
# a new start: while another is gone, which TensorFlow waits for; and where nobody is.
_BEHIND_ANOTHER, _ALONE = 2, 4


class InProcess:
    """Takes the steps in this process."""

    is_here = True
    workers_alive = None  # there are none

    def __init__(self, take_steps, dataset_fn, damaged):
        self.damaged = damaged
        self._take_steps = take_steps
        self._dataset_fn = dataset_fn
        self.restart_input()

    def why_start_anew(self):
        """Never: nobody could join."""
        return

    def restart_input(self):
        """Reads the shards from the start, as they are now."""
        self._iterator = iter(self._dataset_fn())

    def advance(self, steps_done, steps_wanted):
        """Takes some steps."""
        del steps_done, steps_wanted
        self._take_steps(self._iterator)


class OnCluster:
    """Hands closures to the workers and lets them run; a dead worker's closure goes to another.

    The store counts each worker's steps. One whose count stands still for `train.stall_timeout`
    seconds is said to hang, here and in the run's events, where a launcher finds it. A closure may
    take longer than that, a step may not.
    """

    is_here = False

    def __init__(
        self, config, store, cluster, coordinator, take_steps, dataset_fn, damaged, run_dir
    ):
        self.damaged = damaged
        self._store = store
        self._cluster = cluster
        self._coordinator = coordinator
        self._run_dir = run_dir
        timeout, first_timeout = config.train.stall_timeout, config.train.first_timeout
        self._looked = time.monotonic()
        present = cluster.present
        self._watch = WorkerWatch([0] * len(present), timeout, first_timeout, self._looked)
        self._look_every = min(1.0, timeout / 10)

        steps_per_closure = config.train.steps_per_closure
        self._take_steps = take_steps
        self._dataset_fn = dataset_fn
        self._steps_per_closure = steps_per_closure
        self._queue_steps = 2 * len(present) * steps_per_closure
        self._steps_seen, self._pause = None, _SHORTEST_PAUSE
        self.restart_input()

    def workers_alive(self):
        """(workers that answer, workers in all)."""
        num_workers = self._cluster.num_workers
        return num_workers - len(self._silent_workers()), num_workers

    def why_start_anew(self):
        """Words if more workers would take part after a start of all than do now; else None.

        TensorFlow connects to a worker that is back only when no other is missing, and never to
        one that was not there when the chief connected. Nor does it to one that comes back after a
        cut of the network, of which the chief's end of their connection knows nothing.
        """
        absent, missing = self._cluster.absent, self._silent_workers()
        come = absent - missing
        if come:
            return f"{_names(come)} came after the start and can join a new one"
        gone = missing - absent
        # Whoever was found to hang once may be replaced soon: a launcher does so.
        timeouts = _BEHIND_ANOTHER if gone else _ALONE
        silent = {self._cluster.present[i] for i in self._watch.silent_for(timeouts)}
        stuck = _names(silent - missing)
        if stuck and gone:
            return f"{stuck} cannot join while {_names(gone)} is gone, but at a new start"
        if stuck:
            return f"{stuck} answers and takes no step; a new start connects to it again"
        return None

    def _silent_workers(self):
        workers = enumerate(self._cluster.addresses["worker"])
        return {worker for worker, _ in silent(list(workers))}

    def restart_input(self):
        """Lets every worker read the shards from the start, as they are now."""
        dataset_fn = tf.function(self._dataset_fn)
        self._iterator = iter(self._coordinator.create_per_worker_dataset(dataset_fn))
        self._scheduled = 0
        self._first_step = None

    def advance(self, steps_done, steps_wanted):
        """Fills the queue up, never beyond what is wanted, and gives the workers a moment."""
        if self._first_step is None:
            self._first_step = steps_done
        in_flight = self._scheduled - (steps_done - self._first_step)
        missing = min(self._queue_steps - in_flight, steps_wanted - steps_done - in_flight)
        for _ in range(-(-missing // self._steps_per_closure)):
            self._coordinator.schedule(self._take_steps, args=(self._iterator,))
            self._scheduled += self._steps_per_closure
        self._coordinator.done()  # raises what went wrong on a worker
        self._look_at_workers()
        self._wait(steps_done)

    def _wait(self, steps_done):
        """Sleeps, the longer the longer nothing has come: looking takes CPU of chief and ps.

        Never longer than a closure takes, and every worker has another one in its queue.
        """
        has_moved = steps_done != self._steps_seen
        self._pause = _SHORTEST_PAUSE if has_moved else min(2 * self._pause, _LONGEST_PAUSE)
        self._steps_seen = steps_done
        time.sleep(self._pause)

    def _look_at_workers(self):
        now = time.monotonic()
        if now - self._looked < self._look_every:
            return
        self._looked = now
        steps, present = [work.steps for work in self._store.work()], self._cluster.present
        hung, back = self._watch.look([steps[worker] for worker in present], now)
        for position, seconds, is_first in hung:
            worker = present[position]
            run_folder.add_event(self._run_dir, f"worker {worker}", "hung", seconds=round(seconds))
            if is_first:
                self._scheduled -= self._steps_per_closure  # the ones that it holds
                address = self._cluster.addresses["worker"][worker]
                report(
                    f"worker {worker} at {address} has taken no step for {seconds:.0f} s: it hangs "
                    "or cannot be reached. The others go on; it has to be ended and started again."
                )
        for position in back:
            report(f"worker {present[position]} is back")


def _names(workers):
    return ", ".join(f"worker {worker}" for worker in sorted(workers))


def make(config, network, store, split, cluster=None, coordinator=None, group=None, run_dir=None):
    """What takes the steps: the workers of a coordinator, or this process where there is none.

    Args:
        group: the sync_trainer.Group that this process takes every step with.
        run_dir: where it is said which worker hangs, and which records are damaged.
    """

    def unrolled(iterator):
        # 60, 177 and 242 trivial steps/s at 1, 8 and 32 steps a closure, where a loop inside the
        # graph is slower.
        applied: list = []
        for _ in range(config.train.steps_per_closure):
            with tf.control_dependencies(applied):  # so that the next step's time begins after it
                images, targets = next(iterator)
            applied = [training_step(config, network, store, images, targets, group)]

    @tf.function(autograph=False)
    def take_steps(iterator):
        if group:
            group.run(lambda: unrolled(iterator))
        else:
            unrolled(iterator)

    damaged = None
    # A copy of a store's shard was checked as a whole: there is no damage that could be left out.
    if group is None and not any(map(metadata.is_remote, split.shard_paths)):
        limit = config.input.max_damaged_records
        damaged = DamagedRecords(run_dir, split.shard_paths, split.shard_lengths, limit)

    def dataset_fn():
        paths = damaged.shard_paths() if damaged else split.shard_paths
        return training_dataset(config, paths, split.shard_lengths)

    forget_seed()
    if coordinator is None:
        return InProcess(take_steps, dataset_fn, damaged)
    return OnCluster(config, store, cluster, coordinator, take_steps, dataset_fn, damaged, run_dir)
