"""Takes steps on images that the seed gives, alone or together with another process.

    python -m tests.model.synchronous_steps --output=state.npz --images=8 [--set ...]

With TF_CONFIG it is a process of a group, and computes on its share of the images.
"""

import argparse

import numpy as np

from model import cluster, quiet, train
from model import config as config_module

NUM_CLASSES, STEPS = 5, 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    config = config_module.load_preset("demo", options.overrides)
    here = cluster.Cluster.from_environment(mode=config.train.mode)
    group = train.join(here, config.train.start_timeout) if here else quiet.start_tensorflow()

    import keras
    import tensorflow as tf

    from model import zoo
    from model.parameter_store import ParameterStore
    from model.training_step import training_step

    # Another start in each process: what the chief has must come to all.
    keras.utils.set_random_seed(group.rank if group else 0)
    network = zoo.build(config, NUM_CLASSES)
    store = ParameterStore(config, network)
    if group:
        group.share_state(store)

    @tf.function(autograph=False)
    def take_step(images, labels):
        def step():
            training_step(config, network, store, images, {"labels": labels}, group)

        group.run(step) if group else step()

    random = np.random.default_rng(0)
    size = config.input.image_size
    for _ in range(STEPS):
        images = random.uniform(-1, 1, (options.images, size, size, 3)).astype(np.float32)
        labels = random.integers(0, NUM_CLASSES, (options.images, 1))
        if group:
            images, labels = (np.split(x, group.size)[group.rank] for x in (images, labels))
        take_step(tf.constant(images), tf.constant(labels))
    state = store.export()
    np.savez(
        options.output,
        step=state["step"],
        samples=state["samples"],
        loss_sum=store.progress().loss_sum,
        **{f"ema/{path}": array for path, array in state["ema"].items()},
        **{f"parameters/{path}": array for path, array in state["parameters"].items()},
    )


if __name__ == "__main__":
    main()
    train._leave(0)
