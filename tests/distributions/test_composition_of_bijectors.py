"""A flow's bijector with TFP's bijectors, bounds, bases and divergences, compared with NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.conditioners import train_by_tape
from helpers.formula import (
    DATA,
    FLOWS,
    SEED,
    X,
    assert_all_moved,
    assert_standard_normal,
    couplings,
    expected_log_prob,
    latent,
    latent_and_log_det,
    log_normal,
    log_sum_exp,
    make_flow,
)
from registry import perturbed

flow, other, conditional, single = FLOWS


def test_inverse_of_a_flows_bijector(flow):
    bijector = tfb.Invert(flow.bijector())
    z, log_det = latent(flow, X)
    np.testing.assert_allclose(bijector.forward(X), z, rtol=1e-9)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(X, event_ndims=1), log_det, rtol=1e-9)
    np.testing.assert_allclose(bijector.inverse(z), X, rtol=1e-9)
    whitened = tfd.TransformedDistribution(flow.distribution(), bijector)
    np.testing.assert_allclose(whitened.log_prob(z), log_normal(z), rtol=1e-9)
    assert_standard_normal(whitened.sample(1000, seed=SEED))


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def log_odds(x):
    return np.log(x / (1 - x)), -np.log(x) - np.log(1 - x)


def inverse_softplus(x):
    return np.log(np.expm1(x)), -np.log(-np.expm1(-x))


# (bijector, its forward map in NumPy, its inverse map with the log-derivatives in NumPy)
BOUNDS = {
    "sigmoid": (tfb.Sigmoid, sigmoid, log_odds),
    "softplus": (tfb.Softplus, lambda u: np.log1p(np.exp(u)), inverse_softplus),
    "blockwise": (
        lambda: tfb.Blockwise([tfb.Sigmoid(), tfb.Softplus()], block_sizes=[1, 1]),
        lambda u: np.concatenate([sigmoid(u[..., :1]), np.log1p(np.exp(u[..., 1:]))], axis=-1),
        lambda x: np.concatenate([log_odds(x[..., :1]), inverse_softplus(x[..., 1:])], axis=-1),
    ),
}


@pytest.mark.parametrize(
    ("kind", "trainer"), [("sigmoid", "fit"), ("softplus", "fit"), ("blockwise", "fit"), ("blockwise", "tape")]
)
def test_training_on_bounded_data(kind, trainer):
    make, forward, inverse = BOUNDS[kind]
    parts = couplings()
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    distribution = tfd.TransformedDistribution(base, tfb.Chain([make(), *parts]))
    model = nvp.Flow(distribution)
    x = forward(0.8 * DATA[:, :2] - 1.0)

    def expected(x):
        u, log_derivatives = inverse(x)
        z, log_det = latent_and_log_det(parts, u)
        return log_normal(z) + log_det + np.sum(log_derivatives, axis=-1)

    before, start = [variable.numpy() for variable in distribution.trainable_variables], -np.mean(expected(x))
    if trainer == "fit":
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(x, epochs=5, verbose=0)
    else:
        train_by_tape(lambda: -tf.reduce_mean(distribution.log_prob(x)), distribution.trainable_variables, "graph", 20)
    assert_all_moved(distribution.trainable_variables, before)
    assert -np.mean(expected(x)) < start - 0.01
    for density in (distribution.log_prob, model.log_prob, model.distribution().log_prob):
        np.testing.assert_allclose(density(x[:20]), expected(x[:20]), rtol=1e-8)
    sample, log_prob = model.sample_and_log_prob(500, seed=1)
    assert np.all(np.isfinite(inverse(sample.numpy())))
    np.testing.assert_allclose(log_prob, expected(sample.numpy()), rtol=1e-6, atol=1e-6)
    assert_standard_normal(latent_and_log_det(parts, inverse(sample.numpy())[0])[0])


# Bases
def student_t(z, df=5.0):
    constant = float(tf.math.lgamma((df + 1) / 2) - tf.math.lgamma(df / 2)) - 0.5 * np.log(df * np.pi)
    return np.sum(constant - (df + 1) / 2 * np.log1p(np.square(z) / df), axis=-1)


def trainable_gaussian():
    scale = tfp.util.TransformedVariable(tf.constant([0.5, 1.0, 2.0], tf.float64), tfb.Softplus())
    return tfd.MultivariateNormalDiag(tf.Variable(DATA[0]), scale)


def gaussian_log_prob(base, z):
    loc, scale = base.loc.numpy(), tf.convert_to_tensor(base.scale.diag).numpy()
    return log_normal((z - loc) / scale) - np.sum(np.log(scale))


def gaussian_mixture():
    logits, locs = tf.Variable(tf.constant([0.5, -0.5], tf.float64)), tf.Variable(DATA[:2])
    return tfd.MixtureSameFamily(tfd.Categorical(logits), tfd.MultivariateNormalDiag(locs, tf.ones([2, 3], tf.float64)))


def gaussian_mixture_log_prob(base, z):
    logits, locs = (
        tf.convert_to_tensor(v).numpy() for v in (base.mixture_distribution.logits, base.components_distribution.loc)
    )
    return log_sum_exp(logits + log_normal(z[:, None] - locs), axis=-1) - log_sum_exp(logits, axis=0)


# (base, its log-density in NumPy)
BASES = {
    "trainable": (trainable_gaussian, gaussian_log_prob),
    "mixture": (gaussian_mixture, gaussian_mixture_log_prob),
    "student-t": (
        lambda: tfd.Independent(tfd.StudentT(tf.constant(5.0, tf.float64), tf.Variable(DATA[0]), 1.0), 1),
        lambda base, z: student_t(z - base.distribution.loc.numpy()),
    ),
}


@pytest.mark.parametrize("kind", BASES)
def test_training_with_other_bases(kind):
    make, base_log_prob = BASES[kind]
    base, parts = make(), couplings(size=3)
    model = nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain(parts)))

    def expected():
        z, log_det = latent_and_log_det(parts, DATA)
        return base_log_prob(base, z) + log_det

    start = -np.mean(expected())
    np.testing.assert_allclose(model.log_prob(DATA), expected(), rtol=1e-6)
    before = [variable.numpy() for variable in base.trainable_variables]
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(DATA, epochs=5, verbose=0)
    assert_all_moved(base.trainable_variables, before)
    np.testing.assert_allclose(model.log_prob(DATA), expected(), rtol=1e-6)
    assert -np.mean(expected()) < start - 0.01
    sample, log_prob = model.sample_and_log_prob(100, seed=1)
    np.testing.assert_allclose(model.log_prob(sample), log_prob, rtol=1e-8)


def test_a_flow_as_the_base_of_a_flow():
    inner = make_flow(seed=6, num_couplings=2)
    outer = perturbed(
        nvp.RealNVP(
            3, num_couplings=2, hidden_units=(16,), base_distribution=inner.distribution(), seed=7, dtype="float64"
        )
    )
    parts = couplings(size=3)
    by_hand = tfd.TransformedDistribution(outer.distribution(), tfb.Chain(parts))
    assert len(outer.trainable_variables) == 2 * len(inner.trainable_variables)

    def expected(x):
        own = outer.bijector().bijectors[:4]  # standardisation, and two couplings with a permutation between them
        z, log_det = latent_and_log_det(own, x)
        return expected_log_prob(inner, z) + log_det

    start = expected(DATA)
    np.testing.assert_allclose(outer.log_prob(DATA), start, rtol=1e-9)
    z, log_det = latent_and_log_det(parts, X)
    np.testing.assert_allclose(by_hand.log_prob(X), expected(z) + log_det, rtol=1e-9)
    before = [variable.numpy() for variable in outer.trainable_variables]
    outer.compile(keras.optimizers.Adam(1e-2))
    outer.fit(DATA, epochs=5, verbose=0)
    assert_all_moved(outer.trainable_variables, before)
    np.testing.assert_allclose(outer.log_prob(DATA), expected(DATA), rtol=1e-9)
    assert np.mean(expected(DATA)) > np.mean(start)


# Divergences and copies
def test_monte_carlo_divergences(flow, other):
    q, p = flow.distribution(), other.distribution()
    x = q.sample(200, seed=SEED).numpy()
    expected = np.mean(expected_log_prob(flow, x) - expected_log_prob(other, x))
    by_hand = tf.reduce_mean(q.log_prob(x) - p.log_prob(x))
    np.testing.assert_allclose(by_hand, expected, rtol=1e-9)
    assert abs(expected) > 1e-2

    def loss(**options):
        return tfp.vi.monte_carlo_variational_loss(p.log_prob, q, sample_size=20_000, seed=SEED, **options)

    reference = np.mean(
        np.subtract(*(expected_log_prob(f, q.sample(20_000, seed=[3, 4]).numpy()) for f in (flow, other)))
    )
    compiled = tf.function(loss)
    np.testing.assert_allclose(compiled(), reference, rtol=0.1)
    tighter = compiled(importance_sample_size=2, stopped_surrogate_posterior=q)
    assert 0 < tighter < compiled()


def test_flows_that_share_a_bijector_have_the_divergence_of_their_bases(flow, other):
    p = flow.distribution()
    loc, scale = np.array([0.5, -1.0, 0.0]), np.array([0.5, 1.0, 2.0])
    q = p.copy(distribution=tfd.MultivariateNormalDiag(loc, scale))
    q2 = p.copy(distribution=tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64)))
    expected = 0.5 * np.sum(loc**2 + scale**2 - 1) - np.sum(np.log(scale))
    np.testing.assert_allclose(tfd.kl_divergence(q, q2), expected, rtol=1e-12)
    np.testing.assert_allclose(tfd.kl_divergence(p, flow.distribution()), 0.0, atol=1e-12)
    with pytest.raises(NotImplementedError, match="bijectors are not equal"):
        tfd.kl_divergence(p, other.distribution())


def test_copies_share_variables_unless_replaced(flow):
    distribution = flow.distribution()
    copy = distribution.copy(name="copy")
    assert type(copy) is type(distribution) and copy.name == "copy"
    assert [id(v) for v in copy.variables] == [id(v) for v in distribution.variables]
    np.testing.assert_array_equal(copy.log_prob(X), distribution.log_prob(X))
    np.testing.assert_array_equal(copy.sample(3, seed=SEED), distribution.sample(3, seed=SEED))
    loc = np.array([1.0, 2.0, 3.0])
    moved = distribution.copy(distribution=tfd.MultivariateNormalDiag(loc))
    z, log_det = latent(flow, X)
    np.testing.assert_allclose(moved.log_prob(X), log_normal(z - loc) + log_det, rtol=1e-9)
