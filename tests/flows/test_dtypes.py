"""Densities, samples and training in float64, float32 and mixed precision, and reproducible samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers.formula import (
    CONTEXT,
    CONTEXTS,
    DATA,
    FLOWS,
    SEED,
    X,
    assert_standard_normal,
    expected_log_prob,
    latent,
    make_flow,
    slopes,
)

pytestmark = pytest.mark.optimized

flow, other, conditional, single = FLOWS


def test_float64_flow_computes_everything_in_float64():
    flow = make_flow(seed=14)
    flow.compile(keras.optimizers.Adam(1e-3))
    start = np.mean(expected_log_prob(flow, DATA))
    flow.fit(DATA, epochs=3, verbose=0)
    expected = expected_log_prob(flow, DATA)
    assert np.mean(expected) > start
    distribution, bijector, x = flow.distribution(), flow.bijector(), tf.constant(DATA)
    z, log_det = latent(flow, DATA)
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = distribution.log_prob(x)
    sample, sample_log_prob = flow.sample_and_log_prob(5, seed=1)
    results = (
        (flow.log_prob(DATA), expected),
        (flow(DATA), expected),
        (flow.predict(DATA, verbose=0), expected),
        (log_prob, expected),
        (bijector.inverse(x), z),
        (bijector.inverse_log_det_jacobian(x, event_ndims=1), log_det),
        (bijector.forward(z), DATA),
        (sample_log_prob, expected_log_prob(flow, sample)),
        (distribution.log_prob(distribution.sample(5, seed=SEED)), None),
        (tape.gradient(log_prob, x), slopes(lambda x: expected_log_prob(flow, x), DATA)),
    )
    for actual, expected in results:
        assert actual.dtype == np.float64
        if expected is not None:
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flow.log_prob(DATA), expected_log_prob(flow, DATA), rtol=1e-12)
    assert all(variable.dtype == "float64" for variable in flow.trainable_variables)


def test_float32_flow_casts_float64_data(single):
    expected = expected_log_prob(single, DATA)
    assert DATA.dtype == np.float64
    for density in (single.log_prob, single, lambda x: single.predict(x, verbose=0), single.distribution().log_prob):
        assert density(DATA).dtype == np.float32
        np.testing.assert_allclose(density(DATA), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(single.evaluate(DATA, verbose=0), -np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(single.log_prob(tf.constant(DATA)), expected, rtol=1e-4, atol=1e-4)
    conditional = make_flow(seed=15, dtype="float32", context_shape=2)
    expected = expected_log_prob(conditional, X, CONTEXT)
    for actual in (conditional.log_prob(X, CONTEXT), conditional.distribution(CONTEXT).log_prob(X)):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert conditional.sample(2, context=CONTEXT).dtype == np.float32


@pytest.mark.parametrize(
    ("policy", "context_shape"), [("mixed_float16", None), ("mixed_float16", 2), ("mixed_bfloat16", 2)]
)
def test_mixed_precision_trains_and_returns_float32(policy, context_shape):
    flow = make_flow(seed=16, dtype=policy, **({} if context_shape is None else {"context_shape": context_shape}))
    context = () if context_shape is None else (CONTEXTS,)
    data = DATA if context_shape is None else {"x": DATA, "context": CONTEXTS}
    flow.compile(keras.optimizers.Adam(1e-2))
    losses = flow.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0] - 0.01
    expected = expected_log_prob(flow, DATA, *context)  # from the float32 weights, computed in float64
    log_prob = flow.log_prob(DATA, *context)
    assert log_prob.dtype == np.float32
    np.testing.assert_allclose(log_prob, expected, atol=0.01 * np.ptp(expected), rtol=0.02)
    bijector = flow.bijector(*context)
    x = tf.constant(DATA, tf.float32)
    z = bijector.inverse(x)
    for log_det in (bijector.inverse_log_det_jacobian(x, 1), bijector.forward_log_det_jacobian(z, 1)):
        assert log_det.dtype == np.float32
    np.testing.assert_allclose(bijector.forward(z), x, rtol=1e-3, atol=1e-3)
    sample, log_prob = flow.sample_and_log_prob(4, *context, seed=1)
    assert sample.dtype == np.float32 and log_prob.dtype == np.float32
    assert all(variable.dtype == "float32" for variable in flow.trainable_variables)


@pytest.mark.parametrize("kind", ["flow", "conditional"])
def test_seed_fixes_the_sample_in_eager_mode_graph_and_xla(flow, conditional, kind):
    model, context = (conditional, CONTEXT) if kind == "conditional" else (flow, None)
    function = {
        "flow": lambda seed: model.sample(200, seed=seed),
        "conditional": lambda seed: model.distribution(context).sample(200, seed=seed),
    }[kind]
    eager = function(SEED)
    np.testing.assert_array_equal(eager, function(SEED))
    np.testing.assert_allclose(tf.function(function)(SEED), eager, rtol=1e-12)
    compiled = tf.function(function, jit_compile=True)
    sample = compiled(tf.constant(SEED))
    np.testing.assert_array_equal(sample, compiled(tf.constant(SEED)))
    assert np.all(sample != compiled(tf.constant([3, 4]))) and np.all(eager != function([3, 4]))
    assert_standard_normal(latent(model, sample, context)[0])
