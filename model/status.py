"""How a run is doing: python -m model.status RUN

Says how far training is, which processes are alive, hung or dead, and what went wrong last. Reads
the run's folder alone, and writes nothing.
"""

import argparse
import calendar
import json
import os
import socket
import sys
import time
from pathlib import Path

from model import checkpoint, heartbeat, run_folder, versions
from model.config import ConfigError

EXIT_USAGE = 2
# Events of a run that are trouble, in words: {what of the event}
_TROUBLES = {
    "hung": "hung for {seconds} s",
    "leaving": "was told to leave",
    "died": "ended with {how}",
}
SILENCE = 15.0  # seconds without a sign of life after which a process counts as hung or dead


def main(argv=None):
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model.status",
        description="Say how a training run is doing.",
        epilog="example: python -m model.status runs/1",
    )
    parser.add_argument("run", help="folder of the run: --workdir of model.train")
    options = parser.parse_args(argv)
    try:
        for line in describe(options.run, time.time()):
            print(line)
    except (ConfigError, checkpoint.UnreachableError) as error:
        print(f"model.status: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def describe(run_dir, now):
    """Lines about the run at the time `now`; ConfigError if the folder holds none."""
    config = run_folder.read_config(run_dir)
    signs = [heartbeat.read(path) for path in sorted((Path(run_dir) / "tasks").glob("*.json"))]
    signs = [sign for sign in signs if sign]
    return [
        *_progress(run_dir, config),
        *_versions(run_dir),
        *(f"{sign['task']:12s} {_state(sign, now)}" for sign in signs),
        *_last_trouble(run_dir, signs, now),
    ]


def _progress(run_dir, config):
    total = config.train.samples
    if run_folder.is_completed(run_dir):
        yield f"trained: {json.loads(run_folder.read_completed(run_dir))['samples']:,} images"
    else:
        newest = run_folder.last_line(Path(run_dir) / "metrics.jsonl")
        if newest is None:
            yield f"no step yet, of {total:,} images"
        else:
            yield (
                f"step {newest['step']:,}, {newest['samples']:,} of {total:,} images "
                f"({newest['samples'] / total:.1%}), "
                f"{newest['train/images_per_second']:.1f} images/s, "
                f"loss {newest['train/loss']:.4f}"
            )
    saved = checkpoint.list_checkpoints(run_dir)
    if saved:
        yield f"newest of {len(saved)} checkpoints: {saved[-1].path}"
    else:
        yield "no checkpoint yet"


def _versions(run_dir):
    found = versions.newest(run_dir)
    if found:
        said = [f"{name} {found.get(name)}" for name in ("tensorflow", "keras")]
        if found.get("commit"):
            said.append(f"commit {found['commit']}")
        yield f"with {', '.join(said)}"


def _state(sign, now):
    """alive, hung, dead or how it ended."""
    silent = now - sign["seen"]
    if sign.get("ended"):
        return f"ended {_ago(silent)}"
    where = f"pid {sign['pid']} on {sign['host']}"
    if silent <= SILENCE:
        return f"alive: {where}, for {_duration(now - sign['started'])}"
    if sign["host"] != socket.gethostname():
        return f"hung or dead: {where}, last seen {_ago(silent)}"
    return f"{'hung' if _exists(sign['pid']) else 'dead'}: {where}, last seen {_ago(silent)}"


def _last_trouble(run_dir, signs, now):
    """The newest thing that went wrong, as a line; none where nothing has."""
    troubles = []  # (time, what)
    for sign in signs:
        for end in (sign, sign.get("before", {})):
            if end.get("message"):
                troubles.append((end["seen"], f"{sign['task']}: {end['message']}"))
    for event in run_folder.Events(run_dir, from_start=True).new():
        if event.get("event") in _TROUBLES:
            when = calendar.timegm(time.strptime(event["time"], run_folder.TIME_FORMAT))
            what = _TROUBLES[event["event"]].format_map(event)
            troubles.append((when, f"{event['task']} {what}"))
    if troubles:
        when, what = max(troubles)
        yield f"last trouble, {_ago(now - when)}: {what}"
    damaged = Path(run_dir) / "damaged_records.tsv"
    if damaged.exists():
        yield f"damaged records were left out: {damaged}"


def _exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _ago(seconds):
    return f"{_duration(seconds)} ago"


def _duration(seconds):
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"


if __name__ == "__main__":
    sys.exit(main())
