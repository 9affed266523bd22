"""Plain Keras `fit`, `evaluate` and `predict` on every kind of data."""

import concurrent.futures
import threading

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from conftest import correlated_data


def small_flow(**options):
    flow = nvp.RealNVP(2, **{"num_couplings": 2, "hidden_units": (8,), "seed": 0} | options)
    flow.compile(keras.optimizers.SGD(0.01))
    return flow


def weights(flow):
    return np.concatenate([np.ravel(weight) for weight in flow.get_weights()])


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


def test_the_loss_is_the_mean_negative_log_likelihood(flow, data):
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
    for source in sources if (steps_per_execution, jit_compile) == (4, False) else sources[:2]:
        flow = small_flow()
        flow.adapt(x)
        flow.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile, steps_per_execution=steps_per_execution)
        options = {"epochs": 2, "verbose": 0}
        if source.startswith("dataset"):
            parts = x if source == "dataset" else (x, x, ones)
            flow.fit(tf.data.Dataset.from_tensor_slices(parts).batch(50), **options)
        else:
            sample_weight = ones if source == "weights" else None
            inputs = {"x": x} if source == "dictionary" else x
            flow.fit(inputs, batch_size=50, shuffle=False, sample_weight=sample_weight, **options)
        results.append(weights(flow))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-6)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "schedule, clipping": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 5), clipnorm=0.1),
    "adamw, averaging": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_adam_is_keras_adam(data, kind):
    """The fused update against Keras's own, applied by hand."""
    x = tf.constant(data[:64])
    fused, own = small_flow(dtype="float64"), small_flow(dtype="float64")  # Adam blows rounding errors up
    optimizer = OPTIMIZERS[kind]()
    for flow in (fused, own):
        flow.adapt(x)
    fused.compile(optimizer)
    assert fused.optimizer is optimizer
    fused.fit(x, batch_size=64, epochs=6, shuffle=False, verbose=0)

    plain = OPTIMIZERS[kind]()
    # The optimizer stays the one that any other process can load.
    assert keras.saving.serialize_keras_object(optimizer)["config"] == plain.get_config() | {"name": optimizer.name}
    assert type(optimizer) is type(plain)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(own(x, training=True))
        plain.apply_gradients(zip(tape.gradient(loss, own.trainable_weights), own.trainable_weights, strict=True))

    plain.build(own.trainable_variables)
    for _ in range(6):
        step()
    plain.finalize_variable_values(own.trainable_weights)
    np.testing.assert_allclose(weights(fused), weights(own), rtol=1e-6, atol=1e-9)
    for one, other in zip(optimizer.variables, plain.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("betas", "tolerance"), [((0.9, 0.999), 2e-5), ((0.9, 0.99999), 1e-6), ((0.99999, 0.99), 2e-6)]
)
def test_adam_is_keras_adam_for_betas_that_float32_rounds(betas, tolerance):
    def steps(compiled):
        model = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0, 0.0]), tf.ones(3)))
        optimizer = keras.optimizers.Adam(0.01, *betas)
        if compiled:
            model.compile(optimizer)
        optimizer.build(model.trainable_variables)
        for gradient in np.random.default_rng(0).normal(size=(30, 3)).astype("float32"):
            optimizer.apply([tf.constant(gradient)], model.trainable_variables)
        return [variable.numpy() for variable in (*model.trainable_variables, *optimizer.variables)]

    for one, other in zip(steps(compiled=True), steps(compiled=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance)


class Recorder(keras.callbacks.Callback):
    """Scores within `fit`, as users' callbacks do, by other numbers of steps than `fit` itself."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.epoch_ends = batches, []

    def on_epoch_end(self, epoch, logs=None):
        self.model.predict(self.batches, steps=1, verbose=0)
        self.model.evaluate(self.batches, steps=7, verbose=0)
        self.epoch_ends.append(int(self.model.optimizer.iterations))


@pytest.mark.parametrize("steps_per_execution", [None, 1, 5])
def test_as_many_steps_as_asked_for(data, steps_per_execution, tmp_path):
    flow = small_flow()
    flow.adapt(data)
    flow.compile("adam", steps_per_execution=steps_per_execution)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    for model in (flow, loaded) if steps_per_execution is None else (loaded,):
        batches = tf.data.Dataset.from_tensor_slices(data).batch(8).repeat()
        recorder = Recorder(batches)
        options = {"validation_data": batches, "validation_steps": 10, "callbacks": [recorder], "verbose": 0}
        history = model.fit(batches, steps_per_epoch=5, **options).history
        assert recorder.epoch_ends == [5]
        assert history["val_loss"][0] == pytest.approx(-np.mean(model.log_prob(data[:80])), rel=1e-5)
        model.fit(batches, epochs=2, steps_per_epoch=40, **options)
        assert recorder.epoch_ends == [5, 45, 85]
        model.fit(data[:100], epochs=2, callbacks=[recorder], batch_size=30, verbose=0)  # 4 batches
        assert recorder.epoch_ends == [5, 45, 85, 89, 93]
        if steps_per_execution != 5:  # Keras rounds up to whole executions.
            assert model.predict(batches, steps=3, verbose=0).shape == (24,)
            expected = -np.mean(model.log_prob(data[:56]))
            assert model.evaluate(batches, steps=7, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_compile_without_an_optimizer(data, tmp_path):
    flow = small_flow()
    flow.compile(None)
    flow.save(tmp_path / "flow.keras")
    for model in (flow, keras.models.load_model(tmp_path / "flow.keras")):
        assert model.evaluate(data, verbose=0) == pytest.approx(-np.mean(flow.log_prob(data)), rel=1e-5)
    with pytest.raises(ValueError, match="optimizer must be given"):
        flow.fit(data)


def test_what_callbacks_evaluate_is_traced_once(data):
    traces = []

    class Counting(nvp.RealNVP):
        def test_step(self, data):
            traces.append(data)
            return super().test_step(data)

    flow = Counting(2, num_couplings=2, hidden_units=(8,), seed=0)
    flow.compile("adam")
    batches = tf.data.Dataset.from_tensor_slices(data).batch(8).repeat()
    options = {"validation_data": batches, "validation_steps": 10, "callbacks": [Recorder(batches)], "verbose": 0}
    flow.fit(batches, epochs=4, steps_per_epoch=5, **options)
    assert len(traces) <= 4  # twice, and as often with the number of rows left open


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


def test_datasets_of_unknown_shape(data):
    flow = small_flow()
    flow.adapt(data)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(256)
    unknown = batches.map(lambda x: tf.numpy_function(lambda x: x, [x], tf.float64))
    assert unknown.element_spec.shape.rank is None
    assert flow.evaluate(unknown, verbose=0) == pytest.approx(flow.evaluate(batches, verbose=0), rel=1e-6)


def test_sample_weights_are_keras_weights():
    """A weight of 2 counts as having the row twice; Keras divides by the number of rows."""
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


def test_conditional_datasets(conditional_flow, conditional_data):
    dataset = tf.data.Dataset.from_tensor_slices(conditional_data).batch(100)
    expected = -np.mean(conditional_flow.log_prob(**conditional_data))
    assert conditional_flow.evaluate(dataset, verbose=0) == pytest.approx(expected, rel=1e-6)
    assert conditional_flow.evaluate(conditional_data, verbose=0) == pytest.approx(expected, rel=1e-6)
    fresh = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), context_shape=2, dtype="float64")
    fresh.adapt(dataset)
    for name in ("_shift", "_scale", "_context_shift", "_context_scale"):
        np.testing.assert_allclose(getattr(fresh, name), getattr(conditional_flow, name), rtol=1e-12)


def test_float64_data_lose_nothing_in_a_float64_flow(conditional_flow, conditional_data):
    offset = {"x": conditional_data["x"] + 1e-10, "context": conditional_data["context"]}
    one, other = (conditional_flow.predict(data, verbose=0) for data in (conditional_data, offset))
    assert one.dtype == np.float64 and np.all(one != other)
    assert keras.config.floatx() == "float32"


def test_callbacks_see_what_keras_shows(data, tmp_path):
    flow = small_flow()
    flow.adapt(data)
    callbacks = [
        keras.callbacks.EarlyStopping(patience=1, min_delta=100.0, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = flow.fit(data, epochs=10, validation_split=0.2, callbacks=callbacks, verbose=0).history
    assert len(history["val_loss"]) == 2
    best = keras.models.load_model(tmp_path / "best.keras")
    assert best.evaluate(data[-409:], verbose=0) == pytest.approx(min(history["val_loss"]), rel=1e-3)


def test_validation_data_of_every_form(data):
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


def test_adapt_standardises_the_context_too(conditional_flow, conditional_data):
    context = conditional_data["context"]
    (seen, *_) = [part.context for part in conditional_flow.bijector(context).bijectors if hasattr(part, "conditioner")]
    np.testing.assert_allclose(seen, (context - context.mean(axis=0)) / context.std(axis=0), rtol=1e-9)


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


def test_no_epochs_train_nothing(flow, data):
    before = flow.get_weights()
    assert flow.fit(data, epochs=0, verbose=0).history == {}
    for weight, other in zip(flow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)


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


def test_threads_that_predict_leave_keras_as_it_was(flow, data, conditional_flow, conditional_data):
    """The dtype to which Keras casts arrays is one for the whole process, and no thread loses digits by another's."""
    uses = [(flow, data[:500]), (conditional_flow, conditional_data)]  # in float32 and float64
    expected = [model.predict(x, verbose=0) for model, x in uses]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda index: uses[index % 2][0].predict(uses[index % 2][1], verbose=0), range(60)))
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[index % 2])
    assert keras.config.floatx() == "float32"
    assert flow.steps_per_execution == conditional_flow.steps_per_execution == 1


