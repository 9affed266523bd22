"""`compile()` alone: the rate falls to zero in each `fit`, which ends with the weights of its best epoch."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from tfp_realnvp.flows import auto

pytestmark = pytest.mark.default_steps

X = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
BATCHES = [X[:16], X[16:32], X[32:48], X[48:]]
RATE = 3e-3


class Rates(keras.callbacks.Callback):
    """Records the learning rate of each batch."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


class Killed(BaseException):
    pass


def small_flow():
    keras.utils.set_random_seed(1)
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), seed=0)
    flow.compile()
    return flow


def generator():
    while True:
        yield from ((batch,) for batch in BATCHES)


def of_unknown_length():
    return tf.data.Dataset.from_generator(lambda: iter(BATCHES), output_signature=tf.TensorSpec([None, 2]))


def rates_of(flow, *arguments, **options):
    recorder = Rates()
    flow.fit(*arguments, callbacks=[recorder], verbose=0, **options)
    return recorder.rates


def cosine(parts):
    return [pytest.approx(RATE * (1 + math.cos(math.pi * part)) / 2, rel=1e-5, abs=1e-9) for part in parts]


def test_the_rate_falls_to_zero_in_each_fit():
    flow = small_flow()
    by_batch = cosine((np.arange(12) + 0.5) / 12)
    assert rates_of(flow, X, batch_size=16, epochs=3) == by_batch
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(16)
    assert rates_of(flow, dataset, epochs=3) == by_batch
    assert rates_of(flow, generator(), steps_per_epoch=4, epochs=3) == by_batch
    assert rates_of(flow, dataset, epochs=3, initial_epoch=2) == by_batch[8:]
    assert rates_of(flow, of_unknown_length(), epochs=3) == cosine(np.repeat([0.5, 1.5, 2.5], 4) / 3)


@pytest.mark.parametrize(("steps_per_execution", "parts"), [(3, [3.5, 7.5, 11.5]), (None, [2, 6, 10])])
def test_an_execution_of_several_steps_has_the_rate_of_its_middle(steps_per_execution, parts):
    flow = small_flow()
    flow.compile(steps_per_execution=steps_per_execution)
    rates = []
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: rates.append(float(flow.optimizer.learning_rate)))
    flow.fit(X, batch_size=16, epochs=3, callbacks=[end], verbose=0)
    assert rates == cosine(np.array(parts) / 12)


def test_a_callback_list_needs_no_parameters():
    flow = small_flow()
    rates_of_list = Rates()
    callbacks = keras.callbacks.CallbackList([rates_of_list], model=flow, add_history=True)
    flow.fit(X, batch_size=16, epochs=3, callbacks=callbacks, verbose=0)
    assert rates_of_list.rates == cosine((np.arange(12) + 0.5) / 12)


@pytest.mark.parametrize(
    "callback", [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate), keras.callbacks.ReduceLROnPlateau()]
)
def test_callbacks_that_set_the_rate_are_refused(callback):
    with pytest.raises(ValueError, match=f"callbacks must not contain {type(callback).__name__}, because"):
        small_flow().fit(X, callbacks=[callback], verbose=0)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("steps_per_execution", [1, 3, None])
def test_kernels_decay_by_one_factor_in_each_fit(monkeypatch, epochs, steps_per_execution):
    monkeypatch.setattr(auto, "RATE", 1e-9)  # Adam hardly changes the weights.
    monkeypatch.setattr(auto, "MAX_WEIGHT_DECAY", 1e12)
    monkeypatch.setattr(auto, "INTERVAL", 2)
    flow = small_flow()
    flow.compile(steps_per_execution=steps_per_execution)
    before = [(variable.name, variable.numpy()) for variable in flow.trainable_variables]
    assert {name for name, _ in before} == {"kernel", "bias"}
    factor = {"bias": 1.0, "kernel": math.exp(-1.0)}
    flow.fit(X, batch_size=8, epochs=epochs, verbose=0)
    for _ in range(2):  # Kernels decay in the first `fit` only.
        for variable, (name, value) in zip(flow.trainable_variables, before, strict=True):
            np.testing.assert_allclose(variable, factor[name] * value, atol=1e-6)
        flow.fit(X, batch_size=8, epochs=epochs, verbose=0)


def test_kernels_of_a_context_network_decay(monkeypatch):
    monkeypatch.setattr(auto, "RATE", 1e-9)
    monkeypatch.setattr(auto, "MAX_WEIGHT_DECAY", 1e12)
    network = keras.layers.Dense(3)
    flow = nvp.RealNVP(2, context_shape=2, context_network=network, num_couplings=1, hidden_units=(4,))
    flow.compile()
    before = network.kernel.numpy()
    flow.fit({"x": X, "context": X}, epochs=1, verbose=0)
    np.testing.assert_allclose(network.kernel, math.exp(-1.0) * before, atol=1e-6)


