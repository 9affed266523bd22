"""Keras's `fit`, `evaluate` and `predict` with every kind of data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import correlated_data, small_flow, weights

pytestmark = pytest.mark.default_steps


def test_fit_reaches_the_entropy_of_a_gaussian():
    x, x_test = correlated_data(8192, seed=3), correlated_data(8192, seed=4)
    covariance = np.array([[2.0, 1.0], [0.0, 0.5]]).T @ np.array([[2.0, 1.0], [0.0, 0.5]])
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    flow = nvp.RealNVP(2, num_couplings=4, hidden_units=(16,), seed=0)
    flow.adapt(x)
    flow.compile(keras.optimizers.Adam(1e-2))
    history = flow.fit(x, epochs=8, batch_size=256, validation_data=x_test, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert flow.evaluate(x_test, verbose=0) == pytest.approx(entropy, abs=0.04)
    assert history["val_loss"][-1] == pytest.approx(flow.evaluate(x_test, verbose=0), abs=1e-4)


def test_loss_is_the_mean_negative_log_likelihood(flow, data):
    expected = -np.mean(flow.log_prob(data))
    assert flow.evaluate(data, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert flow.evaluate(data, batch_size=100, verbose=0, return_dict=True) == {
        "loss": pytest.approx(expected, rel=1e-5)
    }


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_arrays_and_datasets_give_the_same_weights(data, jit_compile, steps_per_execution):
    x, ones = data[:500], np.ones(500)
    results, sources = [], ("array", "dataset of weights", "dataset", "dictionary", "weights")
    flow = small_flow()
    flow.adapt(x)
    flow.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile, steps_per_execution=steps_per_execution)
    start = flow.get_weights()
    for source in sources if (steps_per_execution, jit_compile) == (4, False) else sources[:2]:
        flow.set_weights(start)
        options = {"epochs": 2, "verbose": 0}
        if source.startswith("dataset"):
            parts = x if source == "dataset" else (x, x, ones)
            flow.fit(tf.data.Dataset.from_tensor_slices(parts).batch(50), **options)
        else:
            sample_weight = ones if source == "weights" else None
            inputs = {"x": x} if source == "dictionary" else x
            flow.fit(inputs, batch_size=50, shuffle=False, sample_weight=sample_weight, **options)
        results.append(weights(flow))
    assert np.any(results[0] != np.concatenate([np.ravel(weight) for weight in start]))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-6)


def test_flow_without_an_optimizer_can_only_evaluate(data, tmp_path):
    flow = small_flow()
    flow.compile(None)
    flow.save(tmp_path / "flow.keras")
    for model in (flow, keras.models.load_model(tmp_path / "flow.keras")):
        assert model.evaluate(data, verbose=0) == pytest.approx(-np.mean(flow.log_prob(data)), rel=1e-5)
    with pytest.raises(ValueError, match="optimizer must be given"):
        flow.fit(data)


def test_evaluate_accepts_datasets_of_unknown_shape(data):
    flow = small_flow()
    flow.adapt(data)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(256)
    unknown = batches.map(lambda x: tf.numpy_function(lambda x: x, [x], tf.float64))
    assert unknown.element_spec.shape.rank is None
    assert flow.evaluate(unknown, verbose=0) == pytest.approx(flow.evaluate(batches, verbose=0), rel=1e-6)


def test_sample_weights_act_as_in_keras():
    """A weight of 2 counts a row twice. Keras divides the sum by the number of rows."""
    x = correlated_data(64, seed=0)
    sample_weight = np.array([2.0, 0.0] * 32)
    flow = small_flow()
    flow.adapt(x)
    assert flow.evaluate(x, sample_weight=sample_weight, verbose=0) == pytest.approx(
        flow.evaluate(x[::2], verbose=0), rel=1e-5
    )
    dataset = tf.data.Dataset.from_tensor_slices((x, x, sample_weight)).batch(64)
    fits = [
        lambda flow, **options: flow.fit(np.repeat(x[::2], 2, axis=0), batch_size=64, **options),
        lambda flow, **options: flow.fit(x, sample_weight=sample_weight, batch_size=64, **options),
        lambda flow, **options: flow.fit(dataset, **options),
    ]
    results = []
    for fit in fits:
        flow = small_flow()
        flow.adapt(x)
        history = fit(flow, validation_data=(x, None, sample_weight), verbose=0).history
        results.append(np.append(weights(flow), history["val_loss"]))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-4, atol=1e-6)


def test_evaluate_and_adapt_accept_conditional_datasets(conditional_flow, conditional_data):
    dataset = tf.data.Dataset.from_tensor_slices(conditional_data).batch(100)
    expected = -np.mean(conditional_flow.log_prob(**conditional_data))
    assert conditional_flow.evaluate(dataset, verbose=0) == pytest.approx(expected, rel=1e-6)
    assert conditional_flow.evaluate(conditional_data, verbose=0) == pytest.approx(expected, rel=1e-6)
    fresh = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=2, dtype="float64")
    fresh.adapt(dataset)
    pairs = zip(fresh.bare_variables, conditional_flow.bare_variables, strict=True)
    pairs = [pair for pair in pairs if "standardization" in pair[0].name]
    assert len(pairs) == 4
    for variable, expected in pairs:
        np.testing.assert_allclose(variable, expected, rtol=1e-12)


def test_float64_flow_keeps_the_precision_of_float64_data(conditional_flow, conditional_data):
    offset = {"x": conditional_data["x"] + 1e-10, "context": conditional_data["context"]}
    one, other = (conditional_flow.predict(data, verbose=0) for data in (conditional_data, offset))
    assert one.dtype == np.float64 and np.all(one != other)
    assert keras.config.floatx() == "float32"


def test_fit_accepts_every_form_of_validation_data(data):
    flow = small_flow()
    flow.adapt(data)
    x = data[:100]
    for validation_data in (x, (x,), {"x": x}, (x, None, np.ones(100)), tf.data.Dataset.from_tensors(x)):
        history = flow.fit(data[:64], validation_data=validation_data, verbose=0).history
        assert history["val_loss"][0] == pytest.approx(flow.evaluate(x, verbose=0), rel=1e-5)


def test_mixed_precision_keeps_densities_in_float32(data):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        flow = small_flow()
        flow.adapt(data)
        flow.compile(keras.optimizers.Adam(1e-2))
        losses = flow.fit(data, epochs=3, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses[-1] < losses[0]
    assert flow.log_prob(data).dtype == tf.float32 and flow.sample(2).dtype == tf.float32
    assert all(variable.dtype == "float32" for variable in flow.trainable_variables)
    assert len(flow.distribution().trainable_variables) == len(flow.trainable_variables)


def test_adapt_standardises_the_context(conditional_flow, conditional_data):
    context = conditional_data["context"]
    (seen, *_) = [part.context for part in conditional_flow.bijector(context).bijectors if hasattr(part, "conditioner")]
    np.testing.assert_allclose(seen, (context - context.mean(axis=0)) / context.std(axis=0), rtol=1e-9)


def test_fit_with_zero_epochs_changes_no_weight(flow, data):
    before = flow.get_weights()
    assert flow.fit(data, epochs=0, verbose=0).history == {}
    for weight, other in zip(flow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_float64_arrays_are_batched_like_float32_arrays(data):
    """`fit` and `evaluate` split, shuffle and weight data in a float64 flow as in a float32 flow."""
    offset, sample_weight = 1e-9, np.linspace(0.5, 1.5, 500)
    results = {}
    for dtype in ("float32", "float64"):
        seen = []

        class Batches(nvp.RealNVP):
            def train_step(self, data, seen=seen):
                tf.numpy_function(lambda *batch: seen.append(batch), [data[0], data[-1]], [])
                return super().train_step(data)

        flow = Batches(2, num_couplings=1, hidden_units=(4,), seed=0, dtype=dtype)
        flow.compile(keras.optimizers.SGD(0.0))
        x = data[:500] + offset
        options = {"sample_weight": sample_weight, "validation_split": 0.2, "verbose": 0}
        history = flow.fit(x, batch_size=64, **options).history
        rows, weights = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        results[dtype] = history["loss"] + history["val_loss"]
        assert [len(rows) for rows, _ in seen] == [64] * 6 + [16]
        assert rows.dtype == weights.dtype == "float64"  # the dtypes of the arrays; the flow casts to its own
        order = np.argsort(weights)
        assert np.any(np.diff(weights) < 0)
        np.testing.assert_array_equal(weights[order], sample_weight[:400])
        np.testing.assert_array_equal(rows[order], x[:400])
        seen.clear()
        flow.fit(x, steps_per_epoch=5, shuffle=False, **options)
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in seen]), x[:400])
        assert len(seen) == 5
        results[dtype].append(flow.evaluate(x, sample_weight=sample_weight, verbose=0))
    np.testing.assert_allclose(results["float32"], results["float64"], rtol=1e-5)


def test_subclass_with_a_layer_built_by_its_first_call_trains(data, tmp_path):
    @keras.saving.register_keras_serializable("test_training")
    class Tilted(nvp.RealNVP):
        """Subtracts a learned tilt from the log-density. The result is not a density, but it can be trained."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.tilt = keras.layers.Dense(1)

        def call(self, inputs, training=None):
            return super().call(inputs, training=training) - self.tilt(inputs)[:, 0] ** 2

    flow = Tilted(2, num_couplings=1, hidden_units=(4,), seed=0)
    flow.adapt(data)
    flow.compile(keras.optimizers.Adam(1e-2))
    losses = flow.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and np.linalg.norm(flow.tilt.kernel) < 1e3
    assert len(flow.optimizer.variables) == 2 + 2 * len(flow.trainable_variables)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.predict(data, verbose=0), flow.predict(data, verbose=0), rtol=1e-5)
    loaded.fit(data, verbose=0)


def test_several_flows_cause_no_retracing_warning(data, caplog):
    """TensorFlow warns if functions with the same code are traced often."""
    for _ in range(6):
        flow = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2)))
        flow.log_prob(data), flow.sample(2), flow.sample_and_log_prob(2), flow.predict(data[:9], verbose=0)
        flow.compile("adam")
        flow.fit(data[:64], verbose=0)
        flow.evaluate(data[:64], verbose=0)
    assert "retracing" not in caplog.text
