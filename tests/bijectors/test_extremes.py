"""Extreme values: densities stay finite, round trips stay accurate, and a bad row does not change others."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.flows import CONTEXT, X, conditional
from registry import random_tensor

pytestmark = pytest.mark.optimized


@functools.cache
def scaled_flow(factor: float, dtype: str) -> nvp.RealNVP:
    """A flow with four couplings and random weights, as large as after training, times `factor`."""
    flow = nvp.RealNVP(4, num_couplings=4, hidden_units=(16,), seed=0, dtype=dtype)
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign(factor * (variable + random_tensor(variable.shape, dtype, index, 0.1)))
    return flow


def rows_of(magnitude: float, dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    return (magnitude * random.uniform(0.5, 1.0, (50, 4)) * random.choice([-1.0, 1.0], (50, 4))).astype(dtype)


MAGNITUDES = (-0.0, 1e-40, 1e-30, 1.0, 1e6, 1e15)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_values_have_finite_densities_and_round_trips(magnitude, dtype):
    flow, x = scaled_flow(1.0, dtype), rows_of(magnitude, dtype)
    bijector = flow.bijector()
    assert np.all(np.isfinite(flow.log_prob(x)))
    z = bijector.inverse(x)
    tolerance = {"float32": 1e-4, "float64": 1e-12}[dtype] * max(1.0, magnitude)
    np.testing.assert_allclose(bijector.forward(tf.identity(z)), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_round_trip_of_a_coupling_is_exact_up_to_rounding(magnitude, dtype):
    """|x' - x| <= 16 eps (|x| + exp(B) |shift|) for any weights. B bounds the log-scale; the shift has no bound."""
    coupling = next(part for part in scaled_flow(50.0, dtype).bijector().bijectors if hasattr(part, "mask"))
    x = rows_of(magnitude, dtype)
    shift, log_scale = coupling.conditioner(tf.constant(x[:, coupling.mask]))
    bound = coupling.conditioner.log_scale_bound
    assert np.max(np.abs(log_scale)) <= bound
    for there, back in ((coupling.forward, coupling.inverse), (coupling.inverse, coupling.forward)):
        actual = back(tf.identity(there(tf.constant(x)))).numpy()
        np.testing.assert_array_equal(actual[:, coupling.mask], x[:, coupling.mask])
        error = np.abs(actual - x)[:, ~coupling.mask]
        terms = np.abs(x[:, ~coupling.mask]) + np.exp(bound) * np.abs(shift)
        assert np.all(error <= 16 * np.finfo(dtype).eps * terms)


@pytest.mark.parametrize("factor", [1.0, 50.0, 1000.0])
def test_the_log_determinant_is_bounded_for_any_weights(factor):
    """The bound is B = 3 times the number of moved features: 2 in each of 4 couplings."""
    flow = scaled_flow(factor, "float64")
    for magnitude in (1.0, 1e6, 1e15):
        x = tf.constant(rows_of(magnitude, "float64"))
        log_det = flow.bijector().inverse_log_det_jacobian(x, event_ndims=1)
        assert np.max(np.abs(log_det)) <= 3.0 * 4 * 2


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_huge_weights_give_finite_densities_in_double_precision(magnitude):
    """In float32 they may overflow, because the shifts have no bound."""
    flow, x = scaled_flow(50.0, "float64"), rows_of(magnitude, "float64")
    assert np.all(np.isfinite(flow.log_prob(x)))
    assert np.all(np.isfinite(flow.sample(50, seed=1)))


@pytest.mark.parametrize("magnitude", [1e30, float(np.finfo("float32").max) / 10])
def test_a_density_is_not_finite_where_the_square_overflows(magnitude):
    """The base squares z, which overflows above 1.8e19 in float32. Such a row must not get a finite density."""
    x = rows_of(magnitude, "float32")
    assert not np.any(np.isfinite(scaled_flow(1.0, "float32").log_prob(x)))
    assert np.all(np.isfinite(scaled_flow(1.0, "float64").log_prob(x.astype("float64"))))


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38])
@pytest.mark.parametrize("way", ["log_prob", "call", "predict", "distribution", "bijector"])
def test_a_bad_row_leaves_the_others_alone(way, value):
    flow = scaled_flow(1.0, "float32")
    calls = {
        "call": flow,
        "predict": lambda x: flow.predict(x, verbose=0),
        "distribution": lambda x: flow.distribution().log_prob(x),
        "bijector": lambda x: np.max(flow.bijector().inverse(x), axis=-1),
    }
    call = calls.get(way, flow.log_prob)
    x, bad = rows_of(1.0, "float32"), rows_of(1.0, "float32")
    rows = [0, 17, 30, 49]
    bad[rows, range(4)] = value
    expected, actual = np.array(call(x)), np.array(call(bad))
    np.testing.assert_allclose(np.delete(actual, rows), np.delete(expected, rows), rtol=1e-5, atol=1e-5)
    if way != "bijector":
        assert not np.any(np.isfinite(actual[rows]))


def test_a_bad_context_leaves_the_other_rows_alone():
    flow = conditional()
    expected = flow.log_prob(X, CONTEXT).numpy()
    for value in (np.nan, np.inf):
        context = CONTEXT.copy()
        context[3, 1] = value
        actual = flow.log_prob(X, context).numpy()
        np.testing.assert_allclose(np.delete(actual, 3), np.delete(expected, 3), rtol=1e-5)
        assert np.all(np.isfinite(np.delete(flow.sample(5, context, seed=1), 3, axis=1)))
