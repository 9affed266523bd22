"""A flow's distribution can be sliced, mapped, passed into functions and loops, and saved in checkpoints."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.formula import (
    CONTEXT,
    CONTEXT_GRID,
    FLOWS,
    SEED,
    X,
    couplings,
    expected_log_prob,
    latent_and_log_det,
    log_normal,
    make_flow,
)
from registry import perturbed

flow, other, conditional, single = FLOWS


# Slices of the batch shape
SLICED_FLOWS = {}  # one flow for each kind of permutation


@pytest.mark.parametrize(
    ("permutation", "shape", "slices"),
    [
        ("reverse", (6,), np.s_[:3]),
        ("reverse", (2, 3), np.s_[1, :2]),
        ("random", (6,), np.s_[:3]),
        ("random", (6,), np.s_[0]),
        ("random", (6,), np.s_[::2]),
        ("random", (6,), np.s_[..., tf.newaxis]),
        ("random", (2, 3), np.s_[1]),
        ("random", (2, 3), np.s_[:, 2]),
        ("random", (2, 3), np.s_[..., tf.newaxis, :]),
    ],
    ids=str,
)
def test_slices_have_the_densities_of_their_contexts(permutation, shape, slices):
    if permutation not in SLICED_FLOWS:
        SLICED_FLOWS[permutation] = make_flow(seed=8, context_shape=2, permutation=permutation)
    flow = SLICED_FLOWS[permutation]
    distribution = flow.distribution(CONTEXT.reshape(*shape, 2))[slices]
    rows = np.arange(6).reshape(shape)[slices]
    context = CONTEXT[rows]
    assert distribution.batch_shape == rows.shape
    np.testing.assert_allclose(distribution.log_prob(X[0]), expected_log_prob(flow, X[0], context), rtol=1e-9)
    sample = distribution.sample(4, seed=SEED)
    assert sample.shape == (4, *rows.shape, 3)
    np.testing.assert_allclose(distribution.log_prob(sample), expected_log_prob(flow, sample, context), rtol=1e-9)
    assert len(distribution.trainable_variables) == len(flow.trainable_variables)


def test_slices_of_a_stock_chain_and_of_a_wrapped_flow(conditional):
    """Slices a user's own chain, and a distribution that wraps the distribution of a flow."""
    mlp = nvp.MLP(1, (16,), seed=0, dtype="float64")
    coupling = perturbed(nvp.AffineCoupling(mlp, nvp.masks.half(2), context=tf.constant(CONTEXT)))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    stock = tfd.TransformedDistribution(base, tfb.Chain([tfb.Shift(X[:, 1:]), coupling]))
    x = X[0, :2]
    z, log_det = latent_and_log_det([coupling], x - X[:, 1:], CONTEXT)
    expected = log_normal(z) + log_det
    np.testing.assert_allclose(stock.log_prob(x), expected, rtol=1e-9)
    np.testing.assert_allclose(stock[1:4].log_prob(x), expected[1:4], rtol=1e-9)
    reshaped = tfd.Independent(conditional.distribution(CONTEXT_GRID), 1)[1]
    expected = expected_log_prob(conditional, X[:3], CONTEXT[3:]).sum()
    np.testing.assert_allclose(reshaped.log_prob(X[:3]), expected, rtol=1e-9)


# Functions, loops and checkpoints
def test_vectorized_map(flow, conditional):
    distribution = flow.distribution()
    np.testing.assert_allclose(tf.vectorized_map(distribution.log_prob, X), expected_log_prob(flow, X), rtol=1e-9)

    def log_prob(pair):
        x, context = pair
        return conditional.distribution(context).log_prob(x)

    expected = expected_log_prob(conditional, X, CONTEXT)
    np.testing.assert_allclose(tf.vectorized_map(log_prob, (X, CONTEXT)), expected, rtol=1e-9)
    by_method = tf.vectorized_map(lambda pair: conditional.log_prob(*pair), (X, CONTEXT))
    np.testing.assert_allclose(by_method, expected, rtol=1e-9)


def with_and_without_context(flow, conditional):
    """Yields (distribution, expected log-density) without and with a context."""
    yield flow.distribution(), expected_log_prob(flow, X)
    yield conditional.distribution(CONTEXT), expected_log_prob(conditional, X, CONTEXT)


