"""`RealNVP(..., support=...)`: densities of bounded data."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed
from tfp_realnvp.flows.recipe import choose_options

random = np.random.default_rng(0)
Z = random.normal(size=(400, 3))
X = np.stack([np.exp(2.0 + 1.5 * Z[:, 0]), 1 / (1 + np.exp(-Z[:, 0] - Z[:, 1])), 5.0 + Z[:, 2]], axis=1)
CONTEXT = random.normal(3.0, 2.0, size=(400, 2))
SUPPORT = [(0.0, None), (0.0, 1.0), None]
FRAME = pd.DataFrame(X, columns=["flux", "fraction", "magnitude"])


def small_flow(size=3, **options):
    options = {"num_couplings": 2, "hidden_units": (4,), "support": SUPPORT, "seed": 0} | options
    return nvp.RealNVP(size, **options)


@pytest.fixture(scope="module")
def conditional():
    flow = small_flow(context_shape=2)
    flow.adapt({"x": X, "context": CONTEXT})
    return perturbed(flow)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_adapt_standardises_within_the_bounds(as_dataset):
    flow = small_flow(dtype="float64")
    flow.adapt(tf.data.Dataset.from_tensor_slices(X).batch(150) if as_dataset else X)
    latents = flow.bijector().inverse(X).numpy()
    np.testing.assert_allclose(latents.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(latents.std(axis=0), 1.0, rtol=1e-9)


def test_an_untrained_flow_with_lu_maps_is_gaussian_within_the_bounds():
    flow = nvp.RealNVP(1, permutation="lu", support=[(0.0, None)], seed=0, dtype="float64")
    flow.adapt(X[:, :1])
    log_x = np.log(X[:, 0])
    expected = stats.lognorm(log_x.std(), scale=np.exp(log_x.mean())).logpdf(X[:, 0])
    np.testing.assert_allclose(flow.log_prob(X[:, :1]), expected, rtol=1e-9)


def test_densities_and_samples(conditional):
    x = np.array([[1.0, 0.5, 5.0], [0.0, 0.5, 5.0], [1.0, 1.5, 5.0], [np.nan, 0.5, 5.0]], "float32")
    for log_prob in (
        conditional.log_prob(x, CONTEXT[:4]),
        conditional.predict({"x": x, "context": CONTEXT[:4]}, verbose=0),
    ):
        assert np.isfinite(log_prob[0]) and np.isnan(log_prob[3])
        np.testing.assert_array_equal(log_prob[1:3], -np.inf)
    samples = conditional.sample(5000, context=CONTEXT[0], seed=1).numpy()
    assert np.all(samples[:, 0] > 0) and np.all(samples[:, 1] > 0) and np.all(samples[:, 1] < 1)


def test_saved_and_exported_flows_have_the_same_density(conditional, tmp_path):
    expected = conditional.log_prob(X, CONTEXT)
    conditional.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(X, CONTEXT), expected)
    assert loaded.get_config()["support"] == [[0.0, None], [0.0, 1.0], [None, None]]
    conditional.export(tmp_path / "export")
    log_prob = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    x = np.float32(np.concatenate([X[:3], -X[:2]]))
    results = log_prob(x=tf.constant(x), context=tf.constant(np.float32(CONTEXT[:5])))
    (values,) = results.values()
    np.testing.assert_allclose(values[:3], expected[:3], rtol=1e-5)
    np.testing.assert_array_equal(values[3:], -np.inf)


def test_fit_learns_a_bounded_density_with_noise():
    flow = small_flow(noise=0.1)
    flow.adapt(X)
    flow.compile()
    losses = flow.fit(X, epochs=3, batch_size=100, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]
    noisy = flow._noise(tf.constant(np.repeat(X[:1], 2000, axis=0), "float32"))
    within = flow.distribution().bijector.bijectors[0].inverse(noisy).numpy()
    scale = 0.1 * np.log(X[:, 0]).std()
    assert within[:, 0].std() == pytest.approx(scale, rel=0.1)


def test_a_flow_whose_distribution_ends_in_bounds_adapts_within_them():
    within = nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=0, dtype="float64")
    bounds = nvp.Bounds([0.0, 0.0, -np.inf], [np.inf, 1.0, np.inf], dtype="float64")
    flow = nvp.Flow(tfd.TransformedDistribution(within.distribution(), bounds))
    flow.adapt(X)
    expected = small_flow(dtype="float64")
    expected.adapt(X)
    np.testing.assert_allclose(flow.log_prob(X), expected.log_prob(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            FRAME.assign(flux=FRAME["flux"] - FRAME["flux"].min()),
            r"in the columns 'flux'. .* flux: set the lower bound below 0",
        ),
        (
            FRAME.assign(fraction=1.0 + Z[:, 0] ** 2),
            r"400 of its 400 rows .* fraction: set the upper bound above",
        ),
        (
            np.where(np.arange(400)[:, None] == 7, -1.0, X),
            r"rows do not: 7, in the features \[0, 1\]. .* feature 1: set",
        ),
    ],
)
def test_rows_on_the_bounds_or_outside_are_errors(x, message):
    flow = small_flow()
    flow.compile("adam")
    for call, argument in (
        (lambda: flow.adapt(x), "data"),
        (lambda: flow.fit(x), "x"),
        (lambda: flow.fit(X, validation_data=x), "validation_data"),
        (lambda: flow.evaluate(x), "x"),
        (lambda: nvp.RealNVP.for_data(x, support=SUPPORT, verbose=False), "x"),
    ):
        with pytest.raises(ValueError, match=f"^{argument} must lie within its support.*{message}"):
            call()


def test_a_row_that_rounds_to_a_bound_is_an_error():
    x = np.where(np.arange(400)[:, None] == 7, [1.0, 1.0 - 1e-9, 5.0], X)
    with pytest.raises(ValueError, match=r'set the upper bound above 0.999999999 .* or use dtype="float64", since'):
        small_flow().adapt(x)
    small_flow(dtype="float64").adapt(x)
    with pytest.raises(ValueError, match=r"in the features \[0\]. .* set the lower bound below 1e-41"):
        small_flow().adapt(np.where(np.arange(400)[:, None] == 7, [1e-41, 0.5, 5.0], X))


def test_a_batch_outside_the_bounds_is_an_error_of_adapt():
    dataset = tf.data.Dataset.from_tensor_slices(np.where(np.arange(400)[:, None] == 250, -1.0, X)).batch(100)
    with pytest.raises(ValueError, match=r"^batch 2 of data must lie .* 1 of its 100 rows do not: 50, in"):
        small_flow().adapt(dataset)


def test_for_data_chooses_options_within_the_bounds():
    flow = nvp.RealNVP.for_data(X, support=SUPPORT, num_couplings=1, hidden_units=(4,), verbose=False, seed=0)
    within = np.stack([np.log(X[:, 0]), np.log(X[:, 1]) - np.log1p(-X[:, 1]), X[:, 2]], axis=1)
    for name, value in choose_options(within, len(X)).items():
        if name != "hidden_units":
            assert flow.get_config()[name] == value
    assert np.all(np.isfinite(flow.log_prob(X)))


def test_data_within_bounds_need_not_be_standardised_outside():
    flow = small_flow(size=1, support=[(1e6, 1e6 + 100.0)], dtype="float64")
    flow.compile("adam")
    flow.fit(1e6 + 100.0 / (1.0 + np.exp(-Z[:, :1])), verbose=0)  # would warn
    other = small_flow(size=1, support=[(0.0, None)])
    other.compile("adam")
    with pytest.warns(UserWarning, match="far from mean 0"):
        other.fit(np.exp(20.0 + Z[:, :1]), verbose=0)
