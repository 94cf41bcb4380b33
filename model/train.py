"""Trains a network on a dataset that the pipeline wrote.

    python -m model.train --preset=demo --data=OUT --workdir=RUN

trains in this process. With TF_CONFIG set, the process is the chief, a ps or a worker of a cluster,
asynchronous or synchronous as train.mode says; `python -m model.launch` starts those.

What a start does, in this order:
  1. RUN is complete and holds as many samples as asked for: say so and end.
  2. RUN holds checkpoints: go on from the newest that is whole and of this network and class list,
     with its counters. What is newer and is not, is set aside as step-N.refused. One that cannot be
     read now stays where it is, and the start ends with 75.
  3. RUN holds none but step-N.refused: say so and end with 2, until the user has deleted those.
  4. Otherwise: start from random parameters (`train.seed`) and the classes' frequencies.
"""

import argparse
import functools
import logging
import math
import os
import signal
import sys
import traceback

from model import checkpoint, cluster, interruption, quiet, run_folder, versions
from model import config as config_module
from model.heartbeat import Heartbeat
from model.telemetry import report
from model.watchdog import Watchdog
from pipeline import labels, metadata

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

USERS_ERRORS = (
    checkpoint.CheckpointError,
    config_module.ConfigError,
    OSError,
    labels.LabelError,
    metadata.MetadataError,
    run_folder.TrainingError,
)


def main(argv=None):
    """Runs the command; returns its exit code."""
    options = parse(argv)
    try:
        config = config_module.load_preset(options.preset, options.overrides)
        run_folder.check_is_local(options.workdir)
        here = cluster.Cluster.from_environment(mode=config.train.mode)
        if here and here.role != "chief" and config.train.mode == "synchronous":
            follow(config, here, options)  # Ctrl-C ends it at once, SIGTERM after the chief
            return 0
        with interruption.Signals() as signals:
            if here and here.role != "chief":
                with Heartbeat(options.workdir, here.task):
                    cluster.serve(here, options.workdir, config.train, signals)
            else:
                lead(config, here, options, signals)
    except (
        cluster.ClusterError,
        checkpoint.UnreachableError,
        metadata.UnreachableError,
    ) as error:
        report(f"model.train: {error}")
        return cluster.EXIT_TRY_AGAIN
    except USERS_ERRORS as error:
        report(f"model.train: {error}")
        cause = error if isinstance(error, OSError) else error.__cause__
        may_pass = isinstance(cause, OSError) and cause.errno in run_folder.MAY_PASS
        return cluster.EXIT_TRY_AGAIN if may_pass else EXIT_USAGE
    except interruption.Interrupted as interrupted:
        return _say_interrupted(interrupted)
    except KeyboardInterrupt:
        return _say_interrupted(interruption.Interrupted(signal.SIGINT))
    return 0


def _say_interrupted(interrupted):
    """Says what became of the work; returns the exit code."""
    by_hand = interrupted.number == signal.SIGINT
    name = "interrupted" if by_hand else "told to end (SIGTERM)"
    kept = interrupted.message or "the next start goes on from the newest checkpoint"
    report(f"model.train: {name}; {kept}")
    return EXIT_INTERRUPTED if by_hand else cluster.EXIT_TRY_AGAIN


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


def lead(config, here, options, signals):
    """Trains: as the chief of the cluster `here`, or alone where that is None."""
    vocabulary, split = _open_data(config, options)
    task = here.task if here else "chief 0"
    with run_folder.hold(options.workdir), Heartbeat(options.workdir, task):
        state = _open_run(options.workdir, config, vocabulary)
        if state and state["samples"] >= config.train.samples:
            report(f"{options.workdir} is trained already: {state['samples']:,} images.")
            end = state
        else:
            run_folder.write(options.workdir, config, vocabulary, split.class_counts)
            versions.add(options.workdir, options.data, split, report)
            end = _train(config, here, options.workdir, vocabulary, split, state, signals)
        run_folder.mark_completed(options.workdir, end)


def follow(config, here, options):
    """Trains as another process than the chief of the synchronous cluster `here`."""
    vocabulary, split = _open_data(config, options)
    store, executor = prepare(config, here, vocabulary, split)

    from model import sync_trainer

    with Heartbeat(options.workdir, here.task):
        sync_trainer.follow(config, store, executor)


def _ignore(doing):
    """Stands in for a watchdog's `feed` where nothing is watched."""


def prepare(config, here, vocabulary, split, state=None, feed=_ignore, run_dir=None):
    """(store, executor): what is trained on from `state`, and what takes the steps.

    `feed` gets what is waited for next.
    """
    coordinator = group = None
    if here and config.train.mode == "synchronous":
        group = join(here, config.train.start_timeout)
    elif here:
        here = cluster.gather(
            here,
            report,
            config.train.start_timeout,
            config.train.gather_timeout,
            lambda: feed("waiting for the servers"),
        )
        feed("connecting to the servers")
        coordinator = connect(here)

    from model import executors, tensorflow_errors

    with tensorflow_errors.in_words():
        feed("placing the parameters")
        network, store = _build(config, here, vocabulary, split, state)
        if group:
            group.check_agreement(config, vocabulary)
            group.share_state(store)
        feed("handing the input to the workers")
        executor = executors.make(config, network, store, split, here, coordinator, group, run_dir)
    return store, executor