def test_a_distribution_is_a_composite_tensor(flow, conditional):
    for distribution, expected in with_and_without_context(flow, conditional):
        flat = tf.nest.flatten(distribution, expand_composites=True)
        packed = tf.nest.pack_sequence_as(distribution, flat, expand_composites=True)
        assert isinstance(packed, tfd.TransformedDistribution)
        np.testing.assert_allclose(packed.log_prob(X), expected, rtol=1e-9)
        assert {id(v) for v in packed.trainable_variables} == {id(v) for v in distribution.trainable_variables}


def test_a_distribution_passes_into_and_out_of_a_function(flow, conditional):
    @tf.function
    def log_prob(distribution, x):
        return distribution.log_prob(x)

    @tf.function
    def passed_through(distribution):
        return distribution

    for distribution, expected in with_and_without_context(flow, conditional):
        np.testing.assert_allclose(log_prob(distribution, tf.constant(X)), expected, rtol=1e-9)
        returned = passed_through(distribution)
        assert isinstance(returned, tfd.TransformedDistribution)
        np.testing.assert_allclose(returned.log_prob(X), expected, rtol=1e-9)
        closed_over = tf.function(distribution.log_prob, jit_compile=True)
        np.testing.assert_allclose(closed_over(X), expected, rtol=1e-9)


def test_a_function_is_not_retraced_for_another_context(conditional):
    traces = []

    @tf.function
    def log_prob(distribution, x):
        traces.append(x)
        return distribution.log_prob(x)

    for context in (CONTEXT, CONTEXT[::-1]):
        actual = log_prob(conditional.distribution(context), tf.constant(X))
        np.testing.assert_allclose(actual, expected_log_prob(conditional, X, context), rtol=1e-9)
    assert len(traces) == 1


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_distribution_can_be_a_loop_variable(flow, conditional, mode):
    def total(distribution):
        def body(index, distribution, total):
            return index + 1, distribution, total + distribution.log_prob(tf.gather(points, index))

        points = tf.constant(np.stack([X, X + 1.0, X - 1.0]))
        start = tf.constant(0), distribution, tf.zeros([6], tf.float64)
        return tf.while_loop(lambda index, *_: index < 3, body, start)[-1]

    for distribution, expected in (
        (flow.distribution(), sum(expected_log_prob(flow, X + s) for s in (0.0, 1.0, -1.0))),
        (
            conditional.distribution(CONTEXT),
            sum(expected_log_prob(conditional, X + s, CONTEXT) for s in (0.0, 1.0, -1.0)),
        ),
    ):
        run = tf.function(total) if mode == "graph" else total
        np.testing.assert_allclose(run(distribution), expected, rtol=1e-9)


@pytest.mark.parametrize("part", ["distribution", "bijector", "distribution by hand"])
def test_checkpoints_restore_the_density(part, tmp_path):
    flows = make_flow(seed=9), make_flow(seed=10)
    parts = couplings(seed=11), couplings(seed=12)
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    if part == "distribution by hand":
        saved, loaded = (tfd.TransformedDistribution(base, tfb.Chain(own)) for own in parts)
    else:
        saved, loaded = (getattr(flow, part)() for flow in flows)
    path = tf.train.Checkpoint(part=saved).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(part=loaded).restore(path).assert_consumed()
    if part == "distribution by hand":
        z, log_det = latent_and_log_det(parts[0], X[:, :2])
        np.testing.assert_allclose(loaded.log_prob(X[:, :2]), log_normal(z) + log_det, rtol=1e-9)
        return
    expected = expected_log_prob(flows[0], X)
    for density in (flows[1].log_prob, flows[1].distribution().log_prob):
        np.testing.assert_allclose(density(X), expected, rtol=1e-9)


def test_a_sample_shape_of_unknown_rank(flow, conditional):
    for distribution, batch_shape in ((flow.distribution(), ()), (conditional.distribution(CONTEXT), (6,))):

        @tf.function(input_signature=[tf.TensorSpec(None, tf.int32)])
        def sample_and_density(shape, distribution=distribution):
            x = distribution.sample(shape, seed=SEED)
            return x, distribution.log_prob(x)

        for shape in ((), (4,), (2, 3)):
            x, log_prob = sample_and_density(tf.constant(shape, tf.int32))
            assert x.shape == (*shape, *batch_shape, 3)
            np.testing.assert_allclose(x, distribution.sample(shape, seed=SEED), rtol=1e-9)
            np.testing.assert_allclose(log_prob, distribution.log_prob(x), rtol=1e-9)
