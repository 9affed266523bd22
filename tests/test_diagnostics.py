"""`nvp.diagnostics` on posteriors whose calibration is known."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from tfp_realnvp.diagnostics import draws
from tfp_realnvp.diagnostics.calibration import highest_density_levels
from tfp_realnvp.diagnostics.importance import pareto_shape
from tfp_realnvp.diagnostics.uniformity import simultaneous_band

diagnostics = nvp.diagnostics
MATRIX, NOISE = np.array([[1.0, 0.8], [0.2, 0.5]]), 0.3
PRECISION = np.eye(2) + MATRIX.T @ MATRIX / NOISE**2
COVARIANCE = np.linalg.inv(PRECISION)


def pairs(rows, seed):
    """Parameters theta ~ N(0, I) `[N, 2]` and observations N(A theta, 0.3^2 I) `[N, 2]`."""
    random = np.random.default_rng(seed)
    theta = random.normal(size=(rows, 2))
    return theta, theta @ MATRIX.T + NOISE * random.normal(size=(rows, 2))


class Posterior:
    """The exact posterior of theta, or one whose width, centre or correlation is wrong."""

    def __init__(self, factor=1.0, shift=0.0, diagonal=False, prior=False):
        covariance = np.eye(2) if prior else np.diag(np.diag(COVARIANCE)) if diagonal else COVARIANCE
        self.normal = stats.multivariate_normal(cov=factor**2 * covariance)
        self.factor = np.linalg.cholesky(factor**2 * covariance)
        self.shift, self.prior = shift, prior

    def mean(self, context):
        return 0.0 if self.prior else context @ MATRIX @ COVARIANCE / NOISE**2 + self.shift

    def sample(self, sample_shape, context, seed):
        normal = np.random.default_rng(seed).normal(size=(sample_shape, len(context), 2))
        return self.mean(context) + normal @ self.factor.T

    def log_prob(self, x, context):
        return self.normal.logpdf(x - self.mean(context))


def log_likelihood(theta, observation):
    return stats.norm.logpdf(observation, theta @ MATRIX.T, NOISE).sum(axis=-1, keepdims=True)


def p_values(posterior, rows=500, seed=0):
    """The smallest p-value of each diagnostic, for posteriors of two features."""
    theta, observation = pairs(rows, [seed, 1])
    ranks = diagnostics.sbc_ranks(posterior, theta, observation, 99, seed)
    likelihood = diagnostics.sbc_ranks(posterior, theta, observation, 99, seed, quantities=log_likelihood)
    levels = highest_density_levels(posterior, theta, observation, 99, seed)
    credibility, expected = diagnostics.tarp(posterior, theta, observation, 99, seed)
    band = simultaneous_band(rows, credibility[1:-1])
    return {
        "sbc": float(diagnostics.uniformity_test(ranks, 99)[0]),
        "likelihood": float(diagnostics.uniformity_test(likelihood, 99)[0]),
        "coverage": float(diagnostics.uniformity_test(levels)),
        "tarp": 0.0 if np.any(np.abs(expected - credibility)[1:-1] > band) else 1.0,
    }


def test_false_alarms_have_the_nominal_rate():
    found = [p_values(Posterior(), rows=150, seed=seed) for seed in range(200)]
    least, greatest = stats.binom.interval(0.998, 200, 0.05)
    for name in found[0]:
        alarms = sum(each[name] < 0.05 for each in found)
        assert least <= alarms <= greatest, (name, alarms)


@pytest.mark.parametrize(
    ("posterior", "noticed_by"),
    [
        (Posterior(), set()),
        (Posterior(factor=0.7), {"sbc", "likelihood", "coverage", "tarp"}),
        (Posterior(factor=1.5), {"sbc", "likelihood", "coverage", "tarp"}),
        (Posterior(shift=0.15), {"sbc", "likelihood"}),
        (Posterior(prior=True), {"likelihood"}),
        (Posterior(diagonal=True), {"likelihood", "coverage", "tarp"}),
    ],
)
def test_errors_are_noticed(posterior, noticed_by):
    found = p_values(posterior, rows=1500)
    assert {name for name in noticed_by if found[name] > 0.01} == set(), found
    if not noticed_by:
        assert min(found.values()) > 0.01, found


def test_coverage_of_a_posterior_that_is_too_narrow():
    theta, observation = pairs(4000, 3)
    levels = np.array([0.5, 0.8, 0.9, 0.95])
    for factor in (1.0, 0.7, 1.5):
        # Squared distances are chi-squared with 2 degrees of freedom, times factor^2.
        expected = stats.chi2(2).cdf(factor**2 * stats.chi2(2).ppf(levels))
        found = diagnostics.coverage(Posterior(factor), theta, observation, levels, num_samples=500, seed=1)
        assert np.all(np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 0.003), factor


def test_ranks_count_smaller_samples_and_order_equal_ones_at_random():
    x = np.repeat([[0.0, 5.0]], 3000, axis=0)
    coin = tfd.Independent(tfd.Bernoulli(probs=[0.5, 0.5], dtype=tf.float64), 1)
    ranks = diagnostics.sbc_ranks(coin, x, num_samples=4, seed=0)
    assert ranks.shape == (3000, 2) and ranks.dtype.kind == "i"
    assert np.all(ranks[:, 1] == 4)
    # K of 4 samples are equal to 0, and the rank is uniform on 0, ..., K.
    expected = sum(stats.binom(4, 0.5).pmf(k) * (np.arange(5) <= k) / (k + 1) for k in range(5))
    assert np.all(np.abs(np.bincount(ranks[:, 0], minlength=5) / 3000 - expected) < 0.04)


def test_results_do_not_depend_on_batches_of_unconditional_draws_beyond_noise(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 2))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64), tf.ones(2, tf.float64))
    whole = diagnostics.sbc_ranks(base, x, num_samples=1000, seed=1)
    monkeypatch.setattr(draws, "_NUMBERS", 3 * 2000)
    parts = diagnostics.sbc_ranks(base, x, num_samples=1000, seed=1)
    assert np.all(np.abs(whole - parts) < 120)  # 5 standard deviations
    assert np.all(np.abs(whole / 1000 - stats.norm.cdf(x)) < 0.08)


def test_results_of_distributions_can_be_repeated():
    base = tfd.MultivariateNormalDiag(tf.zeros(2), tf.ones(2))
    x = np.random.default_rng(0).normal(size=(50, 2))
    ranks = [diagnostics.sbc_ranks(base, x, seed=1) for _ in range(2)]
    weights = [diagnostics.importance_weights(base, base.log_prob, 100, seed=1).samples for _ in range(2)]
    assert np.array_equal(*ranks) and np.array_equal(*weights)


def test_long_runs_show_progress(monkeypatch, capsys):
    monkeypatch.setattr(draws, "_SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(draws, "_NUMBERS", 100)
    theta, observation = pairs(5, 0)
    diagnostics.sbc_ranks(Posterior(), theta, observation, 50, 0)
    assert "5/5" in capsys.readouterr().out
    keras.config.disable_interactive_logging()
    diagnostics.sbc_ranks(Posterior(), theta, observation, 50, 0)
    keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == ""


def test_pit_is_the_cdf_or_its_estimate():
    x = np.random.default_rng(0).normal(size=(300, 1))
    exact = stats.norm.cdf(x[:, 0], scale=2.0)
    flow = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0]), [2.0]))
    flow_with_cdf = nvp.Flow(tfd.Independent(tfd.Normal(tf.Variable([0.0]), [2.0]), 1))
    estimate = diagnostics.pit(flow, x, num_samples=2000, seed=0)
    assert np.all(np.abs(estimate - exact) < 0.06) and np.any(estimate != exact)
    np.testing.assert_allclose(diagnostics.pit(flow_with_cdf, x), exact, atol=1e-5)
    far = diagnostics.pit(flow_with_cdf, np.array([[-1e6], [1e6]]))
    assert 0 < far[0] < 1e-6 and 1 - 1e-6 < far[1] < 1


@pytest.fixture(scope="module")
def flow():
    return nvp.RealNVP(2, context_shape=2, num_couplings=2, hidden_units=(4,), seed=0)


def test_columns_are_checked_and_nullable_columns_are_taken():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)) * [1.0, 5.0], columns=["a", "b"])
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), seed=0)
    flow.adapt(table)
    for function in (diagnostics.sbc_ranks, diagnostics.coverage, diagnostics.tarp):
        with pytest.raises(ValueError, match="column 0 must be 'a', got 'b'"):
            function(flow, table[["b", "a"]])
    found = diagnostics.sbc_ranks(flow, table.convert_dtypes(), seed=1)
    assert np.array_equal(found, diagnostics.sbc_ranks(flow, table, seed=1))


def test_pit_uses_the_context_of_any_object():
    class Located:
        def sample(self, number, context, seed):
            return context + np.random.default_rng(seed).normal(size=(number, *context.shape))

        def log_prob(self, x, context):
            return stats.norm.logpdf(x - context)[..., 0]

        def cdf(self, x, context=0.0):
            return stats.norm.cdf(x - context)

    context = np.linspace(-9, 9, 400)[:, np.newaxis]
    found = diagnostics.pit(Located(), context + 0.5, context, seed=0)
    assert np.all(np.abs(found - stats.norm.cdf(0.5)) < 0.1)


def test_evidence_of_whole_numbers():
    """The evidence of a probability of whole numbers is 1, though the flow does not fit it."""
    counts = np.random.default_rng(0).poisson(0.9, size=(500, 1)).astype(float)
    flow = nvp.RealNVP(1, num_couplings=2, coupling="spline", integers=[0], seed=0)
    flow.adapt(counts)
    target = stats.poisson(0.7)
    found = diagnostics.importance_weights(flow, lambda x: target.logpmf(x[:, 0]), 50_000, seed=0)
    assert np.all(found.samples == np.round(found.samples))
    assert abs(found.log_evidence) < 4 * found.log_evidence_error < 0.1
    weights = np.exp(found.log_weights)
    assert abs(np.average(found.samples[:, 0], weights=weights) - 0.7) < 0.05


def test_flows_and_tables(flow):
    theta, observation = pairs(20, 0)
    x, context = pd.DataFrame(theta, columns=["a", "b"]), pd.DataFrame(observation, columns=["u", "v"])
    for function in (diagnostics.sbc_ranks, diagnostics.coverage, diagnostics.tarp):
        found, again = function(flow, x, context, seed=3), function(flow, theta, observation, seed=3)
        assert np.array_equal(found, again)
    assert not np.array_equal(*(diagnostics.sbc_ranks(flow, x, context, seed=seed) for seed in (3, 4)))
    ranks = diagnostics.sbc_ranks(flow, x, context, num_samples=400, seed=3)
    assert np.all(np.abs(ranks / 400 - stats.norm.cdf(theta)) < 0.12)  # A new flow is its base.
    one = nvp.RealNVP(1, context_shape=2, num_couplings=2, hidden_units=(4,))
    np.testing.assert_allclose(
        diagnostics.pit(one, x[["a"]], context), stats.norm.cdf(theta[:, 0]), rtol=1e-4, atol=1e-6
    )


class Wide:
    """Independent normal distributions, a little wider than the standard normal and off the centre."""

    def sample(self, number, seed):
        return 0.1 + 1.15 * np.random.default_rng(seed).normal(size=(number, 10))

    def log_prob(self, x):
        return stats.norm.logpdf(x, 0.1, 1.15).sum(axis=-1)


def test_evidence_is_within_its_errors():
    """The evidence of 7 exp(-|x|^2 / 2) in 100 repeats."""
    num_dims, proposal = 10, Wide()
    truth = np.log(7) + 0.5 * num_dims * np.log(2 * np.pi)
    inside, errors = 0, []
    for seed in range(100):
        found = diagnostics.importance_weights(
            proposal, lambda x: np.log(7) - 0.5 * np.sum(np.float64(x) ** 2, axis=-1), 1000, seed=seed
        )
        errors.append(found.log_evidence - truth)
        inside += abs(errors[-1]) < 3 * found.log_evidence_error
        assert found.samples.shape == (1000, num_dims) and found.pareto_k < 0.7
        assert 300 < found.ess < 1000
    assert inside >= 95
    assert 0.6 < np.std(errors) / found.log_evidence_error < 1.6


def test_weights_are_those_of_the_definition(flow):
    found = diagnostics.importance_weights(flow, lambda x: -np.abs(x).sum(axis=-1), 500, [0.5, -0.5], seed=1)
    context = np.array([0.5, -0.5], np.float32)
    expected = -np.abs(found.samples).sum(axis=-1) - flow.log_prob(found.samples, context)
    np.testing.assert_allclose(found.log_weights, expected, rtol=1e-4, atol=1e-4)
    weights = np.exp(expected)
    np.testing.assert_allclose(found.ess, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-3)
    np.testing.assert_allclose(found.log_evidence, np.log(weights.mean()), atol=1e-3)
    error = weights.std(ddof=1) / np.sqrt(500) / weights.mean()
    np.testing.assert_allclose(found.log_evidence_error, error, rtol=1e-2)


# Computed with `arviz.psislw` 0.19, of weights exp(s z), z = default_rng(0).standard_normal(n).
@pytest.mark.parametrize(
    ("stddev", "number", "shape"),
    [
        (0.2, 100, -0.3089986922713094),
        (0.2, 20000, -0.026056331278241914),
        (1.0, 1000, 0.37887791685150535),
        (2.0, 1000, 0.7772726925467255),
        (2.0, 20000, 0.5385239119368619),
    ],
)
def test_pareto_shape(stddev, number, shape):
    weights = np.exp(stddev * np.random.default_rng(0).standard_normal(number))
    np.testing.assert_allclose(pareto_shape(weights / weights.max()), shape, atol=1e-9)


def test_pareto_shape_of_weights_beyond_float64():
    log_weights = 300 * np.random.default_rng(19).normal(size=2000)
    assert pareto_shape(np.exp(log_weights - log_weights.max())) == np.inf


def test_weights_without_spread_or_without_support():
    base = tfd.MultivariateNormalDiag(tf.zeros(1, tf.float64), tf.ones(1, tf.float64))
    equal = diagnostics.importance_weights(base, lambda x: base.log_prob(x) + 3.0, 200, seed=0)
    assert equal.ess == pytest.approx(200) and equal.pareto_k < 0 and equal.log_evidence_error < 1e-6
    assert equal.log_evidence == pytest.approx(3.0)
    with pytest.warns(RuntimeWarning, match="target_log_prob is -inf at all samples"):
        none = diagnostics.importance_weights(base, lambda x: np.full(len(x), -np.inf), 200, seed=0)
    assert (none.ess, none.pareto_k, none.log_evidence) == (0.0, np.inf, -np.inf)
    assert not none.weights.any()


def test_normalised_weights_give_means_of_the_target():
    base = tfd.MultivariateNormalDiag(tf.zeros(1, tf.float64), tf.fill([1], tf.constant(1.5, tf.float64)))
    target = tfd.MultivariateNormalDiag(tf.ones(1, tf.float64), tf.ones(1, tf.float64))
    found = diagnostics.importance_weights(base, target.log_prob, 20_000, seed=0)
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.weights @ found.samples == pytest.approx(1.0, abs=0.05)


def test_a_batch_of_one_context_is_one_context():
    flow = nvp.RealNVP(2, context_shape=2, num_couplings=2, hidden_units=(4,), seed=0)
    one, batch = (
        diagnostics.importance_weights(flow, lambda x: -0.5 * np.sum(x**2, axis=-1), 50, context, seed=0)
        for context in (OBSERVATION[0], OBSERVATION[:1])
    )
    np.testing.assert_allclose(one.log_weights, batch.log_weights, rtol=1e-5)
    assert batch.samples.shape == (50, 2)


THETA, OBSERVATION = pairs(4, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda flow: diagnostics.sbc_ranks(flow, THETA[0], OBSERVATION), r"x must have shape \[N, D\].*got \[2\]"),
        (
            lambda flow: diagnostics.sbc_ranks(flow, THETA * np.nan, OBSERVATION),
            "x has a NaN or infinity in 4 of its 4",
        ),
        (lambda flow: diagnostics.sbc_ranks(flow, THETA, OBSERVATION[:3]), "same number of rows, got 4 and 3"),
        (lambda flow: diagnostics.sbc_ranks(flow, THETA, OBSERVATION, 0), "num_samples must be an integer of at least"),
        (
            lambda flow: diagnostics.sbc_ranks(flow, THETA[:, :1], OBSERVATION),
            r"x must have shape \[N, 2\], got \[4, 1\]",
        ),
        (
            lambda flow: diagnostics.sbc_ranks(tfd.MultivariateNormalDiag([0.0, 0.0]), THETA[:, :1]),
            r"x \[4, 1\] needs 100 samples of shape",
        ),
        (
            lambda flow: diagnostics.coverage(flow, tf.data.Dataset.from_tensors(THETA), OBSERVATION),
            "x must be an array .* take some hundred rows of it",
        ),
        (lambda flow: diagnostics.sbc_ranks(flow, THETA, OBSERVATION * np.nan), r"not finite for the rows 0, 1, 2, 3"),
        (
            lambda flow: diagnostics.sbc_ranks(flow, THETA, OBSERVATION, quantities=lambda x, context: x[0]),
            r"quantities must return shape \[4, 'Q'\], got \[2\]",
        ),
        (lambda flow: diagnostics.coverage(flow, THETA, OBSERVATION, [90]), r"levels must be .* 0 to 1, got \[90\]"),
        (
            lambda flow: diagnostics.tarp(flow, THETA * [0, 1], OBSERVATION),
            r"vary in each feature, got a constant in \[0\]",
        ),
        (lambda flow: diagnostics.pit(flow, THETA, OBSERVATION), r"x must have one feature, got shape \[4, 2\]"),
        (
            lambda flow: diagnostics.importance_weights(flow, len, 10, OBSERVATION),
            "context must be one context, got 4 contexts",
        ),
        (
            lambda flow: diagnostics.importance_weights(flow, len, 1, OBSERVATION[0]),
            "num_samples must be an integer of",
        ),
        (
            lambda flow: diagnostics.importance_weights(flow, len, 10, OBSERVATION[0]),
            r"target_log_prob must return shape \[10\], got \[\]",
        ),
        (
            lambda flow: diagnostics.importance_weights(flow, lambda x: x[:, 0] * np.nan, 10, OBSERVATION[0]),
            "target_log_prob is NaN or .inf for 10 of 10 samples",
        ),
        (
            lambda flow: diagnostics.importance_weights(flow, lambda x: np.zeros(len(x)), 10, [np.nan, 0.0]),
            "flow has log-densities that are not finite at 10 of its own 10 samples",
        ),
        (lambda flow: diagnostics.uniformity_test([[0.5], [1.5]]), "values must be from 0 to 1.0, got 0.5 to 1.5"),
        (lambda flow: diagnostics.uniformity_test([0, 7], 5), "values must be from 0 to 5, got 0 to 7"),
        (lambda flow: diagnostics.uniformity_test([0.5], 5), "values must be integers if num_samples is given"),
        (lambda flow: diagnostics.uniformity_test([]), r"values must have shape \[N\] or \[N, D\], got \[0\]"),
    ],
)
def test_wrong_arguments(flow, call, message):
    with pytest.raises(ValueError, match=message):
        call(flow)
