"""`Bounds` near its bounds, on them and outside."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from bijectors.test_properties import EXAMPLES, examples
from tfp_realnvp.bijectors import OnePassChain

INF = np.inf
LOWER, UPPER = [0.0, 2.0, -INF, -INF], [1.0, INF, 5.0, INF]


def bounds(dtype="float64"):
    return nvp.Bounds(LOWER, UPPER, dtype=dtype)


def test_agrees_with_the_bijectors_of_tfp():
    expected = tfb.Blockwise(
        [
            tfb.Sigmoid(np.float64(0.0), np.float64(1.0)),
            tfb.Chain([tfb.Shift(np.float64(2.0)), tfb.Exp()]),
            tfb.Chain(
                [tfb.Shift(np.float64(5.0)), tfb.Scale(np.float64(-1.0)), tfb.Exp(), tfb.Scale(np.float64(-1.0))]
            ),
            tfb.Identity(),
        ]
    )
    x = np.random.default_rng(0).normal(size=(50, 4), scale=3.0)
    np.testing.assert_allclose(bounds().forward(x), expected.forward(x), rtol=1e-12)
    log_det = bounds().forward_log_det_jacobian(x)
    np.testing.assert_allclose(log_det, expected.forward_log_det_jacobian(x, event_ndims=1), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "distance"), [("float64", 1e-6), ("float32", 1e-4)])
def test_round_trip_near_the_bounds(dtype, distance):
    y = tf.constant([[distance, 2 + distance, 5 - distance, 1.0], [1 - distance, 2 + distance, 4.0, -3.0]], dtype)
    again = bounds(dtype).forward(tf.identity(bounds(dtype).inverse(y)))
    np.testing.assert_allclose(again - y, np.zeros((2, 4)), atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_forward_stays_within_the_bounds(dtype, jit_compile):
    lower, upper = [0.0, 2.0, -INF, 0.0, -1e6], [1.0, INF, 5.0, INF, 1e6]
    inner = nvp.Bounds(lower, upper, dtype=dtype)
    x = tf.constant(np.multiply.outer([-1e30, -1e3, -100.0, -20.0, 20.0, 100.0, 1e3, 1e30], np.ones(5)), dtype)
    y = tf.function(inner.forward, jit_compile=jit_compile)(x).numpy()
    assert np.all(np.isfinite(y)) and np.all(lower < y) and np.all(y < upper)
    assert np.all(np.isfinite(inner.inverse(y)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_events_on_the_bounds_and_outside_have_no_density(dtype):
    base = tfd.Independent(tfd.Normal(tf.zeros(4, dtype), 1), 1)
    density = nvp.Flow(tfd.TransformedDistribution(base, bounds(dtype)))
    inside = [0.3, 3.5, 3.0, 0.0]
    y = np.tile(inside, (11, 1))
    for row, (feature, value) in enumerate(
        [(0, 0.0), (0, 1.0), (0, -7.0), (1, 2.0), (1, -1e30), (2, 5.0), (2, 6.0), (0, np.nan), (3, np.nan), (1, INF)]
    ):
        y[row, feature] = value
    y = tf.constant(y, dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_prob = density.distribution().log_prob(y)
    expected = [-INF] * 7 + [np.nan] * 3
    np.testing.assert_array_equal(log_prob[:-1], expected)
    np.testing.assert_array_equal(density.log_prob(y)[:-1], expected)
    np.testing.assert_array_equal(density.predict(y, verbose=0)[:-1], expected)
    gradient = tape.gradient(log_prob, y).numpy()
    np.testing.assert_array_equal(gradient[:7], 0.0)
    assert np.isfinite(log_prob[-1]) and np.all(gradient[-1, :3] != 0.0)
    np.testing.assert_array_equal(bounds(dtype).inverse(y)[:-1], np.nan)
    np.testing.assert_array_equal(bounds(dtype).inverse_log_det_jacobian(y)[:-1], expected)


@pytest.mark.parametrize("width", [1e2, 1e4, 1e6])
def test_wide_bounds_keep_the_digits_of_small_events(width):
    wide = nvp.Bounds([-width], [width])
    y = tf.constant([[1e-5], [0.3], [0.30003], [-2.0], [0.9 * width]])
    exact = 2 * np.arctanh(np.float64(y) / width)
    np.testing.assert_allclose(wide.inverse(y), exact, rtol=1e-6)
    np.testing.assert_allclose(wide.forward(tf.identity(wide.inverse(y))), y, rtol=1e-6)


def test_without_a_dtype_bounds_take_events_of_any():
    any_dtype = nvp.Bounds([0.0], [1e8])
    for dtype in ("float32", "float64"):
        y = any_dtype.forward(np.array([[0.3]], dtype))
        assert y.dtype == dtype and any_dtype.inverse(y).dtype == dtype
        flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(1, dtype)), any_dtype))
        flow.adapt(np.array([[1.0], [2.0], [3.0]], dtype))
        assert np.isfinite(flow.log_prob(np.array([[2.0]], dtype)))
    close = nvp.Bounds([1e6], [1e6 + 1])
    assert np.isfinite(close.inverse(np.array([[1e6 + 0.5]])))
    with pytest.raises(ValueError, match=r"must be finite and apart in float32, got 1000000.0 and 1000001.0"):
        close.inverse(np.array([[1e6 + 0.5]], "float32"))


def test_copies_and_files(tmp_path):
    base = tfd.MultivariateNormalDiag(tf.zeros(4))
    flow = nvp.Flow(tfd.TransformedDistribution(base, bounds("float32").copy(name="copied")))
    y = bounds("float32").forward(np.random.default_rng(0).normal(size=(5, 4)).astype("float32"))
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(y), flow.log_prob(y))
    np.testing.assert_array_equal(copy.deepcopy(flow).log_prob(y), flow.log_prob(y))


def test_inverted_bounds_in_a_chain_give_nan_outside():
    chain = OnePassChain([tfb.Invert(bounds())])
    x = np.array([[0.5, 3.0, 4.0, 0.0], [1.5, 3.0, 4.0, 0.0]])
    np.testing.assert_array_equal(np.isnan(chain.forward(x)).all(axis=1), [False, True])


@given(data=st.data())
@examples(10 * EXAMPLES)
def test_any_bounds_and_any_events(data):
    """`PROPERTY_EXAMPLES=100` draws 1000 cases."""
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    kinds = st.sampled_from([(True, True), (True, False), (False, True), (False, False)])
    sides = st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(1.0, 1e6, width=32), kinds)
    drawn = data.draw(st.lists(sides, min_size=1, max_size=4))
    lower = np.array([bound if has_low else -INF for bound, _, (has_low, _) in drawn])
    upper = np.array([bound + width if has_high else INF for bound, width, (_, has_high) in drawn])
    bijector = nvp.Bounds(lower, upper, dtype=dtype)
    x = np.array(data.draw(st.lists(st.floats(-15, 15), min_size=len(drawn), max_size=len(drawn))), dtype)
    y = bijector.forward(x).numpy()
    assert np.all(np.isfinite(y)) and not np.any(bijector.outside(y))
    assert np.isfinite(bijector.forward_log_det_jacobian(x))
    # Rounding y by a few steps moves x by these steps divided by the distance to the nearer bound.
    distance = np.minimum(y - bijector.lower, bijector.upper - y)
    largest = np.maximum(np.abs(y), np.max(np.abs(np.nan_to_num([lower, upper], posinf=0.0, neginf=0.0)), axis=0))
    tolerance = 8 * np.finfo(dtype).eps * (1 + largest / np.minimum(distance, 1e30) + np.abs(x) * 8)
    is_far = tolerance < 0.1  # from its bounds, in rounding steps
    again = bijector.inverse(tf.identity(y)).numpy()
    np.testing.assert_array_less(np.abs(again - x)[is_far], tolerance[is_far])
    for bound in (lower, upper):
        for index in np.flatnonzero(np.isfinite(bound)):
            wrong = np.array(y)
            wrong[index] = bound[index]
            assert bijector.inverse_log_det_jacobian(tf.constant(wrong)) == -INF


@pytest.mark.parametrize("side", ["lower", "upper", "both"])
def test_cdf_and_quantile_of_one_feature(side):
    lower, upper = {"lower": ([1.0], [INF]), "upper": ([-INF], [1.0]), "both": ([1.0], [3.0])}[side]
    normal = tfd.Independent(tfd.Normal(np.float64([0.3]), np.float64([0.7])), 1)
    distribution = nvp.Flow(
        tfd.TransformedDistribution(normal, nvp.Bounds(lower, upper, dtype="float64"))
    ).distribution()
    p = np.array([0.1, 0.5, 0.9])
    y = distribution.quantile(p)
    assert y.shape == (3, 1)
    np.testing.assert_allclose(distribution.cdf(y), p, rtol=1e-9)
    if side == "lower":
        np.testing.assert_allclose(y[:, 0], 1 + stats.lognorm(0.7, scale=np.exp(0.3)).ppf(p), rtol=1e-9)
    np.testing.assert_array_equal(distribution.quantile(np.array([0.0, 1.0])), [lower, upper])
    outside = np.array([[lower[0] - 1.0], lower, upper, [upper[0] + 1.0]])
    np.testing.assert_array_equal(distribution.cdf(outside), [0.0, 0.0, 1.0, 1.0])
