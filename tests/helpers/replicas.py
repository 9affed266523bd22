"""Trains flows with strategies of tf.distribute: `python replicas.py OUT.npz STRATEGY ...`. `main` lists the names."""

import sys

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp

ROWS = 41  # With batches of 20 rows, the last one has 1 row, so one of two replicas gets none.
RANDOM = np.random.default_rng(0)
X, CONTEXT = 1.0 + 3.0 * RANDOM.normal(size=(ROWS, 3)), RANDOM.normal(5.0, 2.0, (ROWS, 2))
IMAGES, WEIGHTS = RANDOM.integers(0, 16, (ROWS, 2, 4, 1)), RANDOM.uniform(0.5, 2.0, ROWS)


def conditional():
    options = {"coupling": "spline", "num_bins": 4, "normalization": "batchnorm", "context_shape": 2}
    flow = nvp.RealNVP(3, num_couplings=1, hidden_units=(4,), **options, seed=0, dtype="float64")
    flow.adapt({"x": X, "context": CONTEXT})
    return flow, {"x": X, "context": CONTEXT}


def assembled():
    network = nvp.ResNet(1, (4,), normalization="batch", seed=0, dtype="float64")
    coupling = nvp.AffineCoupling(network, nvp.masks.half(3))
    base = tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64))
    chain = tfb.Chain([nvp.ActNorm(3, dtype="float64"), coupling])
    return nvp.Flow(tfd.TransformedDistribution(base, chain)), X


def images():
    sizes = {"num_scales": 1, "num_blocks": 1, "num_channels": 2, "num_levels": 16}
    return nvp.ImageRealNVP((2, 4, 1), **sizes, seed=0, dtype="float64"), IMAGES


def scaled():
    return nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=0, dtype="mixed_float16"), X


def train(make, strategy):
    """The losses of each epoch, and the trained weights."""
    with strategy.scope():
        flow, data = make()
        clipping = {"global_clipnorm": 0.5} if make is images else {"clipnorm": 0.1}  # below the gradients' norms
        optimizer = (keras.optimizers.Adam if make is assembled else keras.optimizers.SGD)(0.01, **clipping)
        if make is scaled:  # The initial scale makes the gradients overflow in float16.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**8)
        flow.compile(optimizer, steps_per_execution=2 if make is assembled else 1)
    first = tf.nest.map_structure(lambda array: array[:15], data)
    history = flow.fit(
        data,
        sample_weight=WEIGHTS,
        validation_data=(first, None, WEIGHTS[:15]),
        batch_size=20,
        epochs=2,
        shuffle=False,
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=2)],
        verbose=0,
    ).history
    evaluated = flow.evaluate(data, batch_size=20, sample_weight=WEIGHTS, verbose=0, return_dict=True)
    losses = [*(history[name] for name in sorted(history)), *(evaluated[name] for name in sorted(evaluated))]
    return np.concatenate([np.ravel(value) for value in losses]), [np.array(weight) for weight in flow.get_weights()]


def main(out, *names):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if "mirrored" in names:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # Optimizing the graphs takes as long as training, and every strategy trains without it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategies = {
        "single": tf.distribute.get_strategy,
        "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "workers": tf.distribute.MultiWorkerMirroredStrategy,
    }
    results = {}
    for name in names:
        strategy = strategies[name]()
        for make in (conditional, images) if name == "workers" else (conditional, assembled, images, scaled):
            losses, weights = train(make, strategy)
            results[f"{name} {make.__name__} losses"] = losses
            results |= {f"{name} {make.__name__} weight {index}": weight for index, weight in enumerate(weights)}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
