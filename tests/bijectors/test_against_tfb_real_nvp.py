"""Differences between this package and `tfb.RealNVP`. Each row of the README's table has a test here."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor

X = random_tensor((5, 4), "float32", seed=0)


class Net(keras.layers.Layer):
    """The network for both packages: (kept [N, 2]) -> (shift, log_scale). It counts its runs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4, "tanh", kernel_initializer=keras.initializers.RandomNormal(seed=1))
        self.runs = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, kept):
        self.runs.assign_add(1)
        return keras.ops.split(self.dense(kept), 2, axis=-1)


def tfb_distribution(net):
    net(tf.ones([1, 2]))
    bijector = tfb.RealNVP(num_masked=2, shift_and_log_scale_fn=lambda kept, units, **kwargs: net(kept))
    return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), bijector)


def our_distribution(net):
    return nvp.Flow(
        tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), nvp.AffineCoupling(net, nvp.masks.half(4)))
    ).distribution()


@pytest.mark.parametrize(("make", "runs"), [(tfb_distribution, 2), (our_distribution, 1)])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_number_of_network_runs_for_a_density(make, runs, mode):
    net = Net()
    distribution = make(net)
    log_prob = distribution.log_prob if mode == "eager" else tf.function(distribution.log_prob)
    net.runs.assign(0)
    log_prob(X)
    assert net.runs == runs


@pytest.mark.parametrize(("make", "variables"), [(tfb_distribution, 0), (our_distribution, 2)])
def test_number_of_trainable_variables_of_the_distribution(make, variables):
    assert len(make(Net()).trainable_variables) == variables


def test_trainable_variables_of_the_default_network():
    template = tfb.real_nvp_default_template([8])
    bijector = tfb.RealNVP(num_masked=2, shift_and_log_scale_fn=template)
    bijector.forward(X)
    assert len(template.trainable_variables) == 4 and len(bijector.trainable_variables) == 0
    assert len(nvp.AffineCoupling(nvp.MLP(2, [8]), nvp.masks.half(4)).trainable_variables) == 4


@pytest.mark.parametrize(("make", "stale"), [(tfb_distribution, True), (our_distribution, False)])
def test_value_after_weights_change(make, stale):
    net = Net()
    bijector = make(net).bijector
    first = bijector.forward(X)
    net.dense.kernel.assign_add(tf.ones([2, 4]))
    assert np.array_equal(first, bijector.forward(X)) is stale


@pytest.mark.parametrize(("make", "wrong"), [(tfb_distribution, True), (our_distribution, False)])
def test_gradient_of_the_density_of_a_sample_drawn_before_the_tape(make, wrong):
    net = Net()
    distribution = make(net)
    y = distribution.sample(5, seed=1)
    gradients = []
    for value in (y, tf.identity(y)):
        with tf.GradientTape() as tape:
            log_prob = tf.reduce_mean(distribution.log_prob(value))
        gradients.append(tape.gradient(log_prob, net.dense.kernel._value).numpy())
    assert np.allclose(*gradients, rtol=1e-4) is not wrong


def test_mixed_precision():
    for make, works in ((tfb_distribution, False), (our_distribution, True)):
        net = Net(dtype="mixed_float16")
        net.dense = keras.layers.Dense(4, dtype="mixed_float16")
        distribution = make(net)
        if works:
            assert distribution.log_prob(X).dtype == tf.float32
        else:
            with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
                distribution.log_prob(X)


def test_which_features_are_kept():
    kept = nvp.AffineCoupling(Net(), nvp.masks.alternating(4)).forward(X).numpy() == X.numpy()
    np.testing.assert_array_equal(kept.all(axis=0), nvp.masks.alternating(4))
    kept = tfb_distribution(Net()).bijector.forward(X).numpy() == X.numpy()
    np.testing.assert_array_equal(kept.all(axis=0), nvp.masks.half(4))


def test_batch_shape_of_a_context():
    coupling = nvp.AffineCoupling(
        lambda kept, context: (context[:, :2], kept),
        nvp.masks.half(4),
        context=random_tensor((7, 3), "float32", seed=1),
    )
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), coupling)
    assert distribution.batch_shape == (7,)
    assert distribution.sample(2).shape == (2, 7, 4)
    assert tfb_distribution(Net()).batch_shape == ()