HANG = 1800  # seconds: far beyond what any of it takes


def in_a_thread(function, *arguments, **options):
    """What the function returns; the test fails where it never does."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    thread.join(HANG)
    assert results, "the thread waits for something, or has failed"
    return results[0]


@pytest.mark.parametrize("kind", ["generator", "PyDataset"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_may_come_from_flows_while_they_are_fitted(data, conditional_flow, conditional_data, kind, dtype):
    """Keras asks for the next batch in a thread of its own, while `fit` waits for it."""
    flow, seen = small_flow(dtype=dtype), []

    def batch(index):
        x = data[8 * index : 8 * (index + 1)]
        seen.append(flow.predict(x, verbose=0).dtype)
        flow.evaluate(x, verbose=0)
        conditional_flow.predict({name: value[:8] for name, value in conditional_data.items()}, verbose=0)
        return (x,)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return batch(index)

    batches = Batches() if kind == "PyDataset" else (batch(index) for index in range(6))
    history = in_a_thread(flow.fit, batches, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert set(seen) == {np.dtype(dtype)} and int(flow.optimizer.iterations) == 6


def test_other_threads_do_not_wait_for_fit(data):
    flow, results = small_flow(dtype="float64"), []
    expected = flow.predict(data, verbose=0)

    class Predicts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            results.extend([in_a_thread(flow.predict, data, verbose=0), keras.config.floatx()])

    flow.fit(data[:64], callbacks=[Predicts()], verbose=0)
    np.testing.assert_array_equal(results[0], expected)
    assert results[1] == "float32"


def test_float64_arrays_go_the_way_of_keras(data):
    """The batches of `fit` and `evaluate`, split, shuffled and weighted, in a float64 flow as in a float32 one."""
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
        assert rows.dtype == dtype and weights.dtype == dtype
        order = np.argsort(weights)
        assert np.any(np.diff(weights) < 0)
        np.testing.assert_array_equal(weights[order], sample_weight[:400].astype(dtype))
        np.testing.assert_array_equal(rows[order], x[:400].astype(dtype))
        seen.clear()
        flow.fit(x, steps_per_epoch=5, shuffle=False, **options)
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in seen]), x[:400].astype(dtype))
        assert len(seen) == 5
        results[dtype].append(flow.evaluate(x, sample_weight=sample_weight, verbose=0))
    np.testing.assert_allclose(results["float32"], results["float64"], rtol=1e-5)


@pytest.mark.parametrize("name", ["on_train_batch_begin", "on_batch_end", "on_test_batch_end"])
def test_callbacks_of_batches_are_told_of_every_batch(data, name):
    flow, told = small_flow(), []
    callback = type("Told", (keras.callbacks.Callback,), {name: lambda self, batch, logs=None: told.append(batch)})()
    flow.fit(data[:48], batch_size=8, validation_data=data[:24], callbacks=[callback], verbose=0)
    assert told == list(range(3 if "test" in name else 6))
    flow.evaluate(data[:40], batch_size=8, callbacks=[callback], verbose=0)
    assert told == ([0, 1, 2, 0, 1, 2, 3, 4] if "test" in name else list(range(6)))


def test_keras_callbacks_that_count_batches(data, tmp_path):
    flow, x = small_flow(), data[:48]
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.weights.h5", save_freq=2, save_weights_only=True)
    flow.fit(x, batch_size=8, callbacks=[checkpoint], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.weights.h5", "4.weights.h5", "6.weights.h5"]


def test_callbacks_of_epochs_leave_several_steps_to_an_execution(data, tmp_path):
    """A callback of the list that every `fit` has, Keras's own and those of users that have no method for batches."""
    flow, told = small_flow(), []

    class Steps(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            told.append(self.model.steps_per_execution)

    harmless = [
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        keras.callbacks.ModelCheckpoint(tmp_path / "flow.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(),
        Steps(),
    ]
    flow.fit(data[:64], callbacks=harmless, validation_split=0.1, verbose=0)
    of_batches = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    flow.fit(data[:64], callbacks=[of_batches, Steps()], verbose=0)
    # What the user has asked for wins.
    flow.compile("adam", steps_per_execution=4)
    flow.fit(data[:64], callbacks=[of_batches, Steps()], verbose=0)
    several = 32 if hasattr(flow, "unrolled_steps_per_execution") else 1
    assert told == [several, 1, 4 if several > 1 else 1]


def test_a_subclass_with_a_layer_that_its_first_call_builds(data, tmp_path):
    @keras.saving.register_keras_serializable("test_training")
    class Tilted(nvp.RealNVP):
        """A density times a learned tilt, which is no density: what matters is that it trains."""

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


def test_several_flows_in_one_process_make_no_warning(data, caplog):
    """TensorFlow counts how often functions of the same code are traced."""
    for _ in range(6):
        flow = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2)))
        flow.log_prob(data), flow.sample(2), flow.sample_and_log_prob(2), flow.predict(data[:9], verbose=0)
        flow.compile("adam")
        flow.fit(data[:64], verbose=0)
        flow.evaluate(data[:64], verbose=0)
    assert "retracing" not in caplog.text
