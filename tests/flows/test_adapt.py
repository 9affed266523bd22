"""`adapt` warns about data that the dtype rounds; `fit` warns about data that need `adapt` first."""

import warnings

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp


def test_adapt_warns_about_data_that_float32_rounds():
    times = pd.DataFrame({"time": 1.7e9 + np.arange(1000.0), "value": np.random.default_rng(0).normal(size=1000)})
    message = r"data varies little .* in the columns 'time': float32 rounds the values to steps of up to 1\.3e\+02, so"
    with pytest.warns(UserWarning, match=message) as record:
        nvp.RealNVP(2, num_couplings=2, hidden_units=(4,)).adapt(times)
    assert record[0].filename == __file__


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adapt_does_not_warn_about_data_with_enough_digits(dtype):
    scale, offset = (1.0, 1e4) if dtype == "float32" else (1e-3, 1.7e9)
    x = np.random.default_rng(0).normal(offset, scale, (200, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), dtype=dtype).adapt(x)


def test_adapt_accepts_a_constant_context():
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=1)
    flow.adapt({"x": np.random.default_rng(0).normal(size=(10, 2)), "context": np.ones((10, 1))})
    assert np.all(np.isfinite(flow.log_prob(np.zeros((3, 2)), np.ones((3, 1)))))


@pytest.mark.parametrize("scale", [1e-37, 1e38])
def test_adapt_accepts_very_small_and_very_large_data(scale):
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=1)
    random = np.random.default_rng(0)
    x, context = scale * random.normal(size=(10, 2)), scale * random.uniform(-1.0, 1.0, (10, 1))
    flow.adapt({"x": x, "context": context})
    assert np.all(np.isfinite(flow.log_prob(x, context)))


def unadapted(**options) -> nvp.RealNVP:
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0, **options)
    flow.compile("sgd", run_eagerly=True)
    return flow


def fit_once(flow, x):
    flow.fit(x, batch_size=5000, verbose=0)


def far_data(mean, deviation) -> np.ndarray:
    """5,000 rows: a sorted feature with this mean and deviation, and a standard normal feature."""
    x = np.random.default_rng(0).normal(size=(5000, 2))
    x[:, 0] = mean + deviation * np.sort(x[:, 0])
    return x


@pytest.mark.parametrize(("mean", "deviation"), [(20.0, 5.0), (-6.0, 1.0), (0.0, 11.0), (0.0, 0.09)])
def test_first_fit_on_unstandardized_data_warns_once(mean, deviation):
    flow, x = unadapted(), far_data(mean, deviation)
    with pytest.warns(UserWarning, match=r"x in the features \[0\] is far .* call adapt with") as found:
        fit_once(flow, x)
        fit_once(flow, x)
    assert [warning.filename for warning in found] == [__file__]


def test_fit_warning_names_the_unstandardized_columns_and_context():
    x = far_data(0.0, 1.0)
    data = {"x": pd.DataFrame({"mass": x[:, 0], "radius": 7.0 + x[:, 1]}), "context": 100.0 * x}
    with pytest.warns(UserWarning, match=r"in the columns 'radius' and x\[\"context\"\] in .*\[0, 1\] are far"):
        fit_once(unadapted(context_shape=2), data)


@pytest.mark.filterwarnings("error::UserWarning")
def test_fit_does_not_ask_for_adapt_without_need(tmp_path):
    x, far = far_data(4.0, 9.0), far_data(20.0, 5.0)
    labels = np.eye(500)[np.random.default_rng(0).integers(500, size=5000)]
    fit_once(unadapted(context_shape=500), {"x": x, "context": labels})
    fit_once(unadapted(base_distribution=tfd.MultivariateNormalDiag([20.0, 0.0], [5.0, 1.0])), far)
    custom = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([20.0, 0.0]), [5.0, 1.0]))
    custom.compile("sgd", run_eagerly=True)
    fit_once(custom, far)
    adapted = unadapted()
    adapted.adapt(far)
    adapted.save_weights(tmp_path / "adapted.weights.h5")
    trained = unadapted()
    fit_once(trained, x)
    trained.save_weights(tmp_path / "trained.weights.h5")  # `adapt` would undo this training
    for file in ("adapted", "trained"):
        loaded = unadapted()
        loaded.load_weights(tmp_path / f"{file}.weights.h5")
        fit_once(loaded, far)
