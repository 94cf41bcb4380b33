"""Starts a training cluster: asynchronous or synchronous, as the configuration's train.mode says.

python -m model.launch local --num_workers=2 --num_ps=1 -- --preset=demo --data=OUT --workdir=RUN
"""

import argparse
import sys

from model import config as config_module
from model import run_folder, train
from model.launch import local
from model.telemetry import report


def main(argv=None):
    """Runs the command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    options, train_arguments = parse(argv)
    training = train.parse(train_arguments)
    try:
        config = config_module.load_preset(training.preset, training.overrides)
        run_folder.check_is_local(training.workdir)
        return local.launch(
            num_tasks=count_tasks(config.train.mode, options.num_workers, options.num_ps),
            max_restarts=options.max_restarts,
            run_dir=training.workdir,
            train_arguments=train_arguments,
            timeouts=config.train,
        )
    except (config_module.ConfigError, OSError) as error:
        report(f"model.launch: {error}")
        return train.EXIT_USAGE


def count_tasks(mode, num_workers, num_ps):
    """{role: number of processes} for num_workers processes that compute."""
    if mode == "asynchronous":
        return {"chief": 1, "ps": num_ps or 1, "worker": num_workers}
    if num_ps is not None:
        raise config_module.ConfigError(
            f"With train.mode=synchronous there are no parameter servers. Received: "
            f"--num_ps={num_ps}; leave it out."
        )
    if num_workers == 1:
        raise config_module.ConfigError(
            "With train.mode=synchronous the chief is one of --num_workers processes, of which "
            "there must be at least 2. For one process: `python -m model.train`."
        )
    return {"chief": 1, "worker": num_workers - 1}


def parse(argv):
    """(options of the launcher, arguments for model.train: what stands behind `--`)."""
    parser = argparse.ArgumentParser(
        prog="python -m model.launch",
        description="Start a training cluster around `python -m model.train`.",
        epilog="example: python -m model.launch local --num_workers=2 --num_ps=1 -- "
        "--preset=demo --data=shards --workdir=runs/1",
    )
    places = parser.add_subparsers(dest="place", required=True, metavar="PLACE")
    place = places.add_parser(
        "local",
        help="all processes on this machine, their ports on loopback addresses",
        description="Start chief, ps and workers on this machine; what follows -- goes to "
        "`python -m model.train`. A worker that dies is started again; after the loss of a ps, or "
        "of any process of a synchronous training, the cluster starts again from the newest "
        "checkpoint.",
    )
    place.add_argument(
        "--num_workers", type=_count, default=2, help="processes that compute (default: 2)"
    )
    place.add_argument(
        "--num_ps",
        type=_count,
        help="parameter servers (default: 1); none with train.mode=synchronous",
    )
    place.add_argument(
        "--max_restarts",
        type=int,
        default=10,
        help="restarts of the cluster without a newer checkpoint in between, or of a worker "
        "without a progress line, before giving up (default: 10)",
    )
    if "--" not in argv and not {"-h", "--help"} & set(argv):
        parser.error("the arguments of model.train follow `--`, for example -- --preset=demo ...")
    split = argv.index("--") if "--" in argv else len(argv)
    return parser.parse_args(argv[:split]), argv[split + 1 :]


def _count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
