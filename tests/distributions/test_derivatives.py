"""Derivatives of densities and samples, compared with differences in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from helpers.conditioners import in_mode
from helpers.formula import CONTEXT, FLOWS, SEED, X, context_prior, expected_log_prob, make_flow, slopes
from registry import random_tensor

flow, other, conditional, single = FLOWS


def second_differences(function, x, step=1e-4):
    return np.stack(
        [
            (slopes(function, x + d, step) - slopes(function, x - d, step)) / (2 * step)
            for d in step * np.eye(x.shape[-1])
        ],
        axis=-1,
    )


@pytest.mark.parametrize(
    ("density", "mode"),
    [
        ("distribution", "eager"),
        ("distribution", "graph"),
        ("distribution", "xla"),
        ("flow", "eager"),
        ("conditional", "graph"),
    ],
)
def test_scores_and_hessians_match_differences(flow, conditional, density, mode):
    log_prob = {
        "distribution": flow.distribution().log_prob,
        "flow": flow.log_prob,
        "conditional": conditional.distribution(CONTEXT).log_prob,
    }[density]

    def derivatives(x):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = log_prob(x)
            score = inner.gradient(value, x)
            parts = tf.unstack(score, axis=-1)
        return score, tf.stack([outer.gradient(part, x) for part in parts], axis=-1)

    def expected(x):
        return expected_log_prob(conditional, x, CONTEXT) if density == "conditional" else expected_log_prob(flow, x)

    score, hessian = in_mode(derivatives, mode)(tf.constant(X))
    np.testing.assert_allclose(score, slopes(expected, X), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hessian, second_differences(expected, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, 1, 2), rtol=1e-9, atol=1e-9)


def test_gradients_with_respect_to_the_context(conditional):
    context = tf.constant(CONTEXT)
    for log_prob in (conditional.log_prob, lambda x, context: conditional.distribution(context).log_prob(x)):
        with tf.GradientTape() as tape:
            tape.watch(context)
            value = log_prob(X, context)
        expected = slopes(lambda context: expected_log_prob(conditional, X, context), CONTEXT)
        np.testing.assert_allclose(tape.gradient(value, context), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["flow", "distribution", "conditional", "joint"])
def test_samples_are_reparameterised(kind):
    flow = make_flow(seed=13, num_couplings=2, **({"context_shape": 2} if kind in ("conditional", "joint") else {}))
    joint = tfd.JointDistributionSequential([context_prior(), flow.distribution])
    sample = {
        "flow": lambda: flow.sample(5, seed=SEED),
        "distribution": tf.function(lambda: flow.distribution().sample(5, seed=SEED)),
        "conditional": lambda: flow.sample(5, context=CONTEXT, seed=SEED),
        "joint": tf.function(lambda: joint.sample(5, seed=SEED)[1]),
    }[kind]

    def loss():
        return tf.reduce_sum(tf.sin(sample()))

    variables = [variable._value for variable in flow.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss()
    for index, (variable, gradient) in enumerate(zip(variables, tape.gradient(value, variables), strict=True)):
        weight, direction = variable.numpy(), random_tensor(variable.shape, "float64", seed=index)
        sides = []
        for step in (1e-6, -1e-6):
            variable.assign(weight + step * direction)
            sides.append(loss())
        variable.assign(weight)
        slope = tf.reduce_sum(gradient * direction)
        np.testing.assert_allclose((sides[0] - sides[1]) / 2e-6, slope, rtol=1e-5, atol=1e-6, err_msg=variable.name)
        assert abs(slope) > 1e-3
