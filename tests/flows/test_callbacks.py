"""Callbacks of `fit`, and the number of steps per execution."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.flows import Recorder, small_flow
from tfp_realnvp.flows.callbacks import ProgressBar, needs_every_batch

pytestmark = pytest.mark.default_steps


@pytest.mark.parametrize("steps_per_execution", [None, 1, 5])
def test_numbers_of_steps_are_exact(data, steps_per_execution, tmp_path):
    flow = small_flow()
    flow.adapt(data)
    flow.compile("adam", steps_per_execution=steps_per_execution)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    for model in (flow,) if steps_per_execution == 1 else (loaded,):
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
        if steps_per_execution != 5:  # Keras rounds `steps` up to whole executions.
            assert model.predict(batches, steps=3, verbose=0).shape == (24,)
            expected = -np.mean(model.log_prob(data[:56]))
            assert model.evaluate(batches, steps=7, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_evaluate_in_callbacks_does_not_retrace(data):
    traces = []

    class CountingFlow(nvp.RealNVP):
        def test_step(self, data):
            traces.append(data)
            return super().test_step(data)

    flow = CountingFlow(2, num_couplings=2, hidden_units=(8,), seed=0)
    flow.compile("adam")
    batches = tf.data.Dataset.from_tensor_slices(data).batch(8).repeat()
    options = {"validation_data": batches, "validation_steps": 10, "callbacks": [Recorder(batches)], "verbose": 0}
    flow.fit(batches, epochs=4, steps_per_epoch=5, **options)
    assert len(traces) <= 4  # twice, and twice more for an unknown number of rows


def test_keras_callbacks_stop_training_and_save_the_best_flow(data, tmp_path):
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


@pytest.mark.parametrize("name", ["on_train_batch_begin", "on_batch_end", "on_test_batch_end"])
def test_batch_callbacks_are_called_for_every_batch(data, name):
    flow, seen = small_flow(), []
    callback = type(
        "BatchRecorder", (keras.callbacks.Callback,), {name: lambda self, batch, logs=None: seen.append(batch)}
    )()
    flow.fit(data[:48], batch_size=8, validation_data=data[:24], callbacks=[callback], verbose=0)
    assert seen == list(range(3 if "test" in name else 6))
    flow.evaluate(data[:40], batch_size=8, callbacks=[callback], verbose=0)
    assert seen == ([0, 1, 2, 0, 1, 2, 3, 4] if "test" in name else list(range(6)))


def test_model_checkpoint_saves_every_two_batches(data, tmp_path):
    flow, x = small_flow(), data[:48]
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.weights.h5", save_freq=2, save_weights_only=True)
    flow.fit(x, batch_size=8, callbacks=[checkpoint], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.weights.h5", "4.weights.h5", "6.weights.h5"]


def test_epoch_callbacks_keep_several_steps_per_execution(data, tmp_path):
    """Keras's own callbacks, and user callbacks without batch methods, do not force single steps."""
    flow, seen = small_flow(), []

    class StepsRecorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.steps_per_execution)

    epoch_callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        keras.callbacks.ModelCheckpoint(tmp_path / "flow.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(),
        StepsRecorder(),
    ]
    flow.fit(data[:64], callbacks=epoch_callbacks, validation_split=0.1, verbose=0)
    batch_callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    flow.fit(data[:64], callbacks=[batch_callback, StepsRecorder()], verbose=0)
    # An explicit steps_per_execution wins.
    flow.compile("adam", steps_per_execution=4)
    flow.fit(data[:64], callbacks=[batch_callback, StepsRecorder()], verbose=0)
    flow.compile("adam")
    flow.fit(np.tile(data, (2, 1)), callbacks=[StepsRecorder()], verbose=0)
    assert seen == [2, 1, 4, 32]  # the number of batches, if it is below 32


def test_the_progress_bar_ends_at_the_last_batch(data, capsys):
    flow = small_flow()
    flow.fit(data[:272], batch_size=4, verbose=1)  # 68 batches, in executions of 32, 32 and 4
    flow.evaluate(data[:272], batch_size=4, verbose=1)
    printed = capsys.readouterr().out
    assert not needs_every_batch([ProgressBar()], ("train", "test"))
    assert printed.count("68/68") >= 2
    assert {int(number) for number in re.findall(r"(\d+).{0,9}/68", printed)} <= {1, 32, 64, 68}
