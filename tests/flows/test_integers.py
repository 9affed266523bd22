"""`RealNVP(..., integers=...)`: features of whole numbers."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats

import tfp_realnvp as nvp
from registry import perturbed

random = np.random.default_rng(0)
COUNTS = random.poisson(3.0, 400)
X = np.stack([COUNTS, 0.3 * COUNTS + random.normal(size=400), random.integers(0, 2, 400)], axis=1)
SUPPORT = [(0, None), None, (0, 1)]


def small_flow(**options):
    options = {"num_couplings": 2, "hidden_units": (4,), "integers": [0, 2], "seed": 0} | options
    return nvp.RealNVP(3, **options)


@pytest.fixture(scope="module")
def flow():
    flow = small_flow(support=SUPPORT)
    flow.adapt(X)
    return perturbed(flow)


@pytest.mark.parametrize("support", [None, SUPPORT])
def test_noise_is_uniform_in_the_cell_of_each_number(support):
    flow = small_flow(support=support)
    x = tf.constant(np.repeat([[0.0, 1.5, 1.0]], 4000, axis=0), tf.float32)
    noise = flow._dequantization.noisy(x).numpy() - x
    np.testing.assert_array_equal(noise[:, 1], 0.0)
    for column in (0, 2):
        assert stats.kstest(noise[:, column], stats.uniform(-0.5, 1.0).cdf).pvalue > 0.001
    assert np.abs(np.corrcoef(noise[:, 0], noise[:, 2])[0, 1]) < 0.08


def test_noise_does_not_reach_the_bounds():
    flow = small_flow(support=[(0, None), None, (0, 1000)])
    x = tf.constant(np.repeat([[0.0, 1.5, 1000.0]], 100, axis=0), tf.float32)
    for extreme in (0.0, np.nextafter(np.float32(1), np.float32(0))):  # the least and the greatest U(0, 1) noise
        noisy = flow._dequantization._with_noise(x, tf.fill(x.shape, extreme))
        assert np.all(np.isfinite(flow.bijector().inverse(noisy)))
        np.testing.assert_array_equal(flow._dequantization.as_sample(noisy), x)


def test_samples_next_to_a_bound_are_rounded_to_a_number_inside():
    flow = small_flow(support=[(None, 0), None, (-1, 0)])
    last = np.nextafter(np.float32(0.5), np.float32(0))  # 1/2 more is rounded to 1.
    np.testing.assert_array_equal(flow._dequantization.as_sample(tf.constant([[last, 0.0, last]])), [[0.0, 0.0, 0.0]])


def test_samples_are_whole_numbers_within_the_support(flow, tmp_path):
    flow.export(tmp_path / "export")
    signature = tf.saved_model.load(tmp_path / "export").signatures["sample"]
    exported = signature(num_samples=tf.constant(2000), seed=tf.constant([0, 1]))["x"]
    for samples in (flow.sample(2000, seed=1).numpy(), exported.numpy()):
        np.testing.assert_array_equal(samples[:, [0, 2]], np.floor(samples[:, [0, 2]]))
        assert samples[:, 0].min() == 0 and set(samples[:, 2]) == {0, 1}
        assert np.mean(samples[:, 1] == np.floor(samples[:, 1])) < 0.01
        assert np.all(np.isfinite(flow.log_prob(samples)))


def test_densities_are_of_continuous_numbers(flow):
    whole = np.array([2.0, 0.4, 1.0])
    log_prob = flow.log_prob([whole, whole + np.array([0.3, 0.0, -0.2])])
    assert log_prob[0] != log_prob[1]
    np.testing.assert_allclose(flow.distribution().log_prob(tf.cast(whole, tf.float32)), log_prob[0], rtol=1e-5)
    samples, log_prob = flow.sample_and_log_prob(20, seed=0)
    np.testing.assert_allclose(flow.log_prob(samples), log_prob, rtol=1e-3, atol=1e-3)


def test_evaluate_averages_over_noise(flow):
    flow.compile("sgd")
    x = np.repeat(X[:1], 20_000, axis=0)
    expected = -np.mean(flow.predict(x + random.uniform(-0.5, 0.5, x.shape) * [1, 0, 1], verbose=0))
    np.testing.assert_allclose(flow.evaluate(x, batch_size=5000, verbose=0), expected, atol=0.02)


def test_fit_learns_the_probabilities_of_counts():
    counts = np.random.default_rng(1).poisson(2.0, (8000, 1))
    flow = nvp.RealNVP(1, coupling="spline", num_couplings=1, num_bins=16, integers=[0], support=[(0, None)], seed=0)
    flow.adapt(counts)
    flow.compile(keras.optimizers.Adam(0.02))
    flow.fit(counts, batch_size=500, epochs=20, verbose=0)
    numbers = np.arange(7)[:, np.newaxis]
    np.testing.assert_allclose(np.exp(flow.log_prob(numbers)), stats.poisson(2.0).pmf(numbers[:, 0]), atol=0.04)


def test_noise_of_training_comes_after_dequantisation():
    flow = small_flow(noise=0.1, support=SUPPORT)
    flow.adapt(X)
    flow.compile("adam")
    # The other order would leave no whole numbers, and the loss would be NaN.
    assert np.isfinite(flow.fit(X, epochs=2, verbose=0).history["loss"][-1])


def test_files_keep_the_integers(flow, tmp_path):
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert loaded.get_config()["integers"] == [0, 2]
    np.testing.assert_array_equal(loaded.sample(50, seed=3), flow.sample(50, seed=3))


def test_ensembles_round_too(flow):
    ensemble = nvp.Ensemble([flow, small_flow(seed=1, support=SUPPORT)])
    samples = ensemble.sample(50, seed=0).numpy()
    np.testing.assert_array_equal(samples[:, 0], np.floor(samples[:, 0]))
    first, second = (ensemble.evaluate(X, verbose=0) for _ in range(2))
    assert first != second  # new noise
    with pytest.raises(ValueError, match=r"same integers, got \[0, 2\] and \[0\] in flows\[1\]"):
        nvp.Ensemble([flow, small_flow(integers=[0], support=SUPPORT)])


def test_whole_numbers_are_no_peaks_for_the_rules():
    given = X.copy()
    options = {"num_couplings": 1, "hidden_units": (4,), "seed": 0, "verbose": False}
    flow = nvp.RealNVP.for_data(X, integers=[0, 2], support=SUPPORT, **options)
    assert flow.get_config()["permutation"] == "lu" and flow.get_config()["noise"] > 0
    assert nvp.RealNVP.for_data(X, **options).get_config()["noise"] == 0
    np.testing.assert_array_equal(X, given)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_other_numbers_are_errors(as_dataset):
    flow, frame = small_flow(), pd.DataFrame(X.copy(), columns=["count", "value", "flag"])
    flow.compile("sgd")
    frame.loc[[5, 7], "count"] = 0.5
    if as_dataset:
        rows = tf.data.Dataset.from_tensor_slices(frame.to_numpy()).batch(50)
        with pytest.raises(ValueError, match=r"x must hold whole numbers .* in its integers=\[0, 2\]; a batch"):
            flow.fit(rows, verbose=0)
        with pytest.raises(ValueError, match=r"data must hold whole numbers .* in its integers=\[0, 2\]; a batch"):
            flow.adapt(rows)
    else:
        message = (
            r"x must hold whole numbers within \+-262144 .* got 0\.5 in 2 of its 400 rows: 5, 7, in the columns 'co"
        )
        with pytest.raises(ValueError, match=message):
            flow.fit(frame, verbose=0)
        with pytest.raises(ValueError, match=r"validation_data must hold whole numbers .* got 100000\d\.0"):
            flow.fit(X, validation_data=X + np.array([1e6, 0, 0]), verbose=0)


@pytest.mark.parametrize(
    ("integers", "message"),
    [
        ([3], r"integers must be .* from 0 to 2, got \[3\]"),
        ([-1], r"integers must be .* got \[-1\]"),
        ([0, 0], r"integers must be different indices, got \[0, 0\]"),
        ([0.0], r"integers must be .* got \[0\.0\]"),
        ([True], r"integers must be .* got \[True\]"),
        ("02", r"integers must be .* got '02'"),
        (1, r"integers must be .* got 1"),
    ],
)
def test_wrong_integers(integers, message):
    with pytest.raises(ValueError, match=message):
        small_flow(integers=integers)


def test_bounds_of_integers_must_be_whole_numbers():
    with pytest.raises(ValueError, match=r"support\[0\] must have whole numbers as in integers, got \(0\.5, None\)"):
        small_flow(support=[(0.5, None), None, None])
