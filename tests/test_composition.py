"""A flow's distribution goes wherever a tfd.Distribution goes: every number against the same formula in numpy."""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor
from tfp_realnvp.bijectors import Standardization

DATA = 1.0 + np.random.default_rng(0).normal(size=(256, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0, 0, 0.5]])
CONTEXTS = 3.0 + 2.0 * np.random.default_rng(1).normal(size=(256, 2))
X, CONTEXT = DATA[:6], CONTEXTS[:6]
SEED = [1, 2]


# The density in numpy


def log_normal(z):
    """Log-density of N(0, I)."""
    return np.sum(-0.5 * np.square(z) - 0.5 * np.log(2 * np.pi), axis=-1)


def shift_and_log_scale(mlp, *inputs):
    hidden = np.concatenate(inputs, axis=-1)
    for layer in mlp.hidden_layers:
        hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
    outputs = hidden @ mlp.output_layer.kernel.numpy() + mlp.output_layer.bias.numpy()
    shift, log_scale = np.split(outputs, 2, axis=-1)
    return shift, mlp.log_scale_bound * np.tanh(log_scale / mlp.log_scale_bound)


def latent_and_log_det(parts, x, context=None):
    """(z, log|det dz/dx|) of standardisations, permutations and couplings, the first of them next to the data."""
    z, log_det = np.array(x, np.float64), np.zeros(np.shape(x)[:-1])
    for part in parts:
        if isinstance(part, Standardization):
            z, log_det = (z - part.loc.numpy()) / part.scale.numpy(), log_det - np.sum(np.log(part.scale.numpy()))
        elif isinstance(part, tfb.Permute):
            permuted, z = z, np.empty_like(z)
            z[..., np.asarray(part.permutation)] = permuted
        else:
            kept = z[..., part.mask]
            inputs = (kept,) if context is None else (kept, context)
            shift, log_scale = shift_and_log_scale(part.conditioner, *inputs)
            z = z.copy()
            z[..., ~part.mask] = (z[..., ~part.mask] - shift) * np.exp(-log_scale)
            log_det = log_det - np.sum(log_scale, axis=-1)
    return z, log_det


def latent(flow, x, context=None):
    """(z, log|det dz/dx|) of a flow; leading dimensions of x and context broadcast."""
    if context is None:
        return latent_and_log_det(flow.bijector().bijectors, x)
    batch_shape = np.broadcast_shapes(np.shape(x)[:-1], np.shape(context)[:-1])
    parts = flow.bijector(CONTEXT).bijectors
    context = (np.asarray(context) - CONTEXTS.mean(axis=0)) / CONTEXTS.std(axis=0)
    x, context = (np.broadcast_to(array, batch_shape + np.shape(array)[-1:]) for array in (x, context))
    return latent_and_log_det(parts, x, context)


def expected_log_prob(flow, x, context=None):
    z, log_det = latent(flow, x, context)
    return log_normal(z) + log_det


def assert_standard_normal(z):
    """Mean 0, deviation 1 and no correlation, of all leading dimensions together, within five standard errors."""
    z = np.reshape(z, [-1, np.shape(z)[-1]])
    error = 5 / np.sqrt(len(z))
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=error)
    np.testing.assert_allclose(np.cov(z.T), np.eye(z.shape[-1]), atol=1.5 * error)


# Flows, away from their identity start


def perturbed(module, seed=0):
    for index, variable in enumerate(module.trainable_variables):
        dtype = tf.as_dtype(variable.dtype).name
        variable.assign_add(random_tensor(variable.shape, dtype, seed=100 * seed + index, stddev=0.2))
    return module


def make_flow(seed=1, dtype="float64", **options):
    options = {"num_couplings": 2, "hidden_units": (16,), "permutation": "random"} | options
    flow = nvp.RealNVP(3, seed=seed, dtype=dtype, **options)
    flow.adapt(DATA if "context_shape" not in options else {"x": DATA, "context": CONTEXTS})
    return perturbed(flow, seed)


