"""`adapt(robust=True)`: median and quantiles."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfp_realnvp as nvp
from tfp_realnvp.flows import moments

random = np.random.default_rng(0)
NORMAL = random.normal(5.0, 2.0, (20_000, 2))
CAUCHY = np.stack([random.standard_cauchy(20_000), NORMAL[:, 0]], axis=1)


def adapted(data, size=2, robust=True, **options):
    flow = nvp.RealNVP(size, **{"num_couplings": 2, "hidden_units": (4,), "seed": 0, "dtype": "float64"} | options)
    flow.adapt(data, robust=robust)
    return flow


def shift_and_scale(flow):
    return flow._standardizer.moments()


def test_gaussian_data_get_their_mean_and_standard_deviation():
    shift, scale = shift_and_scale(adapted(NORMAL))
    np.testing.assert_allclose(shift, 5.0, atol=0.05)
    np.testing.assert_allclose(scale, 2.0, rtol=0.02)


def test_extreme_rows_hardly_matter():
    quantiles = stats.cauchy.ppf(stats.norm.cdf([-1.0, 0.0, 1.0]))
    shift, scale = shift_and_scale(adapted(CAUCHY))
    np.testing.assert_allclose(shift, [0.0, 5.0], atol=0.05)
    np.testing.assert_allclose(scale, [(quantiles[2] - quantiles[0]) / 2, 2.0], rtol=0.05)


@pytest.mark.parametrize("most_values", [None, 5_000])
def test_datasets_and_contexts(most_values, monkeypatch):
    if most_values:  # Then only some of the rows count.
        monkeypatch.setattr(moments, "_VALUES_FOR_QUANTILES", most_values)
    data = {"x": NORMAL, "context": CAUCHY}
    expected = adapted({"x": NORMAL, "context": CAUCHY}, context_shape=2)
    flow = adapted(tf.data.Dataset.from_tensor_slices(data).batch(77), context_shape=2)
    for one, other in zip(flow.get_weights()[-4:], expected.get_weights()[-4:], strict=True):
        np.testing.assert_allclose(one, other, atol=0.15 if most_values else 1e-12)
    if most_values is None:
        np.testing.assert_allclose(flow._contexts.variables[0], np.median(CAUCHY, axis=0), rtol=1e-12)


def test_every_kth_row_counts(monkeypatch):
    monkeypatch.setattr(moments, "_VALUES_FOR_QUANTILES", 100)
    found = moments.RobustMoments()
    for rows in np.split(np.arange(1000.0)[:, np.newaxis], [3, 10, 500, 501]):
        found.update(rows)
    kept = np.concatenate(found._rows)[:, 0]
    np.testing.assert_array_equal(kept, np.arange(0.0, 1000.0, found._step))
    assert 50 <= len(kept) <= 100


def test_features_with_one_frequent_value_get_their_standard_deviation():
    x = np.where(random.uniform(size=(1000, 2)) < [0.95, 0.1], 0.0, NORMAL[:1000])
    shift, scale = shift_and_scale(adapted(x))
    np.testing.assert_allclose([shift[0], scale[0]], [x[:, 0].mean(), x[:, 0].std()])
    assert shift[1] == np.median(x[:, 1])


def test_a_feature_of_zeros_and_tiny_numbers_gets_its_standard_deviation():
    """Slightly fewer than 84 % of the rows are 0, so one quantile is one of the tiny numbers."""
    rain = np.zeros((1000, 1))
    rain[:162, 0] = np.random.default_rng(0).gamma(0.05, 10.0, 162)
    for sign in (1, -1):
        np.testing.assert_allclose(shift_and_scale(adapted(sign * rain, size=1)), [sign * rain.mean(0), rain.std(0)])


def test_the_first_lu_map_ignores_extreme_rows():
    x = NORMAL @ [[1.0, 0.9], [0.0, 0.3]]
    x[:3] = [[1e6, -1e6], [1e6, -1e6], [-1e6, 1e6]]
    z = [adapted(x, robust=robust, permutation="lu").bijector().inverse(x[3:]).numpy() for robust in (True, False)]
    assert np.abs(np.corrcoef(z[0], rowvar=False)[0, 1]) < 0.1 < np.abs(np.corrcoef(z[1], rowvar=False)[0, 1])


def test_bounded_data_are_standardised_within_their_bounds():
    flow = adapted(np.exp(NORMAL), support=[(0.0, None)] * 2)
    np.testing.assert_allclose(shift_and_scale(flow)[0], 5.0, atol=0.05)


def test_ensembles_and_images_take_it():
    flow = adapted(NORMAL, robust=False)
    nvp.Ensemble([flow]).adapt(CAUCHY, robust=True)
    np.testing.assert_allclose(shift_and_scale(flow)[0], np.median(CAUCHY, axis=0))
    images = nvp.ImageRealNVP((2, 2, 1), num_scales=1, num_blocks=1, num_channels=4, context_shape=2, seed=0)
    images.adapt({"x": np.zeros((20_000, 2, 2, 1), np.uint8), "context": CAUCHY}, robust=True)
    np.testing.assert_allclose(images._contexts.variables[0], np.median(CAUCHY, axis=0), rtol=1e-4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="robust must be True or False, got 'yes'"):
        adapted(NORMAL, robust="yes")
    x = NORMAL[:100] * 1e-20
    x[0] = 1e30
    with pytest.raises(ValueError, match=r"data spreads too far for float32 in the features \[0, 1\]"):
        adapted(x, dtype="float32")