def test_kernels_decay_slowly_in_short_fits_and_not_in_those_of_unknown_length(monkeypatch):
    flow = small_flow()
    kernel = next(variable for variable in flow.trainable_variables if variable.name == "kernel")
    decay = auto.KernelDecay(epochs=4, num_batches=5)
    decay.set_model(flow)
    assert math.exp(-decay._total) == pytest.approx(1 - 20 * 0.5 * RATE * 10.0, rel=0.1)
    before = kernel.numpy()
    monkeypatch.setattr(auto, "RATE", 1e-9)
    flow.fit(of_unknown_length(), epochs=3, verbose=0)
    np.testing.assert_allclose(kernel, before, atol=1e-6)


@pytest.mark.parametrize("validation", ["data", "split", "every second epoch"])
def test_fit_ends_with_the_weights_of_its_best_epoch(validation):
    # The validation rows lie elsewhere, so that training on X soon makes their loss larger.
    x, far = np.concatenate([X, X + 4]), X + 4
    options = {"validation_data": far} if validation != "split" else {"validation_split": 0.5}
    if validation == "every second epoch":
        options["validation_freq"] = 2
    flow = small_flow()
    rows = x if validation == "split" else X
    losses = flow.fit(rows, batch_size=8, epochs=6, verbose=0, **options).history["val_loss"]
    assert min(losses) < losses[-1]
    assert flow.evaluate(far, batch_size=8, verbose=0) == pytest.approx(min(losses), rel=1e-6)


def test_without_validation_fit_ends_with_the_last_weights():
    flow = small_flow()
    ends = []
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(flow.get_weights()))
    flow.fit(X, epochs=3, batch_size=16, callbacks=[end], verbose=0)
    for weight, expected in zip(flow.get_weights(), ends[-1], strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("killed_at", [1, 4])
def test_killed_training_continues_with_its_rate_and_its_best_weights(tmp_path, killed_at):
    options = {"validation_data": X + 4, "batch_size": 8, "epochs": 6, "verbose": 0}
    expected = small_flow()
    losses = expected.fit(X, **options).history["val_loss"]
    assert np.argmin(losses) < 4

    def kill(epoch, logs):
        if epoch == killed_at:
            raise Killed

    kill_it = keras.callbacks.LambdaCallback(on_epoch_end=kill)
    with pytest.raises(Killed):
        small_flow().fit(X, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "b"), kill_it], **options)
    flow = small_flow()
    flow.fit(X, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "b")], **options)
    assert flow.evaluate(X + 4, batch_size=8, verbose=0) == pytest.approx(min(losses), rel=1e-6)
    for weight, other in zip(flow.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert not (tmp_path / "b").exists()


def test_best_weights_without_their_backup_do_not_count(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "b")

    def kill(epoch, logs):
        raise Killed

    kill_it = keras.callbacks.LambdaCallback(on_epoch_end=kill)
    with pytest.raises(Killed):  # before the backup of the first epoch, but after its best weights
        small_flow().fit(X, validation_data=X, verbose=0, callbacks=[kill_it, backup])
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["best.npz"]
    flow = small_flow()
    losses = flow.fit(5 * X, validation_data=5 * X, epochs=2, verbose=0, callbacks=[backup]).history["val_loss"]
    assert flow.evaluate(5 * X, verbose=0) == pytest.approx(min(losses), rel=1e-6)


def test_a_loaded_flow_trains_as_the_saved_flow(tmp_path):
    flow = small_flow()
    flow.fit(X, batch_size=16, verbose=0)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert loaded.get_compile_config() == flow.get_compile_config()
    assert rates_of(loaded, X, batch_size=16, epochs=3) == cosine((np.arange(12) + 0.5) / 12)


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.Adam(0.003)])
def test_with_other_optimizers_fit_is_that_of_keras(optimizer):
    flow = small_flow()
    flow.compile(optimizer)
    rate = float(flow.optimizer.learning_rate)
    # The training rows are closer together than the validation rows, whose loss soon grows.
    losses = flow.fit(0.05 * X, validation_data=X, batch_size=8, epochs=8, verbose=0).history["val_loss"]
    assert losses[-1] > min(losses)
    assert flow.evaluate(X, batch_size=8, verbose=0) == pytest.approx(losses[-1], rel=1e-6)
    assert float(flow.optimizer.learning_rate) == rate