def couplings(size=2, dtype="float64", seed=5):
    """Two couplings with a permutation between them, from data to latent."""
    parts = []
    for index in range(2):
        mlp = nvp.MLP(size - (size + 1) // 2, (16,), seed=seed + index, dtype=dtype)
        parts += [nvp.AffineCoupling(mlp, nvp.masks.half(size)), tfb.Permute(np.arange(size)[::-1])]
        perturbed(parts[-2], seed + index)
    return parts[:-1]


@pytest.fixture(scope="module")
def flow():
    """Tests leave the weights as they are."""
    return make_flow()


@pytest.fixture(scope="module")
def other():
    return make_flow(seed=2, permutation="reverse")


@pytest.fixture(scope="module")
def conditional():
    return make_flow(seed=3, context_shape=2)


@pytest.fixture(scope="module")
def single():
    """A flow in float32."""
    flow = make_flow(seed=4, dtype="float32")
    flow.compile("adam")
    return flow


def test_the_flows_have_the_density_of_the_formula(flow, other, conditional, single):
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
    return prior, lambda context: likelihood(context)


def context_prior():
    return tfd.MultivariateNormalDiag(CONTEXTS.mean(axis=0), CONTEXTS.std(axis=0))


def context_log_prob(context):
    mean, stddev = CONTEXTS.mean(axis=0), CONTEXTS.std(axis=0)
    return log_normal((context - mean) / stddev) - np.sum(np.log(stddev))


@pytest.mark.parametrize("kind", JOINTS)
def test_a_conditional_flow_within_a_joint_distribution(conditional, kind):
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


def test_a_flow_as_the_prior_of_a_joint_distribution(flow):
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


# Mixtures


def log_sum_exp(terms, axis):
    return np.log(np.sum(np.exp(terms), axis=axis))


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
    """By importance weights of a Gaussian that is well within the support: their mean is 1."""
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


# Distributions of distributions: what makes one of (flow, conditional flow), its log-density in numpy, the context

MASK = np.array([True, False, True, True, False, True])
CONTEXT_GRID = CONTEXT.reshape(2, 3, 2)

AROUND = {
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


@pytest.mark.parametrize("kind", AROUND)
def test_distributions_around_a_flow(flow, conditional, kind):
    make, expected, context = AROUND[kind]
    distribution = make(flow, conditional)
    x = distribution.sample(500, seed=SEED)
    assert x.shape == (500, *distribution.batch_shape, *distribution.event_shape)
    np.testing.assert_allclose(distribution.log_prob(x), expected(flow, conditional, x.numpy()), rtol=1e-9, atol=1e-9)
    z, _ = latent(flow if context is None else conditional, x, context)
    assert_standard_normal(z[:, MASK] if kind == "Masked" else z)
    reported = {id(variable) for variable in distribution.trainable_variables}
    held = (flow if context is None else conditional).trainable_variables
    assert reported == {id(variable._value) for variable in held}


# Bijectors


def test_the_inverse_of_a_flows_bijector(flow):
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


# (bijector, its forward in numpy, its inverse and the derivatives' logarithms in numpy)
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
    ("kind", "trainer"), [("sigmoid", "fit"), ("softplus", "fit"), ("blockwise", "fit"), ("blockwise", "by hand")]
)
def test_bounded_data(kind, trainer):
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


def assert_all_moved(variables, before):
    for variable, old in zip(variables, before, strict=True):
        assert np.all(np.isfinite(variable)) and np.any(variable.numpy() != old), variable.name


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


# (base, its log-density in numpy)
BASES = {
    "trainable": (trainable_gaussian, gaussian_log_prob),
    "mixture": (gaussian_mixture, gaussian_mixture_log_prob),
    "student-t": (
        lambda: tfd.Independent(tfd.StudentT(tf.constant(5.0, tf.float64), tf.Variable(DATA[0]), 1.0), 1),
        lambda base, z: student_t(z - base.distribution.loc.numpy()),
    ),
}


@pytest.mark.parametrize("kind", BASES)
def test_bases(kind):
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


def test_divergences_by_monte_carlo(flow, other):
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


def test_exact_divergences_are_those_of_the_bases_under_one_bijector(flow, other):
    p = flow.distribution()
    loc, scale = np.array([0.5, -1.0, 0.0]), np.array([0.5, 1.0, 2.0])
    q = p.copy(distribution=tfd.MultivariateNormalDiag(loc, scale))
    q2 = p.copy(distribution=tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64)))
    expected = 0.5 * np.sum(loc**2 + scale**2 - 1) - np.sum(np.log(scale))
    np.testing.assert_allclose(tfd.kl_divergence(q, q2), expected, rtol=1e-12)
    np.testing.assert_allclose(tfd.kl_divergence(p, flow.distribution()), 0.0, atol=1e-12)
    with pytest.raises(NotImplementedError, match="bijectors are not equal"):
        tfd.kl_divergence(p, other.distribution())


def test_copies(flow):
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


# Slices of the batch shape