def _train(config, here, run_dir, vocabulary, split, state, signals):
    """Trains on from `state`, or from the start where that is None; returns how far it came."""
    is_synchronous = here and config.train.mode == "synchronous"
    if not is_synchronous:
        quiet.start_tensorflow(*here.threads() if here else ())
    # Alone there is nobody to wait for, and a step may take as long as it takes.
    first_timeout, timeout = (
        (config.train.first_timeout, config.train.stall_timeout) if here else (math.inf, math.inf)
    )
    give_up = functools.partial(_give_up, here)
    with Watchdog(first_timeout, timeout, give_up, has_alarm=bool(here)) as watchdog:
        # Synchronous processes meet with a deadline of their own.
        feed = _ignore if is_synchronous else watchdog.feed
        store, executor = prepare(config, here, vocabulary, split, state, feed, run_dir)

        from model import async_trainer

        end = async_trainer.train(
            config,
            store,
            executor,
            run_dir,
            vocabulary,
            seconds_before=state["seconds"] if state else 0.0,
            watchdog=watchdog,
            signals=signals,
        )
    if is_synchronous:
        from model import sync_trainer

        report(f"parameters {sync_trainer.parameters_digest(store)}")
    report(
        f"Trained on {end['samples']:,} images in {end['step']:,} steps and "
        f"{end['seconds']:.0f} s: {run_dir}"
    )
    return end


def _open_data(config, options):
    """(Vocabulary, Split) to train on; ConfigError where the loss can learn nothing from it."""
    vocabulary = metadata.load_vocabulary(options.data)
    split = metadata.load_split(options.data, options.split)
    if split.num_examples == 0:
        raise config_module.ConfigError(
            f"{options.data} has no examples in its split {options.split!r}: nothing to train on."
        )
    found = metadata.load_completed(options.data, options.split)
    if config.loss.unknown_weight == 0 and not found.get("num_negatives"):
        raise config_module.ConfigError(
            "loss.unknown_weight=0 counts labels and verified negatives alone, and the split "
            f"{options.split!r} of {options.data} has no verified negatives: nothing would keep "
            "scores from rising for ever. Set it above 0; 1 takes what is unknown for negative."
        )
    report(f"{options.data}: {split.num_examples:,} images, {len(vocabulary):,} classes")
    return vocabulary, split


def _open_run(run_dir, config, vocabulary):
    """The state to go on from, or None in a new run."""
    run_folder.check(run_dir, config, vocabulary, report)
    run_folder.clear_completed(run_dir)  # before the slow part: a watching evaluator looks at it
    return checkpoint.load_newest(run_dir, config, vocabulary, report)


def connect(here):
    """The coordinator of the servers that take part, which all answer. TensorFlow has started."""
    import tensorflow as tf

    # The coordinator logs a stack for each worker that dies and each closure that fails. Who has
    # died is said by the launcher, and what went wrong for good by the exception.
    tf.get_logger().setLevel(logging.CRITICAL)
    tf.get_logger().propagate = False

    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(here.taking_part), task_type=here.role, task_id=here.index
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    return tf.distribute.coordinator.ClusterCoordinator(strategy)


def join(here, timeout):
    """Starts TensorFlow and meets the other processes; returns the sync_trainer.Group of all."""
    quiet.start_tensorflow(*here.threads(), initialize=False)

    from model import sync_trainer

    return sync_trainer.join(here, timeout)


def _build(config, here, vocabulary, split, state):
    """(network, store): the Keras model, and its parameters where they are to live."""
    import keras

    from model import heads, zoo
    from model.parameter_store import ParameterStore

    keras.utils.set_random_seed(config.train.seed)
    bias = heads.prior_bias(
        split.class_counts,
        split.num_examples,
        softmax=config.loss.name == "softmax_cross_entropy",
    )
    network = zoo.build(config, len(vocabulary), bias=bias, dtype=config.train.compute_dtype)
    ps_devices = here and here.ps_devices
    store = ParameterStore(config, network, ps_devices, here.present if ps_devices else (0,))
    report(f"{config.network.name}: {network.count_params():,} parameters")
    for line in store.describe():
        report("  " + line)
    if state:
        store.restore(state)
        report(f"Going on from step {state['step']:,}, {state['samples']:,} images")
    return network, store


def _give_up(here, doing, seconds):
    """Ends the process, whose main thread waits inside TensorFlow for a server."""
    silent = cluster.silent(here.servers())
    if silent:
        names = ", ".join(f"{name} at {address}" for name, address in silent)
        report(f"model.train: no answer for {seconds:.0f} s from {names}, while {doing}")
    else:
        report(f"model.train: stuck for {seconds:.0f} s while {doing}, though every server answers")
    _leave(cluster.EXIT_TRY_AGAIN)


def _say_what_was_not_raised(unraisable):
    """Python's own, but for TensorFlow's executors, which miss their lost server when they go."""
    if getattr(unraisable.object, "__qualname__", "") != "Executor.__del__":
        sys.__unraisablehook__(unraisable)


def _leave(exit_code):
    """Ends the process without TensorFlow's shutdown, which waits for servers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    sys.unraisablehook = _say_what_was_not_raised
    try:
        exit_code = main()
    except Exception:
        traceback.print_exc()
        exit_code = EXIT_BUG
    _leave(exit_code)
