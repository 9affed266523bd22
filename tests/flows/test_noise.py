"""Noise in training, and the covariance that `adapt` measures for it and for the first LU map."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed
from tfp_realnvp import random_numbers
from tfp_realnvp.bijectors import LULinear
from tfp_realnvp.flows.moments import shrunk_correlation
from tfp_realnvp.flows.noise import TrainingNoise

MIXING = np.array([[2.0, 0.0, 0.0], [1.9, 0.5, 0.0], [0.0, 0.3, 0.1]])
X = (5.0 + np.random.default_rng(0).normal(size=(4000, 3)) @ MIXING.T).astype("float32")


def small_flow(**options):
    return nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=0, **options)


def lu_maps(flow):
    return [part for part in flow.distribution().bijector.bijectors if isinstance(part, LULinear)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adapt_makes_an_untrained_flow_with_lu_maps_the_gaussian_of_the_data(dtype):
    flow = small_flow(permutation="lu", dtype=dtype)
    flow.adapt(X)
    x = np.float64(X)
    covariance = np.outer(x.std(axis=0), x.std(axis=0)) * shrunk_correlation(x, None, x.mean(axis=0), x.std(axis=0))
    gaussian = tfd.MultivariateNormalFullCovariance(x.mean(axis=0), covariance)
    np.testing.assert_allclose(flow.log_prob(x[:50]), gaussian.log_prob(x[:50]), atol=1e-3)
    np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), rtol=0.01)


def test_adapt_takes_datasets_and_contexts():
    flow = small_flow(permutation="lu", context_shape=2, noise=0.1)
    context = np.tile(np.array([1.0, 2.0], "float32"), (len(X), 1))
    flow.adapt(tf.data.Dataset.from_tensor_slices({"x": X, "context": context}).batch(999))
    other = small_flow(permutation="lu", context_shape=2, noise=0.1)
    other.adapt({"x": X, "context": context})
    for weight, expected in zip(flow.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)


def test_the_last_adapt_counts_before_training():
    flow, other = small_flow(permutation="lu"), small_flow(permutation="lu")
    flow.adapt(X[:, ::-1] ** 2)
    for each in (flow, other):
        each.adapt(X)
    np.testing.assert_array_equal(flow.log_prob(X[:50]), other.log_prob(X[:50]))


def test_adapt_does_not_change_trained_maps():
    flow = perturbed(small_flow(permutation="lu"))
    before = lu_maps(flow)[0].inverse(X).numpy()
    flow.adapt(X)
    np.testing.assert_array_equal(lu_maps(flow)[0].inverse(X), before)


def test_correlations_of_few_rows_are_shrunk():
    x = np.random.default_rng(0).normal(size=(5, 20))
    correlation = shrunk_correlation(x, None, x.mean(axis=0), x.std(axis=0))
    assert np.linalg.eigvalsh(correlation).min() > 0.1
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    x = np.repeat(np.random.default_rng(0).normal(size=(1000, 1)), 2, axis=1)
    assert 0.99 < shrunk_correlation(x, None, x.mean(axis=0), x.std(axis=0))[0, 1] < 1.0


def test_noise_has_the_shape_of_the_data():
    noise = TrainingNoise(3, 0.1, 0, keras.DTypePolicy("float32"))
    noise.adapt(np.linalg.cholesky(MIXING @ MIXING.T))
    x = np.zeros((50_000, 3), "float32")
    first, second = noise(x).numpy(), noise(x).numpy()
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=0.005)
    np.testing.assert_allclose(np.cov(first, rowvar=False), 0.01 * MIXING @ MIXING.T, rtol=0.05, atol=3e-4)
    assert np.corrcoef(first[:, 0], second[:, 0])[0, 1] < 0.02


def test_noise_is_always_finite(monkeypatch):
    extremes = np.array([0.0, 1 - 2.0**-24], "float32")
    monkeypatch.setattr(random_numbers, "uniform", lambda shape, dtype, generator: tf.constant(extremes))
    np.testing.assert_allclose(random_numbers.normal([2], "float32", None), [-5.4, 5.3], atol=0.1)


def test_noise_acts_in_training_only(tmp_path):
    keras.utils.set_random_seed(0)
    flow = small_flow(noise=0.5)
    flow.adapt(X)
    flow.compile("sgd")
    before = flow.log_prob(X).numpy()
    np.testing.assert_array_equal(flow.log_prob(X), before)
    np.testing.assert_allclose(flow.evaluate(X, verbose=0), -before.mean(), rtol=1e-5)
    flow.compile(keras.optimizers.SGD(1e-12))
    loss = flow.fit(X, batch_size=1000, verbose=0).history["loss"][0]
    # The rows of N(0, I) with noise have variance 1.25 along each axis, so they cost 0.125 nats more on each.
    assert loss == pytest.approx(-before.mean() + 3 * 0.125, abs=0.05)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert loaded.get_config()["noise"] == 0.5
    for weight, expected in zip(loaded.weights, flow.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert len(flow.weights) == len(small_flow().weights) + 1


def test_weights_and_contexts_go_with_their_noisy_rows():
    flow = small_flow(noise=0.5, context_shape=1)
    context = np.ones((len(X), 1), "float32")
    flow.adapt({"x": X, "context": context})
    flow.compile(keras.optimizers.SGD(1e-12))
    losses = [
        flow.fit({"x": X, "context": context}, sample_weight=weight * np.ones(len(X)), verbose=0).history["loss"][0]
        for weight in (1.0, 2.0)
    ]
    assert losses[1] == pytest.approx(2 * losses[0], rel=0.02)


def test_noise_trains_in_mixed_precision():
    flow = small_flow(noise=0.1, dtype="mixed_float16")
    flow.adapt(X)
    flow.compile()
    assert np.isfinite(flow.fit(X, batch_size=1000, verbose=0).history["loss"][0])


def test_a_dataset_that_gives_its_rows_only_once_is_an_error():
    rows = iter(X)
    once = tf.data.Dataset.from_generator(lambda: rows, output_signature=tf.TensorSpec([3], tf.float32)).batch(1000)
    with pytest.raises(ValueError, match="data must give its rows each time that it is read"):
        small_flow(permutation="lu").adapt(once)


@pytest.mark.parametrize("noise", [-0.1, np.nan, "much", None])
def test_wrong_noise_gives_an_error(noise):
    with pytest.raises(ValueError, match="noise must be"):
        small_flow(noise=noise)