SLICED = {}  # a flow for each kind of permutation


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
def test_slices(permutation, shape, slices):
    if permutation not in SLICED:
        SLICED[permutation] = make_flow(seed=8, context_shape=2, permutation=permutation)
    flow = SLICED[permutation]
    distribution = flow.distribution(CONTEXT.reshape(*shape, 2))[slices]
    rows = np.arange(6).reshape(shape)[slices]
    context = CONTEXT[rows]
    assert distribution.batch_shape == rows.shape
    np.testing.assert_allclose(distribution.log_prob(X[0]), expected_log_prob(flow, X[0], context), rtol=1e-9)
    sample = distribution.sample(4, seed=SEED)
    assert sample.shape == (4, *rows.shape, 3)
    np.testing.assert_allclose(distribution.log_prob(sample), expected_log_prob(flow, sample, context), rtol=1e-9)
    assert len(distribution.trainable_variables) == len(flow.trainable_variables)


def test_slices_of_what_is_around_a_flow(conditional):
    """A user's own stock chain, and a distribution around the flow's."""
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


def both_kinds(flow, conditional):
    """(a distribution, the density that is expected of it)."""
    yield flow.distribution(), expected_log_prob(flow, X)
    yield conditional.distribution(CONTEXT), expected_log_prob(conditional, X, CONTEXT)


def test_a_distribution_is_a_composite_tensor(flow, conditional):
    for distribution, expected in both_kinds(flow, conditional):
        flat = tf.nest.flatten(distribution, expand_composites=True)
        packed = tf.nest.pack_sequence_as(distribution, flat, expand_composites=True)
        assert isinstance(packed, tfd.TransformedDistribution)
        np.testing.assert_allclose(packed.log_prob(X), expected, rtol=1e-9)
        assert {id(v) for v in packed.trainable_variables} == {id(v) for v in distribution.trainable_variables}


def test_into_and_out_of_a_function(flow, conditional):
    @tf.function
    def log_prob(distribution, x):
        return distribution.log_prob(x)

    @tf.function
    def passed_through(distribution):
        return distribution

    for distribution, expected in both_kinds(flow, conditional):
        np.testing.assert_allclose(log_prob(distribution, tf.constant(X)), expected, rtol=1e-9)
        returned = passed_through(distribution)
        assert isinstance(returned, tfd.TransformedDistribution)
        np.testing.assert_allclose(returned.log_prob(X), expected, rtol=1e-9)
        closed_over = tf.function(distribution.log_prob, jit_compile=True)
        np.testing.assert_allclose(closed_over(X), expected, rtol=1e-9)


def test_a_function_is_not_traced_anew_for_another_context(conditional):
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
def test_a_loop_variable(flow, conditional, mode):
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
def test_checkpoints(part, tmp_path):
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


# Contexts that are variables


@pytest.mark.parametrize("kind", ["variable", "transformed variable"])
def test_a_variable_context_trains_and_is_saved(kind, tmp_path):
    start = np.array([0.5, 1.0])
    context = tf.Variable(start) if kind == "variable" else tfp.util.TransformedVariable(start, tfb.Softplus())
    mlp = nvp.MLP(1, (8,), seed=0, dtype="float64")
    coupling = perturbed(nvp.AffineCoupling(mlp, nvp.masks.half(2), context))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    flow = nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain([coupling])))
    z, log_det = latent_and_log_det([coupling], X[:, :2], np.broadcast_to(np.asarray(context), (6, 2)))
    np.testing.assert_allclose(flow.log_prob(X[:, :2]), log_normal(z) + log_det, rtol=1e-9)
    assert len(flow.trainable_variables) == len(mlp.trainable_variables) + 1
    before = np.asarray(context)
    flow.compile(keras.optimizers.Adam(0.01))
    flow.fit(DATA[:, :2], verbose=0)
    assert np.all(np.abs(np.asarray(context) - before) > 1e-3)
    z, log_det = latent_and_log_det([coupling], X[:, :2], np.broadcast_to(np.asarray(context), (6, 2)))
    np.testing.assert_allclose(flow.log_prob(X[:, :2]), log_normal(z) + log_det, rtol=1e-9)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(X[:, :2]), flow.log_prob(X[:, :2]))
    assert len(loaded.trainable_variables) == len(flow.trainable_variables)


