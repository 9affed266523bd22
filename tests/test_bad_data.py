"""Data that are not finite, too large, too narrow or far from standard are named."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from training import small_flow


def test_a_second_dataset_is_checked_like_the_first(data):
    flow = small_flow()
    wrong = tf.data.Dataset.from_tensor_slices(data[:, :1]).batch(8)
    flow.fit(tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0)
    for use in (flow.fit, flow.evaluate, flow.predict, flow.adapt):
        with pytest.raises(ValueError, match=r"must have shape \[N, 2\], got \[None, 1\]"):
            use(wrong)


def test_a_dataset_of_nested_arrays_is_refused(data):
    flow = small_flow()
    for nested in (((data, data),), {"x": (data, data)}):
        dataset = tf.data.Dataset.from_tensor_slices(nested).batch(8)
        for use in (flow.fit, flow.evaluate, flow.predict, flow.adapt):
            with pytest.raises(ValueError, match="must have batches of arrays, got a dataset of"):
                use(dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(value):
    x = np.zeros((40, 2))
    x[[3, 17], 1] = value
    flow = small_flow()
    good = np.random.default_rng(0).normal(size=(40, 2))
    for call in (
        lambda: flow.adapt(x),
        lambda: flow.fit(x),
        lambda: flow.evaluate(x),
        lambda: flow.fit(good, validation_data=x),
        lambda: flow.fit(good, validation_data=(x, None, np.ones(40))),
        lambda: flow.fit(tf.constant(x)),
    ):
        with pytest.raises(ValueError, match="NaN or infinity in 2 of its 40 rows: 3, 17"):
            call()
    with pytest.raises(ValueError, match="sample_weight has a NaN or infinity in 1 of its 40 rows: 5"):
        flow.fit(good, sample_weight=np.where(np.arange(40) == 5, value, 1.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        flow.adapt(tf.data.Dataset.from_tensors(x))


def test_values_too_large_for_the_dtype_are_named():
    x = np.where(np.arange(20).reshape(10, 2) == 7, 1e39, 1.0)
    flow = small_flow()
    for call in (
        lambda: flow.fit(x),
        lambda: flow.evaluate(x),
        lambda: flow.adapt(x),
        lambda: flow.fit(x[:3], validation_data=x),
        lambda: flow.fit(np.ones((10, 2)), sample_weight=x[:, 1]),
    ):
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its 10 rows: 3 \(as float32\)"):
            call()
    assert np.all(np.isfinite(small_flow(dtype="float64").log_prob(x)))


def test_rows_of_a_context_that_are_not_finite_are_named():
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=1)
    context = np.ones((30, 1))
    context[7] = np.nan
    with pytest.raises(ValueError, match=r'x\["context"\] has a NaN or infinity in 1 of its 30 rows: 7'):
        flow.fit({"x": np.zeros((30, 2)), "context": context})


def test_other_bad_data():
    flow = small_flow()
    x = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(ValueError, match="at least one row"):
        flow.fit(x[:0])
    with pytest.raises(ValueError, match=r"constant in the features \[1\]"):
        flow.adapt(np.stack([x[:, 0], np.full(10, 0.1)], axis=1))
    with pytest.raises(ValueError, match=r"no targets y.*in a dataset, as \(x, x, sample_weight\)"):
        flow.fit(x, 7.0 * x)
    with pytest.raises(ValueError, match="no targets y"):
        flow.fit(x, 7.0 * x, sample_weight=np.ones(10))
    with pytest.raises(ValueError, match="no targets y"):
        flow.fit(tf.data.Dataset.from_tensors((x, x)))
    with pytest.raises(ValueError, match="must be an array"):
        flow.fit([[1.0, 2.0]])
    for sample_weight in (np.ones((10, 2)), [1.0] * 10):
        with pytest.raises(ValueError, match="sample_weight must"):
            flow.fit(x, sample_weight=sample_weight)
    with pytest.raises(ValueError, match="sample_weight must have one weight for each of 10 rows, got 5"):
        flow.fit(x, sample_weight=np.ones(5))
    for array in (x.astype(complex), x.astype(str), x.astype(object)):
        for call in (flow.adapt, flow.fit):
            with pytest.raises(ValueError, match=r"(x|data) must be an array of numbers, got dtype"):
                call(array)
    masked = np.ma.masked_greater(x, np.sort(x[:, 0])[-2])
    for call in (flow.adapt, flow.fit):
        with pytest.raises(ValueError, match=r"NaN or infinity in [12] of its 10 rows"):
            call(masked)
    with pytest.raises(ValueError, match="class_weight must be None"):
        flow.fit(x, class_weight={0: 1.0})
    with pytest.raises(ValueError, match="data must be an array"):
        flow.adapt(iter(x))
    for name in ("loss", "metrics", "weighted_metrics"):
        with pytest.raises(ValueError, match=rf"{name} must be None, got \['mse'\]"):
            flow.compile("adam", **{name: ["mse"]})
    for steps in (0, 1.5, "auto"):
        with pytest.raises(ValueError, match=f"steps_per_execution must be an integer of at least 1, got {steps!r}"):
            flow.compile("adam", steps_per_execution=steps)
    with pytest.raises(ValueError, match="x must have at least one batch"):
        flow.fit(tf.data.Dataset.from_tensor_slices(x).batch(5).take(0))


def test_a_constant_context_is_fine():
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=1)
    flow.adapt({"x": np.random.default_rng(0).normal(size=(10, 2)), "context": np.ones((10, 1))})
    assert np.all(np.isfinite(flow.log_prob(np.zeros((3, 2)), np.ones((3, 1)))))


@pytest.mark.parametrize("scale", [1e-37, 1e38])
def test_adapt_takes_what_the_dtype_can_tell_apart(scale):
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=1)
    random = np.random.default_rng(0)
    x, context = scale * random.normal(size=(10, 2)), scale * random.uniform(-1.0, 1.0, (10, 1))
    flow.adapt({"x": x, "context": context})
    assert np.all(np.isfinite(flow.log_prob(x, context)))


# Data that are not standardised
def unadapted(**options) -> nvp.RealNVP:
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(), seed=0, **options)
    flow.compile("sgd", run_eagerly=True)
    return flow


def fit_once(flow, x):
    flow.fit(x, batch_size=5000, verbose=0)


def far_data(mean, deviation) -> np.ndarray:
    """5,000 rows, sorted, of which the second feature is standard-normal."""
    x = np.random.default_rng(0).normal(size=(5000, 2))
    x[:, 0] = mean + deviation * np.sort(x[:, 0])
    return x


@pytest.mark.parametrize(("mean", "deviation"), [(20.0, 5.0), (-6.0, 1.0), (0.0, 11.0), (0.0, 0.09)])
def test_the_first_fit_on_data_far_from_standard_says_so_once(mean, deviation):
    flow, x = unadapted(), far_data(mean, deviation)
    with pytest.warns(UserWarning, match=r"x in the features \[0\] is far .* call adapt with") as found:
        fit_once(flow, x)
        fit_once(flow, x)
    assert [warning.filename for warning in found] == [__file__]


def test_a_context_far_from_standard_is_named():
    x = far_data(0.0, 1.0)
    data = {"x": pd.DataFrame({"mass": x[:, 0], "radius": 7.0 + x[:, 1]}), "context": 100.0 * x}
    with pytest.warns(UserWarning, match=r"in the columns 'radius' and x\[\"context\"\] in .*\[0, 1\] are far"):
        fit_once(unadapted(context_shape=2), data)


@pytest.mark.filterwarnings("error::UserWarning")
def test_no_fit_asks_for_adapt_without_need(tmp_path):
    x, far = far_data(4.0, 9.0), far_data(20.0, 5.0)
    labels = np.eye(500)[np.random.default_rng(0).integers(500, size=5000)]
    fit_once(unadapted(context_shape=500), {"x": x, "context": labels})
    fit_once(unadapted(base_distribution=tfd.MultivariateNormalDiag([20.0, 0.0], [5.0, 1.0])), far)
    own = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([20.0, 0.0]), [5.0, 1.0]))
    own.compile("sgd", run_eagerly=True)
    fit_once(own, far)
    adapted = unadapted()
    adapted.adapt(far)
    adapted.save_weights(tmp_path / "adapted.weights.h5")
    trained = unadapted()
    fit_once(trained, x)
    trained.save_weights(tmp_path / "trained.weights.h5")  # `adapt` would move the data from where it knows them
    for file in ("adapted", "trained"):
        loaded = unadapted()
        loaded.load_weights(tmp_path / f"{file}.weights.h5")
        fit_once(loaded, far)
