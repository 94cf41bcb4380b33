"""Trains a network on a dataset that the pipeline wrote.

    python -m model.train --preset=demo --data=OUT --workdir=RUN

trains in this process. With TF_CONFIG set, the process is the chief, a ps or a worker of a cluster;
`python -m model.launch` starts those.

What a start does, in this order:
  1. RUN is complete and holds as many samples as asked for: say so and end.
  2. RUN holds checkpoints: go on from the newest that can be read, with its counters.
  3. Otherwise: start from random parameters (`train.seed`) and the classes' frequencies.
"""

import argparse
import os
import sys

from model import config as config_module
from model import quiet
from model.cluster import EXIT_TRY_AGAIN, EXIT_USAGE, Cluster, ClusterError


def main(argv=None):
    """Runs the command; returns its exit code."""
    options = parse(argv)
    try:
        config = config_module.load_preset(options.preset, options.overrides)
        cluster = Cluster.from_environment()
        if cluster and cluster.role != "chief":
            return serve(cluster, options)
        return lead(config, cluster, options)
    except ClusterError as error:
        return _fail(error, EXIT_TRY_AGAIN)
    except ValueError as error:
        if not _is_for_users(error):
            raise
        return _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail("Interrupted; the next start goes on from the newest checkpoint.", 130)


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train",
        description="Train a network, in this process or as a part of a cluster (TF_CONFIG).",
        epilog="example: python -m model.train --preset=demo --data=shards --workdir=runs/1 "
        "--set optimizer.learning_rate=0.002",
    )
    parser.add_argument(
        "--preset", required=True, help=f"recipe: {', '.join(config_module.preset_names())}"
    )
    parser.add_argument("--data", required=True, help="folder that beam_runner.py wrote")
    parser.add_argument("--split", default="train", help="split to train on (default: train)")
    parser.add_argument("--workdir", required=True, help="folder of the run: checkpoints, metrics")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a field of the preset; may be given several times",
    )
    return parser.parse_args(argv)


def serve(cluster, options):
    """Is a ps or a worker until training has ended."""
    from model import cluster as cluster_module

    cluster_module.serve(cluster, options.workdir)
    _leave(0)


def lead(config, cluster, options):
    """Trains: as the chief of a cluster, or alone."""
    # ---- Input ----
    from model import checkpoint, run_folder
    from model.telemetry import report
    from pipeline import metadata

    vocabulary = metadata.load_vocabulary(options.data)
    split = metadata.load_split(options.data, options.split)
    if split.num_examples == 0:
        raise config_module.ConfigError(f"{options.data} has no examples in {options.split!r}.")

    # ---- Run folder ----
    run_folder.prepare(options.workdir, config, vocabulary, split.class_counts, report)
    classes = run_folder.class_list_hash(vocabulary)
    state = checkpoint.load_newest(options.workdir, report)
    if state and state["samples"] >= config.train.samples:
        report(f"{options.workdir} is trained already: {state['samples']:,} images.")
        run_folder.mark_completed(options.workdir, state["step"], state["samples"], 0.0)
        return 0
    run_folder.clear_completed(options.workdir)
    report(f"{split.num_examples:,} images, {len(vocabulary):,} classes; starting TensorFlow")

    # ---- Cluster ----
    quiet.start_tensorflow(*cluster.threads() if cluster else ())
    import keras
    import tensorflow as tf

    from model import async_trainer, heads, zoo
    from model import cluster as cluster_module
    from model.parameter_store import ParameterStore

    coordinator = None
    if cluster:
        cluster_module.wait_for_servers(cluster, report)
        coordinator = tf.distribute.coordinator.ClusterCoordinator(
            tf.distribute.ParameterServerStrategy(
                tf.distribute.cluster_resolver.TFConfigClusterResolver()
            )
        )

    # ---- Network and parameters ----
    keras.utils.set_random_seed(config.train.seed)
    network = zoo.build(
        config,
        len(vocabulary),
        bias=heads.prior_bias(split.class_counts, split.num_examples),
        dtype=config.train.compute_dtype,
    )
    store = ParameterStore(config, network, cluster and cluster.ps_devices)
    report(f"{config.network.name}: {network.count_params():,} parameters")
    for line in store.describe():
        report("  " + line)
    if state:
        store.restore(state)
        report(f"Going on from step {state['step']:,}, {state['samples']:,} images")

    # ---- Loop ----
    take_steps = async_trainer.steps_function(config, network, store)
    dataset_fn = async_trainer.dataset_function(config, split.shard_paths)
    if cluster:
        executor = async_trainer.OnCluster(
            cluster, coordinator, take_steps, dataset_fn, config.train.steps_per_closure
        )
    else:
        executor = async_trainer.InProcess(take_steps, dataset_fn)
    try:
        step, samples, seconds = async_trainer.train(
            config, store, executor, options.workdir, classes
        )
    except async_trainer.TrainingError as error:
        _fail(error, EXIT_USAGE)
        _leave(EXIT_USAGE)
    except ClusterError as error:
        _fail(error, EXIT_TRY_AGAIN)
        _leave(EXIT_TRY_AGAIN)

    # ---- End ----
    run_folder.mark_completed(options.workdir, step, samples, seconds)
    report(f"Trained {samples:,} images in {step:,} steps and {seconds:.0f} s: {options.workdir}")
    _leave(0)


def _is_for_users(error):
    """Whether the message alone says it all: errors of this project's own, not of a library."""
    return type(error).__module__.split(".")[0] in ("model", "pipeline")


def _fail(message, exit_code):
    print(f"model.train: {message}", file=sys.stderr, flush=True)
    return exit_code


def _leave(exit_code):
    """Ends the process without TensorFlow's shutdown, which waits for servers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(main())