def test_contexts_that_nobody_could_train_are_errors():
    mlp = nvp.MLP(1, (8,), seed=0)
    with pytest.raises(ValueError, match=r"context must be no keras\.Variable"):
        nvp.AffineCoupling(mlp, nvp.masks.half(2), keras.Variable([0.0, 0.0]))
    for variable in (tf.Variable([0.5, 0.5]), tfp.util.TransformedVariable([0.5, 0.5], tfb.Softplus())):
        coupling = nvp.AffineCoupling(mlp, nvp.masks.half(2), variable)
        distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), coupling)
        with pytest.raises(ValueError, match=r"context of affine_coupling is a variable.* tf\.zeros\(\[2\]\)"):
            nvp.Flow(distribution, context_shape=2)


# Copies that compute with other tensors


def test_a_surrogate_with_stopped_gradients():
    options = {"coupling": "spline", "permutation": "lu", "normalization": "actnorm"}
    surrogate, twin = (make_flow(seed=18, **options).distribution() for _ in range(2))
    stopped = tf.nest.map_structure(tf.stop_gradient, surrogate, expand_composites=True)
    target = tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64))

    def gradients(target, stopped, estimator, importance_samples):
        with tf.GradientTape() as tape:
            loss = tfp.vi.monte_carlo_variational_loss(
                target.log_prob,
                surrogate,
                sample_size=10,
                importance_sample_size=importance_samples,
                gradient_estimator=estimator,
                stopped_surrogate_posterior=stopped,
                seed=SEED,
            )
        gradients = tape.gradient(loss, surrogate.trainable_variables)
        return np.concatenate([np.ravel(gradient) for gradient in gradients])

    doubly = tfp.vi.GradientEstimators.DOUBLY_REPARAMETERIZED
    actual, expected = (gradients(target, other, doubly, 5) for other in (stopped, twin))
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)
    assert np.linalg.norm(actual) > 0.1
    # At the optimum, each sample of its own has the gradient 0: "sticking the landing".
    with tf.GradientTape() as tape:
        x = surrogate.sample(5, seed=SEED)
        divergence = tf.reduce_mean(stopped.log_prob(x) - twin.log_prob(x))
    landed = tape.gradient(divergence, surrogate.trainable_variables)
    assert max(np.max(np.abs(gradient)) for gradient in landed) < 1e-10


def test_only_keras_3_networks_compute_with_other_tensors():
    for conditioner in (functional(tf_keras), Module()):
        coupling = nvp.AffineCoupling(conditioner, nvp.masks.half(2))
        for replace in (tf.stop_gradient, lambda value: tf.Variable(tf.zeros_like(value))):
            with pytest.raises(ValueError, match="no variable of a Keras 3 layer"):
                tf.nest.map_structure(replace, coupling, expand_composites=True)
        passed = tf.function(lambda bijector, x: bijector.forward(x))(coupling, POINTS[:3])
        np.testing.assert_allclose(passed, coupling.forward(POINTS[:3]), rtol=1e-5)


# Every kind of conditioner by every trainer, in every mode


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = tf.Variable([[0.2, -0.1]]), tf.Variable([0.1, 0.1])

    def __call__(self, kept):
        return tf.split(tf.tanh(kept @ self.kernel + self.bias), 2, axis=-1)


def functional(module):
    kept = module.Input((1,))
    hidden = module.layers.Dense(4, "tanh")(kept)
    return module.Model(kept, [module.layers.Dense(1)(hidden), module.layers.Dense(1, "tanh")(hidden)])


def of_every_conditioner():
    """A distribution with a Keras 3 model, a tf_keras model, a tf.Module and a trainable base."""
    conditioners = functional(keras), functional(tf_keras), Module()
    parts = []
    for index, conditioner in enumerate(conditioners):
        parts.append(nvp.AffineCoupling(conditioner, nvp.masks.half(2, flip=index == 1)))
    base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2))
    return perturbed(tfd.TransformedDistribution(base, tfb.Chain(parts)))


POINTS = (2.0 + np.random.default_rng(0).normal(size=(128, 2))).astype("float32")
TARGET = tfd.MultivariateNormalDiag([2.0, 3.0])


def in_mode(function, mode):
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")


