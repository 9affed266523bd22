"""Small flows of images, and images to train them on."""

import functools

import keras
import numpy as np
import tensorflow as tf

import registry
import tfp_realnvp as nvp
from registry import random_tensor

LEVELS = 16


def small_flow(event_shape=(4, 4, 1), **options):
    sizes = {"num_blocks": 1, "num_channels": 4, "num_levels": LEVELS, "seed": 0}
    return nvp.ImageRealNVP(event_shape, **sizes | options)


def images_of(rows, event_shape=(4, 4, 1), seed=0):
    """Noisy ramps of random brightness. Pixels depend on each other, and hardly any is at the ends of the range."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0.0, 4.0, event_shape[1])[:, np.newaxis]
    images = 4.0 + ramp + random.uniform(0.0, 6.0, (rows, 1, 1, 1)) + random.normal(0.0, 0.5, (rows, *event_shape))
    return np.clip(np.floor(images), 0, LEVELS - 1).astype("uint8")


def perturbed(flow):
    """The same flow, with random changes to its weights and with statistics as after training."""
    registry.perturbed(flow)
    variances = [variable for variable in flow.non_trainable_variables if "variance" in variable.path]
    assert len(variances) > len(flow.conditioners)  # in networks and between couplings
    for index, variable in enumerate(variances):
        variable.assign(tf.exp(random_tensor(variable.shape, variable.dtype, seed=index, stddev=0.5)))
    return flow


@functools.cache
def trained_flow():
    """(trained flow, `evaluate` before training, history). Tests must not change its weights."""
    flow = small_flow(num_scales=1)
    flow.compile(keras.optimizers.Adam(1e-2, global_clipnorm=100.0))
    images = images_of(512)
    before = flow.evaluate(images, verbose=0, return_dict=True)
    history = flow.fit(images, epochs=8, batch_size=64, validation_data=images_of(128, seed=1), verbose=0).history
    return flow, before, history
