"""A cluster that this machine does not have: steps/s, staleness, and where more workers do not pay.

    python -m benchmarks.cluster_simulation

A discrete-event simulation of asynchronous training. A worker takes its parameters from every ps,
computes, and sends its gradients; each network card of a ps and of a worker carries one stream each
way at a time at its full speed (a fair share of a busy card ends at the same times on average), and
each ps applies one update at a time. The chief gives out closures one after the other.

The bytes of a step and a ps's seconds for it are what `benchmarks.async_wire` measured, the chief's
seconds for a closure `benchmarks.async_scaling`. The speed of accelerators and network is assumed.
All are printed with the table, and can be given.
"""

import argparse
import heapq
import sys
from typing import NamedTuple


class Machine(NamedTuple):
    """What the simulated cluster is made of."""

    step_seconds: float  # that a worker computes for a step
    megabytes: float  # of parameters to a worker a step, and as many of gradients back
    gigabits: float  # a second, of each host's network card, each way
    apply_seconds: float  # of all ps together, for a step
    closure_seconds: float  # of the chief, for giving out one closure
    steps_per_closure: int
    spread: float  # share by which steps differ: uniform in 1 ± spread


class Outcome(NamedTuple):
    """What came out of a simulation."""

    steps_per_second: float
    staleness: float  # updates by others between a step's pull and its push, on average
    busiest: str  # what was in use the most, and for which share of the time


def simulate(machine, num_workers, num_ps, num_steps):
    """The Outcome of `num_steps` steps, after as many to get going."""
    card = machine.megabytes * 8e-3 / machine.gigabits  # seconds of a worker's card, each way
    share = card / num_ps  # of a ps's card, each way
    free = {"ps out": [0.0] * num_ps, "ps in": [0.0] * num_ps, "ps apply": [0.0] * num_ps}
    used = dict.fromkeys([*free, "chief"], 0.0)
    chief_free, applied, log, staleness = 0.0, 0, [], []
    left = [0] * num_workers  # steps of the closure that a worker has
    events = [(0.0, worker, "pull", 0) for worker in range(num_workers)]
    heapq.heapify(events)
    random = _Random()

    def through(kind, begin, each):
        """When `each` seconds on every ps are over; the parts to the ps wait for their turn."""
        ends = []
        for ps in range(num_ps):
            start = max(begin, free[kind][ps])
            free[kind][ps] = start + each
            ends.append(free[kind][ps])
        used[kind] += each
        return max(ends)

    while applied < 2 * num_steps:
        now, worker, what, seen = heapq.heappop(events)
        if what == "pull":
            if left[worker] == 0:
                chief_free = max(chief_free, now) + machine.closure_seconds
                used["chief"] += machine.closure_seconds
                left[worker] = machine.steps_per_closure
                heapq.heappush(events, (chief_free, worker, "pull", 0))
                continue
            left[worker] -= 1
            arrived = max(through("ps out", now, share), now + card)
            seconds = machine.step_seconds * (1.0 + machine.spread * (2.0 * random.draw() - 1.0))
            heapq.heappush(events, (arrived + seconds, worker, "push", applied))
        elif what == "push":
            sent = max(through("ps in", now, share), now + card)
            heapq.heappush(events, (sent, worker, "apply", seen))
        elif what == "apply":
            done = through("ps apply", now, machine.apply_seconds / num_ps)
            heapq.heappush(events, (done, worker, "done", seen))
        else:
            staleness.append(applied - seen)
            applied += 1
            log.append(now)
            heapq.heappush(events, (now, worker, "pull", 0))
    seconds = log[-1] - log[num_steps - 1]
    kind = max(used, key=used.get)
    return Outcome(
        num_steps / seconds,
        sum(staleness[num_steps:]) / num_steps,
        f"{kind} {min(1.0, used[kind] / log[-1]):.0%}",
    )


class _Random:
    """A small generator, so that a table is the same each time."""

    def __init__(self):
        self._state = 1

    def draw(self):
        """A number in [0, 1)."""
        self._state = self._state * 1103515245 + 12345 & 0x7FFFFFFF
        return self._state / 0x80000000


def servers_needed(machine, num_workers, share=0.9):
    """(ps, Outcome): the fewest with `share` of the steps/s that workers alone could take."""
    alone = simulate(machine, 1, 64, 50).steps_per_second
    for num_ps in (*range(1, 17), *range(18, 65, 2)):
        outcome = simulate(machine, num_workers, num_ps, 20 * num_workers)
        if outcome.steps_per_second >= share * num_workers * alone:
            return num_ps, outcome
    return None, outcome


def main(argv=None):
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster_simulation",
        description="Simulate asynchronous training of Xception-17k on 60 workers.",
        epilog="example: python -m benchmarks.cluster_simulation --gigabits=10",
    )
    number = {"type": float}
    parser.add_argument("--megabytes", default=112.0, help="MB a pull, and a push", **number)
    parser.add_argument(
        "--apply_seconds", default=0.39, help="of all ps together, for a step", **number
    )
    parser.add_argument("--closure_seconds", default=0.002, help="of the chief", **number)
    parser.add_argument("--gigabits", default=10.0, help="of each host, each way", **number)
    parser.add_argument("--k80_step", default=1.6, help="seconds of a K80-class step", **number)
    parser.add_argument("--h200_step", default=0.05, help="of an H200-class step", **number)
    options = parser.parse_args(argv)
    print(" ".join(f"{name}={value}" for name, value in vars(options).items()))
    for name, seconds in (("K80", options.k80_step), ("H200", options.h200_step)):
        machine = Machine(
            step_seconds=seconds,
            megabytes=options.megabytes,
            gigabits=options.gigabits,
            apply_seconds=options.apply_seconds,
            closure_seconds=options.closure_seconds,
            steps_per_closure=8,
            spread=0.1,
        )
        print(f"\n{name}-class workers, {seconds} s a step, 10 ps:")
        print("  workers   steps/s   of ideal   staleness   busiest")
        alone = simulate(machine, 1, 10, 50).steps_per_second
        for num_workers in (1, 2, 5, 10, 20, 40, 60, 80, 120):
            found = simulate(machine, num_workers, 10, 20 * num_workers + 50)
            ideal = found.steps_per_second / (num_workers * alone)
            print(
                f"  {num_workers:7d} {found.steps_per_second:9.1f} {ideal:10.0%}"
                f" {found.staleness:11.1f}   {found.busiest}"
            )
        num_ps, found = servers_needed(machine, 60)
        needed = f"{num_ps} ps" if num_ps else "more than 64 ps"
        print(f"  60 workers keep 90% of their speed with {needed}: {found.steps_per_second:.1f}/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