def train_by_tape(loss, variables, mode, steps=10):
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(variables)

    def step():
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    step = in_mode(step, mode)
    for _ in range(steps):
        step()


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("trainer", ["fit", "minimize", "tape", "vi"])
def test_every_conditioner_trains_by_every_trainer(trainer, mode):
    given = of_every_conditioner()
    model = nvp.Flow(given)
    distribution = model.distribution()
    variables = given.trainable_variables
    assert len(variables) == 6 + 6 + 2 + 1

    def nll():
        return -tf.reduce_mean(distribution.log_prob(POINTS))

    def divergence():
        return tfp.vi.monte_carlo_variational_loss(TARGET.log_prob, distribution, sample_size=200, seed=SEED)

    loss = tf.function(divergence) if trainer == "vi" else lambda: -tf.reduce_mean(model.log_prob(POINTS))
    before, start = [variable.numpy() for variable in variables], loss()
    optimizer = tf_keras.optimizers.legacy.Adam(1e-2)
    compiled = {"jit_compile": True} if mode == "xla" else {}
    if trainer == "fit":
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=mode == "eager", jit_compile=mode == "xla")
        model.fit(POINTS, epochs=2, batch_size=32, verbose=0)
    elif trainer == "minimize":
        in_mode(lambda: tfp.math.minimize(nll, 10, optimizer, **compiled), "graph" if mode == "graph" else "eager")()
    elif trainer == "tape":
        train_by_tape(nll, variables, mode)
    else:
        in_mode(
            lambda: tfp.vi.fit_surrogate_posterior(
                TARGET.log_prob, distribution, optimizer, 10, sample_size=20, seed=SEED, **compiled
            ),
            "graph" if mode == "graph" else "eager",
        )()
    assert_all_moved(variables, before)
    assert loss() < start - 0.01


# Derivatives


def slopes(function, x, step=1e-6):
    """Central differences of `function` [N, D] -> [N] in numpy: [N, D]."""
    directions = step * np.eye(x.shape[-1])
    return np.stack([(function(x + d) - function(x - d)) / (2 * step) for d in directions], axis=-1)


def second_slopes(function, x, step=1e-4):
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
def test_scores_and_hessians(flow, conditional, density, mode):
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
    np.testing.assert_allclose(hessian, second_slopes(expected, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, 1, 2), rtol=1e-9, atol=1e-9)


def test_slopes_in_the_context(conditional):
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


# Dtypes


def test_float64_end_to_end():
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


def test_float64_data_in_a_float32_flow_are_cast(single):
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
def test_mixed_precision(policy, context_shape):
    flow = make_flow(seed=16, dtype=policy, **({} if context_shape is None else {"context_shape": context_shape}))
    context = () if context_shape is None else (CONTEXTS,)
    data = DATA if context_shape is None else {"x": DATA, "context": CONTEXTS}
    flow.compile(keras.optimizers.Adam(1e-2))
    losses = flow.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0] - 0.01
    expected = expected_log_prob(flow, DATA, *context)  # of the float32 weights, in float64
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


# Seeds


@pytest.mark.parametrize("kind", ["flow", "conditional"])
def test_one_seed_one_sample(flow, conditional, kind):
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


# Threads


def in_threads(calls, threads=6):
    """The results of all calls from each of several threads that start together, each in an order of its own."""
    barrier = threading.Barrier(threads)

    def work(index):
        barrier.wait()
        order = [(index + step) % len(calls) for step in range(len(calls))]
        results = {position: calls[position]() for position in order}
        return [results[position] for position in range(len(calls))]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(work, index) for index in range(threads)]]


@pytest.mark.parametrize("kind", ["flow", "conditional", "conditioners"])
def test_threads_get_what_one_thread_gets(kind):
    """The first calls too, which trace."""
    if kind == "conditioners":
        given = of_every_conditioner()
        flow, x, context = nvp.Flow(given), POINTS[:16], None
        expected = given.log_prob(tf.identity(x))
    else:
        context = CONTEXT if kind == "conditional" else None
        flow = make_flow(seed=17, **({"context_shape": 2} if kind == "conditional" else {}))
        x, expected = X, expected_log_prob(flow, X, context)
    distribution = flow.distribution(context)
    bijector = distribution.bijector
    compiled = tf.function(distribution.log_prob)
    z = bijector.inverse(tf.constant(x))
    calls = [
        lambda: flow.log_prob(x, context),
        lambda: flow.sample(4, context=context, seed=SEED),
        lambda: distribution.log_prob(x),
        lambda: flow.sample_and_log_prob(4, context=context, seed=SEED)[1],
        lambda: flow.distribution(context).log_prob(x),
        lambda: compiled(x),
        lambda: bijector.forward(z),
    ]
    of_threads = in_threads(calls)
    rtol = 1e-4 if x.dtype == np.float32 else 1e-9
    for alone, *others in zip([call() for call in calls], *of_threads, strict=True):
        for result in others:
            np.testing.assert_allclose(result, alone, rtol=rtol, atol=0.01 * rtol)
    for index in (0, 2, 4, 5):
        np.testing.assert_allclose(of_threads[0][index], expected, rtol=rtol)
