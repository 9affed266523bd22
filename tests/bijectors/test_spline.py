"""Spline couplings: they match TFP's splines, have identity tails, and handle extreme values."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

import tfp_realnvp as nvp
from registry import random_tensor
from tfp_realnvp.bijectors import spline

MASK = np.array([True, False, False])
BOUND = 3.0


def coupling(parameters, mask=MASK, **options):
    """A spline coupling with the same parameters `[moved, 3 K - 1]` in every row."""
    parameters = tf.convert_to_tensor(parameters)
    num_bins = (parameters.shape[-1] + 1) // 3
    return nvp.SplineCoupling(
        lambda kept: tf.broadcast_to(parameters, [len(kept), *parameters.shape]), mask, num_bins=num_bins, **options
    )


def events(values):
    """Rows whose two moved features both have these values."""
    values = np.asarray(values)
    return tf.constant(np.stack([np.linspace(-1, 1, len(values)), values, values], axis=1))


def both_ways(bijector):
    return (
        (bijector.forward, bijector.forward_log_det_jacobian),
        (bijector.inverse, bijector.inverse_log_det_jacobian),
    )


@pytest.mark.parametrize("num_bins", [2, 8, 13])
def test_agrees_with_tfps_rational_quadratic_spline(num_bins):
    raw = random_tensor((2, 3 * num_bins - 1), "float64", seed=1, stddev=2.0)
    sizes = tf.nn.softmax(tf.reshape(raw[:, : 2 * num_bins], [2, 2, num_bins]))
    sizes = spline.MIN_BIN + (1 - num_bins * spline.MIN_BIN) * sizes
    offset = np.log(np.expm1(1 - spline.MIN_SLOPE))
    slopes = spline.MIN_SLOPE + tf.nn.softplus(raw[:, 2 * num_bins :] + offset)
    widths, heights = 2 * BOUND * sizes[:, 0], 2 * BOUND * sizes[:, 1]
    expected = tfb.Invert(tfb.RationalQuadraticSpline(widths, heights, slopes, range_min=-BOUND))
    x = events(np.random.default_rng(0).normal(0.0, 2.0, 200))
    bijector = coupling(raw)
    for (ours, our_log_det), (theirs, their_log_det) in zip(both_ways(bijector), both_ways(expected), strict=True):
        np.testing.assert_allclose(ours(x)[:, 1:], theirs(x[:, 1:]), atol=1e-10)
        np.testing.assert_allclose(our_log_det(x, event_ndims=1), their_log_det(x[:, 1:], event_ndims=1), atol=1e-10)


def test_zero_parameters_give_the_identity():
    x = events(np.linspace(-5.0, 5.0, 101))
    for transform, log_det in both_ways(coupling(tf.zeros([2, 11], tf.float64))):
        np.testing.assert_allclose(transform(x), x, atol=1e-14)
        np.testing.assert_allclose(log_det(x, event_ndims=1), 0.0, atol=1e-13)


def test_tails_are_the_identity_and_join_with_slope_one():
    bijector = coupling(random_tensor((2, 23), "float64", seed=2))
    outside = events([-1e30, -1e6, -3.0, 3.0, 1e6, 1e30])
    for transform, log_det in both_ways(bijector):
        np.testing.assert_array_equal(transform(outside), outside)
        np.testing.assert_array_equal(log_det(outside, event_ndims=1), np.zeros(6))
        inside = events([-BOUND + 1e-9, BOUND - 1e-9])
        np.testing.assert_allclose(transform(inside), inside, atol=1e-8)
        np.testing.assert_allclose(log_det(inside, event_ndims=1), 0.0, atol=1e-6)


@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_gradients_are_finite_and_bad_rows_do_not_change_others(way):
    raw = tf.Variable(random_tensor((1, 2, 23), "float64", seed=3))
    bijector = nvp.SplineCoupling(lambda kept: raw + tf.zeros([len(kept), 1, 1], tf.float64), MASK)
    x = events([0.3, 1e300, -BOUND, np.nan, np.inf, 0.3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = getattr(bijector, way)(x)
        log_det = getattr(bijector, f"{way}_log_det_jacobian")(tf.identity(x), event_ndims=1)
        finite = tf.gather(tf.reduce_sum(y, axis=-1) + log_det, [0, 1, 2, 5])
    gradients = tape.gradient(finite, [x, raw])
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(y[0, 1:], y[5, 1:])
    assert np.isnan(y[3, 1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("magnitude", "tolerance"), [(1.0, 100), (5.0, 200), (50.0, 400), (1e3, 20_000)])
def test_splines_increase_and_round_trip_for_any_parameters(dtype, magnitude, tolerance):
    """The error of a round trip is the rounding error, times the slope of the way back where this slope is above 1."""
    mask = np.array([True, False])
    for seed in range(6):
        random = np.random.default_rng(seed)
        num_bins = int(random.integers(2, 17))
        shape = (1, 3 * num_bins - 1)
        raw = magnitude * (random.normal(size=shape) if seed % 2 else random.choice([-1.0, 1.0], shape))
        bijector = coupling(raw.astype(dtype), mask)
        value = np.sort(np.append(random.uniform(-BOUND, BOUND, 4000), [-2.9999999, 2.9999999]))
        x = tf.constant(np.stack([value, value], axis=1).astype(dtype))
        for there, log_det, back in (
            (bijector.forward, bijector.forward_log_det_jacobian, bijector.inverse),
            (bijector.inverse, bijector.inverse_log_det_jacobian, bijector.forward),
        ):
            y, log_slope = there(x).numpy()[:, 1], log_det(tf.identity(x), event_ndims=1).numpy()
            assert np.isfinite(y).all() and np.isfinite(log_slope).all()
            rounding = tolerance * np.finfo(dtype).eps
            assert np.all(np.diff(y) >= -rounding) and np.max(np.abs(y)) <= BOUND * (1 + rounding)
            error = np.abs(back(tf.stack([x[:, 0], y], axis=1)) - x)[:, 1]
            assert np.max(error / np.maximum(1.0, np.exp(-log_slope))) < rounding


def test_values_rounded_past_a_knot_have_finite_log_determinants():
    """One step past the knot of a steep bin that ends flat, the formula gives a negative slope."""
    raw = 20.0 * np.random.default_rng(0).choice([-1.0, 1.0], (3 * 33 - 1, 200)).astype("float32")
    for one_way, sizes in zip((spline._to_latent, spline._to_data), spline._bins(tf.constant(raw)), strict=False):
        knots = np.cumsum(sizes, axis=0)[:-1]
        x = np.concatenate([np.nextafter(knots, -1.0), knots, np.nextafter(knots, 2.0)])
        value, log_slope = one_way(tf.constant(x), tf.constant(np.repeat(raw[:, np.newaxis], len(x), axis=1)))
        assert np.isfinite(value).all() and np.isfinite(log_slope).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_events_have_float32_log_determinants(dtype):
    raw = random_tensor((2, 23), "float32", seed=5)
    x = events([-4.0, -0.5, 0.25, 2.0])
    expected = coupling(tf.cast(raw, tf.float64))
    for way in ("forward", "inverse"):
        half = tf.cast(x, dtype)
        y = getattr(coupling(raw), way)(half)
        log_det = getattr(coupling(raw), f"{way}_log_det_jacobian")(half, event_ndims=1)
        assert y.dtype == dtype and log_det.dtype == "float32"
        np.testing.assert_allclose(tf.cast(y, tf.float64), getattr(expected, way)(x), atol=5e-2)


def test_flattened_parameters_are_accepted():
    raw = random_tensor((2, 11), "float64", seed=6)
    flat = nvp.SplineCoupling(lambda kept: tf.tile(tf.reshape(raw, [1, 22]), [len(kept), 1]), MASK, num_bins=4)
    x = random_tensor((2, 3, 3), "float64", seed=0)
    np.testing.assert_array_equal(flat.forward(x), coupling(raw).forward(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coupling(tf.zeros([2, 2])), "num_bins must be an integer of at least 2, got 1"),
        (lambda: coupling(tf.zeros([2, 3 * 513 - 1])), "num_bins must be at most 512, got 513"),
        (lambda: coupling(tf.zeros([2, 11]), bound=0.0), "bound must be above 0 and finite, got 0.0"),
        (lambda: coupling(tf.zeros([2, 11]), bound=np.inf), "bound must be above 0 and finite, got inf"),
        (lambda: coupling(tf.zeros([2, 11]), bound=1e7), "bound must be from 1e-6 to 1e6, got 10000000.0"),
        (lambda: coupling(tf.zeros([2, 11]), bound="a"), "bound must be above 0 and finite, got 'a'"),
        (
            lambda: coupling(tf.zeros([1, 11])).forward(tf.ones([5, 3])),
            r"parameters \[N, 2, 11\] of splines of 4 bins, got shapes \(5, 1, 11\) for kept of shape \(5, 1\)",
        ),
        (
            lambda: nvp.SplineCoupling(nvp.MLP(2), MASK),
            r"conditioner must return the parameters \[N, 2, 23\] of splines of 8 bins, got \(<",
        ),
        (lambda: nvp.SplineCoupling(nvp.MLP(2, num_parameters=5), MASK), r"got shapes \(1, 2, 5\)"),
    ],
)
def test_wrong_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
