"""A flow's distribution inside TFP's own distributions, compared with the formula in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from helpers.formula import (
    CONTEXT,
    CONTEXT_GRID,
    CONTEXTS,
    DATA,
    FLOWS,
    SEED,
    X,
    assert_standard_normal,
    context_log_prob,
    context_prior,
    expected_log_prob,
    latent,
    log_normal,
    log_sum_exp,
    slopes,
)

flow, other, conditional, single = FLOWS


def test_densities_of_the_flows_match_the_formula(flow, other, conditional, single):
    for one in (flow, other):
        np.testing.assert_allclose(one.log_prob(X), expected_log_prob(one, X), rtol=1e-12)
    np.testing.assert_allclose(single.log_prob(X), expected_log_prob(single, X), rtol=1e-4)
    expected = expected_log_prob(conditional, X, CONTEXT)
    np.testing.assert_allclose(conditional.log_prob(X, CONTEXT), expected, rtol=1e-12)
    assert np.min(np.abs(expected - expected_log_prob(conditional, X, CONTEXT[::-1]))) > 1e-2


# Joint distributions
def coroutine(kind, prior, likelihood):
    def model():
        context = yield (prior if "Batched" in kind.__name__ else tfd.JointDistributionCoroutine.Root(prior))
        yield likelihood(context)

    return kind(model)


JOINTS = {
    "named": lambda *parts: tfd.JointDistributionNamed(dict(zip(("context", "x"), named(*parts), strict=True))),
    "coroutine": lambda *parts: coroutine(tfd.JointDistributionCoroutine, *parts),
    "sequential auto-batched": lambda *parts: tfd.JointDistributionSequentialAutoBatched(list(parts)),
    "named auto-batched": lambda *parts: tfd.JointDistributionNamedAutoBatched(
        dict(zip(("context", "x"), named(*parts), strict=True))
    ),
    "coroutine auto-batched": lambda *parts: coroutine(tfd.JointDistributionCoroutineAutoBatched, *parts),
}


def named(prior, likelihood):
    """Names the argument of the likelihood `context`, because TFP finds the parent by this name."""
    return prior, lambda context: likelihood(context)


@pytest.mark.parametrize("kind", JOINTS)
def test_a_joint_distribution_with_a_conditional_flow(conditional, kind):
    joint = JOINTS[kind](context_prior(), conditional.distribution)
    sample = joint.sample(150, seed=SEED)
    context, x = (part.numpy() for part in tf.nest.flatten(sample))
    expected = context_log_prob(context) + expected_log_prob(conditional, x, context)
    np.testing.assert_allclose(joint.log_prob(sample), expected, rtol=1e-9)
    latents = latent(conditional, x, context)[0], (context - CONTEXTS.mean(axis=0)) / CONTEXTS.std(axis=0)
    assert_standard_normal(np.concatenate(latents, axis=-1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(joint.log_prob(sample))
    variables = conditional.distribution(CONTEXT).trainable_variables
    assert all(gradient is not None for gradient in tape.gradient(loss, variables))


def test_a_joint_distribution_with_a_flow_as_the_prior(flow):
    scale = np.array([0.5, 1.0, 2.0])
    joint = tfd.JointDistributionSequential(
        [flow.distribution(), lambda mean: tfd.MultivariateNormalDiag(mean, tf.constant(scale))]
    )
    mean, x = joint.sample(1000, seed=SEED)
    noise = (x.numpy() - mean.numpy()) / scale
    assert_standard_normal(np.concatenate([latent(flow, mean)[0], noise], axis=-1))
    expected = expected_log_prob(flow, mean) + log_normal(noise) - np.sum(np.log(scale))
    np.testing.assert_allclose(joint.log_prob([mean, x]), expected, rtol=1e-9)


def test_a_pinned_joint_distribution_is_the_unnormalised_posterior(conditional):
    joint = tfd.JointDistributionNamed(
        {"context": context_prior(), "x": lambda context: conditional.distribution(context)}
    )
    pinned = joint.experimental_pin(x=tf.constant(X[0]))
    context = tf.constant(CONTEXT)
    with tf.GradientTape() as tape:
        tape.watch(context)
        log_prob = pinned.log_prob(context=context)

    def expected(context):
        return context_log_prob(context) + expected_log_prob(conditional, X[0], context)

    np.testing.assert_allclose(log_prob, expected(CONTEXT), rtol=1e-9)
    np.testing.assert_allclose(tape.gradient(log_prob, context), slopes(expected, CONTEXT), rtol=1e-5, atol=1e-6)


def test_a_mixture_of_flows(flow, other):
    weights = np.array([0.2, 0.5, 0.3])
    gaussian = tfd.MultivariateNormalDiag(DATA.mean(axis=0), DATA.std(axis=0))
    mixture = tfd.Mixture(tfd.Categorical(probs=weights), [flow.distribution(), other.distribution(), gaussian])

    def expected(x):
        z = (x - DATA.mean(axis=0)) / DATA.std(axis=0)
        normal = log_normal(z) - np.sum(np.log(DATA.std(axis=0)))
        terms = np.stack([expected_log_prob(flow, x), expected_log_prob(other, x), normal])
        return log_sum_exp(terms + np.log(weights)[:, None], axis=0)

    with tf.GradientTape() as tape:
        log_prob = mixture.log_prob(X)
    np.testing.assert_allclose(log_prob, expected(X), rtol=1e-9)
    gradients = tape.gradient(log_prob, mixture.trainable_variables)
    assert len(gradients) == len(flow.trainable_variables) + len(other.trainable_variables)
    assert all(np.any(gradient != 0) for gradient in gradients)
    assert_samples_have_density(mixture.sample(4000, seed=SEED).numpy(), expected)


def assert_samples_have_density(x, log_prob):
    """Checks that the importance weights of a Gaussian proposal well within the support have mean 1."""
    mean, stddev = x.mean(axis=0), 0.5 * x.std(axis=0)
    inside = log_normal((x - mean) / stddev) - np.sum(np.log(stddev))
    weights = np.exp(inside - log_prob(x))
    assert np.mean(weights) == pytest.approx(1.0, abs=5 * np.std(weights) / np.sqrt(len(x)))
    assert np.std(weights) / np.sqrt(len(x)) < 0.05


def test_a_mixture_over_the_batch_of_a_conditional_flow(conditional):
    logits = np.linspace(-1.0, 1.0, 6)
    log_weights = logits - log_sum_exp(logits, axis=0)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=logits), conditional.distribution(CONTEXT))

    def expected(x):
        return log_sum_exp(log_weights + expected_log_prob(conditional, x[:, None], CONTEXT), axis=-1)

    np.testing.assert_allclose(mixture.log_prob(X), expected(X), rtol=1e-9)
    np.testing.assert_allclose(tf.function(mixture.log_prob, jit_compile=True)(X), expected(X), rtol=1e-9)
    posterior = log_weights + expected_log_prob(conditional, X[:, None], CONTEXT) - expected(X)[:, None]
    actual = mixture.posterior_marginal(X).probs_parameter()
    np.testing.assert_allclose(actual, np.exp(posterior), rtol=1e-9)
    assert_samples_have_density(mixture.sample(4000, seed=SEED).numpy(), expected)


MASK = np.array([True, False, True, True, False, True])


# (a distribution made from a flow and a conditional flow, its log-density in NumPy, the context)
WRAPPERS = {
    "Sample": (
        lambda flow, _: tfd.Sample(flow.distribution(), [4]),
        lambda flow, _, x: expected_log_prob(flow, x).sum(axis=-1),
        None,
    ),
    "Independent": (
        lambda _, conditional: tfd.Independent(conditional.distribution(CONTEXT), 1),
        lambda _, conditional, x: expected_log_prob(conditional, x, CONTEXT).sum(axis=-1),
        CONTEXT,
    ),
    "Independent over one axis of two": (
        lambda _, conditional: tfd.Independent(conditional.distribution(CONTEXT_GRID), 1),
        lambda _, conditional, x: expected_log_prob(conditional, x, CONTEXT_GRID).sum(axis=-1),
        CONTEXT_GRID,
    ),
    "BatchReshape": (
        lambda _, conditional: tfd.BatchReshape(conditional.distribution(CONTEXT), [2, 3]),
        lambda _, conditional, x: expected_log_prob(conditional, x, CONTEXT_GRID),
        CONTEXT_GRID,
    ),
    "BatchBroadcast": (
        lambda flow, _: tfd.BatchBroadcast(flow.distribution(), [2, 3]),
        lambda flow, _, x: expected_log_prob(flow, x),
        None,
    ),
    "BatchBroadcast of a batch": (
        lambda _, conditional: tfd.BatchBroadcast(conditional.distribution(CONTEXT), [2, 6]),
        lambda _, conditional, x: expected_log_prob(conditional, x, CONTEXT),
        CONTEXT,
    ),
    "Masked": (
        lambda _, conditional: tfd.Masked(conditional.distribution(CONTEXT), MASK),
        lambda _, conditional, x: np.where(MASK, expected_log_prob(conditional, x, CONTEXT), 0.0),
        CONTEXT,
    ),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_distributions_that_wrap_a_flow(flow, conditional, kind):
    make, expected, context = WRAPPERS[kind]
    distribution = make(flow, conditional)
    x = distribution.sample(500, seed=SEED)
    assert x.shape == (500, *distribution.batch_shape, *distribution.event_shape)
    np.testing.assert_allclose(distribution.log_prob(x), expected(flow, conditional, x.numpy()), rtol=1e-9, atol=1e-9)
    z, _ = latent(flow if context is None else conditional, x, context)
    assert_standard_normal(z[:, MASK] if kind == "Masked" else z)
    reported = {id(variable) for variable in distribution.trainable_variables}
    held = (flow if context is None else conditional).trainable_variables
    assert reported == {id(variable._value) for variable in held}
