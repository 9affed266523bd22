"""Flows with one feature: cumulative probabilities and quantiles, compared with numerical integration."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor

GRID = np.linspace(-15.0, 25.0, 10001)[:, None]
PROBABILITIES = np.array([0.02, 0.3, 0.5, 0.9])


def make_flow(**options):
    flow = nvp.RealNVP(1, num_couplings=2, hidden_units=(8,), seed=0, dtype="float64", **options)
    x = 5.0 + 2.0 * np.random.default_rng(0).normal(size=(200, 1))
    flow.adapt({"x": x, "context": np.zeros((200, 2))} if "context_shape" in options else x)
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float64", seed=index, stddev=0.2))
    return flow


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coupling": "spline", "num_bins": 4},
        {"context_shape": 2, "permutation": "lu", "normalization": "actnorm"},
        {"context_shape": 2, "coupling": "spline", "normalization": "batchnorm", "base_distribution": "student_t"},
    ],
    ids=["affine", "spline", "affine with context", "spline with context"],
)
def test_cumulative_probabilities_and_quantiles(options):
    flow = make_flow(**options)
    distribution = flow.distribution(np.array([0.5, -0.3]) if "context_shape" in options else None)
    density = np.exp(distribution.log_prob(GRID))
    step = GRID[1, 0] - GRID[0, 0]
    integral = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) * step / 2)])
    missing = 1.0 - integral[-1]  # probability beyond the grid
    assert abs(missing) < 1e-3
    cdf = distribution.cdf(GRID)
    np.testing.assert_allclose(cdf - cdf[0], integral, atol=1e-5)
    np.testing.assert_allclose(distribution.survival_function(GRID), 1.0 - cdf, atol=1e-12)
    for log_tail, tail in ((distribution.log_cdf, cdf), (distribution.log_survival_function, 1.0 - cdf)):
        middle = (tail > 1e-6) & (tail < 1.0 - 1e-6)
        np.testing.assert_allclose(log_tail(GRID)[middle], np.log(tail[middle]), rtol=1e-6)
    quantiles = distribution.quantile(PROBABILITIES)
    assert quantiles.shape == (4, 1)
    np.testing.assert_allclose(distribution.cdf(quantiles), PROBABILITIES, atol=1e-9)
    np.testing.assert_allclose(np.interp(quantiles[:, 0], GRID[:, 0], cdf), PROBABILITIES, atol=1e-4)
    np.testing.assert_array_equal(distribution.cdf([[-np.inf], [np.inf]]), [0.0, 1.0])
    np.testing.assert_array_equal(distribution.quantile(np.array([0.0, 1.0])), [[-np.inf], [np.inf]])
    assert np.all(np.isnan(distribution.cdf([[np.nan]])))
    if "context_shape" in options:
        unknown = flow.distribution(np.array([np.nan, 0.0]))
        assert np.all(np.isnan(unknown.cdf([[0.0], [np.inf]]))) and np.all(np.isnan(unknown.quantile([0.0, 0.5])))
    compiled = tf.function(lambda x: (distribution.cdf(x), distribution.quantile(PROBABILITIES)))
    np.testing.assert_allclose(compiled(GRID[:3])[0], cdf[:3], rtol=1e-9)
    np.testing.assert_allclose(compiled(GRID[:3])[1], quantiles, rtol=1e-9)


def test_a_batch_of_contexts_gives_a_batch_of_quantiles():
    distribution = make_flow(context_shape=2).distribution(np.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]]))
    quantiles = distribution.quantile(PROBABILITIES[:, None])
    assert quantiles.shape == (4, 3, 1)
    np.testing.assert_allclose(distribution.cdf(quantiles), np.broadcast_to(PROBABILITIES[:, None], (4, 3)), atol=1e-9)


def test_a_decreasing_bijector_swaps_the_tails():
    normal = tfd.Independent(tfd.Normal(np.zeros(1), 1.0), 1)
    distribution = nvp.Flow(tfd.TransformedDistribution(normal, tfb.Scale(np.array(-2.0)))).distribution()
    x = np.array([[-2.0], [1.0]])
    np.testing.assert_allclose(distribution.cdf(x), tfd.Normal(np.zeros(2), 2.0).cdf(x[:, 0]))
    np.testing.assert_allclose(distribution.quantile(0.9), [tfd.Normal(np.array(0.0), 2.0).quantile(0.9)])


def test_quantiles_of_several_features_are_not_implemented():
    with pytest.raises(NotImplementedError, match="events of one feature"):
        nvp.RealNVP(2).distribution().quantile(0.5)


def test_pixels_have_a_cumulative_probability():
    distribution = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), nvp.Pixels(256))
    np.testing.assert_allclose(distribution.cdf(128.0), 0.5, rtol=1e-6)


BOUNDED = {  # bijector, lower bound, upper bound, a value between them, the probability below it
    "sigmoid": (tfb.Sigmoid(), 0.0, 1.0, 0.5, 0.5),
    "exp": (tfb.Exp(), 0.0, np.inf, 1.0, 0.5),
    "decreasing": (tfb.Chain([tfb.Scale(-2.0), tfb.Exp()]), -np.inf, 0.0, -2.0, 0.5),
}


@pytest.mark.parametrize("is_scalar", [False, True])
@pytest.mark.parametrize("name", BOUNDED)
def test_probabilities_at_and_beyond_bounds(name, is_scalar):
    bounds, lower, upper, middle, probability = BOUNDED[name]
    base = tfd.Normal(0.0, 1.0) if is_scalar else nvp.RealNVP(1, num_couplings=2, coupling="spline").distribution()
    distribution = nvp.Flow(tfd.TransformedDistribution(base, bounds)).distribution()
    y = np.array([-np.inf, -1e3, lower, middle, upper, 1e3, np.inf, np.nan], np.float32)
    below = np.where(y <= lower, 0.0, np.where(y >= upper, 1.0, probability))
    below[1] = 0.0 if lower > -1e3 else distribution.cdf([-1e3] if not is_scalar else -1e3)
    below[5] = 1.0 if upper < 1e3 else distribution.cdf([1e3] if not is_scalar else 1e3)
    below[-1] = np.nan
    events = y if is_scalar else y[:, np.newaxis]
    np.testing.assert_allclose(distribution.cdf(events), below, atol=1e-6)
    np.testing.assert_allclose(distribution.survival_function(events), 1 - below, atol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(distribution.log_cdf(events).numpy()[[0, 3, 6]], np.log(below[[0, 3, 6]]), atol=1e-6)
    quantiles = np.ravel(distribution.quantile(np.array([0.0, probability, 1.0], np.float32)))
    np.testing.assert_allclose(quantiles, [lower, middle, upper], rtol=1e-5)


@pytest.mark.parametrize(
    ("base", "bijector"),
    [
        (tfd.Gamma(2.0, 1.0), tfb.Reciprocal()),
        (tfd.Gamma(2.0, 1.0), tfb.Square()),
        (tfd.LogNormal(0.0, 1.0), tfb.Reciprocal()),
        (tfd.Gamma(2.0, 1.0), tfb.Log()),
        (tfd.Beta(2.0, 3.0), tfb.Invert(tfb.Sigmoid())),
    ],
)
def test_probabilities_of_bases_with_bounded_support(base, bijector):
    stock = tfd.TransformedDistribution(base, bijector)
    y = np.array([0.5, 1.0, 2.0, 4.0], np.float32)
    ours = nvp.Flow(stock).distribution()
    np.testing.assert_allclose(ours.cdf(y), stock.cdf(y), rtol=1e-4)
    np.testing.assert_allclose(ours.survival_function(y), 1 - stock.cdf(y), rtol=1e-4, atol=1e-6)
    assert ours.cdf(np.float32(np.inf)) == 1.0 and ours.survival_function(np.float32(np.inf)) == 0.0
    assert ours.cdf(np.float32(-np.inf)) == 0.0


def counting_flow():
    """A conditional flow, and the list of the numbers of rows for which its network is called."""
    calls = []

    def conditioner(kept, context):
        calls.append(kept.shape[0])
        return context[:, :1], context[:, 1:]

    coupling = nvp.AffineCoupling(conditioner, np.array([False]), context=tf.zeros([2]))
    base = tfd.Independent(tfd.Normal([0.0], [1.0]), 1)
    flow = nvp.Flow(tfd.TransformedDistribution(base, coupling), context_shape=2)
    calls.clear()
    return flow, calls


def test_the_network_runs_once_for_each_context():
    flow, calls = counting_flow()
    distribution = flow.distribution(tf.zeros([3, 2]))
    distribution.cdf(tf.zeros([50, 3, 1]))
    assert calls == [3, 3]  # for one latent in the support, and for all events
    calls.clear()
    distribution.log_prob(tf.zeros([50, 3, 1]))
    assert calls == [3]
    calls.clear()
    distribution.sample(50)
    assert calls == [3]


def test_the_network_runs_once_for_each_context_of_log_prob_and_sample(eagerly):
    flow, calls = counting_flow()
    flow.log_prob(tf.zeros([50, 1, 1]), tf.zeros([3, 2]))
    flow.log_prob(tf.zeros([4, 3, 50, 1]), tf.zeros([3, 1, 2]))
    flow.sample(50, tf.zeros([3, 2]))
    assert calls == [3, 3, 3]


@pytest.mark.parametrize("coupling", ["affine", "spline"])
@pytest.mark.parametrize(
    ("x_shape", "context_shape"),
    [((7,), ()), ((7, 1), (5,)), ((1, 7), (5, 1)), ((2, 1, 7), (2, 5, 1)), ((), (5,)), ((1,), (5,)), ((5,), (1,))],
)
def test_densities_on_grids_are_those_of_single_events(coupling, x_shape, context_shape):
    flow = make_flow(context_shape=2, coupling=coupling)
    random = np.random.default_rng(0)
    x, context = random.normal(5.0, 2.0, (*x_shape, 1)), random.normal(size=(*context_shape, 2))
    batch_shape = np.broadcast_shapes(x_shape, context_shape)
    rows = np.broadcast_to(x, (*batch_shape, 1)).reshape(-1, 1)
    contexts = np.broadcast_to(context, (*batch_shape, 2)).reshape(-1, 2)
    expected = flow.predict({"x": rows, "context": contexts}, verbose=0).reshape(batch_shape)
    log_prob = flow.log_prob(x, context)
    assert log_prob.shape == batch_shape
    np.testing.assert_allclose(log_prob, expected, rtol=1e-12)
    np.testing.assert_allclose(flow.distribution(context).log_prob(x), expected, rtol=1e-12)


def test_a_context_that_is_not_finite_has_no_density_on_a_grid():
    flow, context = make_flow(context_shape=2), np.zeros((3, 2))
    context[1, 0] = np.nan
    log_prob = flow.log_prob(np.zeros((4, 1, 1)), context)
    np.testing.assert_array_equal(np.isnan(log_prob), [[False, True, False]] * 4)
    assert flow.log_prob(np.zeros((0, 1, 1)), context).shape == (0, 3)


def test_shapes_on_a_grid_must_broadcast():
    with pytest.raises(ValueError, match=r"batch shapes of context and events must broadcast, got \(4,\) and \(5,\)"):
        make_flow(context_shape=2).log_prob(np.zeros((5, 1)), np.zeros((4, 2)))
