"""A conditioner that counts its runs, and distributions that use it."""

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor


class CountingNet(tf.Module):
    """A conditioner for the mask half(4). It counts its runs in a variable, so that it counts in graphs too."""

    def __init__(self, moved=2, seed=0):
        super().__init__()
        self.runs = tf.Variable(0, trainable=False)
        self.weight = tf.Variable(random_tensor((4 - moved, 2 * moved), "float32", seed, 0.3))

    def __call__(self, kept):
        self.runs.assign_add(1)
        shift, log_scale = tf.split(tf.tanh(kept @ self.weight), 2, axis=-1)
        return shift, log_scale


def assembled(chain_type=tfb.Chain, distribution_type=tfd.TransformedDistribution):
    """(distribution, networks) with two couplings and a permutation between them."""
    networks = CountingNet(seed=1), CountingNet(seed=2)
    parts = [
        nvp.AffineCoupling(networks[0], nvp.masks.half(4)),
        tfb.Permute([3, 2, 1, 0]),
        nvp.AffineCoupling(networks[1], nvp.masks.half(4)),
    ]
    return distribution_type(tfd.MultivariateNormalDiag(tf.zeros(4)), chain_type(parts)), networks


X = random_tensor((5, 4), "float32", seed=3)
