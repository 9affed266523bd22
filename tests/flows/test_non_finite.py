"""Training with a loss that is not finite: where `fit` stops, and which weights it restores."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from tfp_realnvp.flows import non_finite

pytestmark = pytest.mark.default_steps


@pytest.fixture(autouse=True)
def copies_every_32_batches(monkeypatch):
    monkeypatch.setattr(non_finite, "BATCHES_BETWEEN_COPIES", 32)


class NaNShift(keras.layers.Layer):
    """A conditioner whose shift is NaN for kept values above 100, whatever its weights."""

    def build(self, shape):
        self.dense = keras.layers.Dense(2)
        self.dense.build(shape)

    def call(self, kept):
        shift, log_scale = keras.ops.split(self.dense(kept), 2, axis=-1)
        return shift + keras.ops.where(kept > 100.0, np.nan, 0.0), keras.ops.tanh(log_scale)


def flow(conditioner=None, **options) -> nvp.Flow:
    coupling = nvp.AffineCoupling(conditioner or NaNShift(), mask=nvp.masks.half(2))
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), coupling))
    flow.compile(keras.optimizers.Adam(1e-2), **options)
    return flow


def rows(batches: int, bad_batch: int | None = None) -> np.ndarray:
    """Batches of 8 rows. The bad batch has one row whose loss or gradient is NaN."""
    x = np.random.default_rng(0).normal(size=(8 * batches, 2)).astype("float32")
    if bad_batch is not None:
        x[8 * bad_batch + 3] = 200.0
    return x


def weights_after_training(model: nvp.Flow, x: np.ndarray) -> list[np.ndarray]:
    """Returns the weights after training on the rows, and restores the model."""
    model.optimizer.build(model.trainable_variables)
    start = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    if len(x):
        model.fit(x, batch_size=8, shuffle=False, verbose=0)
    weights = model.get_weights()
    for variable, value in zip((*model.variables, *model.optimizer.variables), start, strict=True):
        variable.assign(value)
    return weights


@pytest.mark.parametrize(
    ("bad_batch", "lost", "options"),
    [
        (70, 6, {}),  # weights are copied before batches 0, 32 and 64; the last copy is known to be good
        (64, 32, {}),  # the last copy is not known to be good
        (0, 0, {}),
        (40, 8, {"steps_per_execution": 1}),
        (40, 5, {"steps_per_execution": 5}),  # weights are copied when an execution starts
        (40, 8, {"jit_compile": True}),
        (3, 3, {"run_eagerly": True}),
    ],
)
def test_fit_stops_at_a_nan_loss_and_restores_earlier_weights(bad_batch, lost, options):
    model = flow(**options)
    good = bad_batch - lost
    expected = weights_after_training(model, rows(good))
    with pytest.warns(RuntimeWarning, match=rf"nan in epoch 1, batch {bad_batch + 1}, .* of {lost} batch(es)? before"):
        history = model.fit(rows(80, bad_batch), batch_size=8, epochs=5, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 1
    for weight, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)
    assert int(model.optimizer.iterations) == good
    assert all(np.isfinite(variable.numpy()).all() for variable in model.optimizer.variables)
    # The next fit works as usual.
    assert np.isfinite(model.fit(rows(40), batch_size=8, verbose=0).history["loss"]).all()


def test_warning_names_the_epoch_and_user_callbacks_run():
    seen = []

    class EpochRecorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, np.isfinite(logs["loss"]), all(np.isfinite(w).all() for w in self.model.get_weights())))

    good, bad = (tf.data.Dataset.from_tensor_slices(rows(40, batch)).batch(8) for batch in (None, 20))
    with pytest.warns(RuntimeWarning, match="epoch 3, batch 21,"):
        flow().fit(
            good.concatenate(good).concatenate(bad), steps_per_epoch=40, epochs=4, callbacks=EpochRecorder(), verbose=0
        )
    assert seen == [(0, True, True), (1, True, True), (2, False, True)]


class NaNGradient(NaNShift):
    """A conditioner whose shift is 0 for kept values above 100, but has a NaN gradient."""

    def call(self, kept):
        shift, log_scale = keras.ops.split(self.dense(kept), 2, axis=-1)
        return shift * keras.ops.where(kept > 100.0, tf.sqrt(0.0 * shift), 1.0), keras.ops.tanh(log_scale)


@pytest.mark.parametrize("epochs", [1, 3])
def test_last_update_is_undone_if_it_makes_the_weights_nan(epochs):
    """The loss of the last batch is finite, and no later batch would show the NaN weights."""
    model = flow(conditioner=NaNGradient())
    expected = weights_after_training(model, rows(32))
    with pytest.warns(RuntimeWarning, match=r"the weights are not finite after epoch 1, batch 40, .* of 7 batches"):
        model.fit(rows(40, 39), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    for weight, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)


def test_batches_are_counted_across_epochs_with_an_incomplete_execution():
    """Copies are made before batches 0 and 32 of the first epoch, and before batch 32 of the second."""
    model = flow()
    epochs = iter([rows(40), rows(40, 35)])
    signature = tf.TensorSpec([8, 2], tf.float32)
    data = tf.data.Dataset.from_generator(lambda: next(epochs).reshape(40, 8, 2), output_signature=signature)
    with pytest.warns(RuntimeWarning, match="epoch 2, batch 36, .* of 3 batches before"):
        model.fit(data, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 72


def test_fit_accepts_a_keras_callback_list():
    model = flow()
    callbacks = keras.callbacks.CallbackList([], add_history=True, model=model)
    with pytest.warns(RuntimeWarning, match="epoch 1, batch 4,"):
        history = model.fit(rows(8, 3), batch_size=8, shuffle=False, callbacks=callbacks, verbose=0)
    assert history.epoch == [0] and len(callbacks.callbacks) == 1


def test_diverging_training_is_stopped():
    """The learning rate is far too large, so the weights grow until the loss overflows."""
    model = nvp.RealNVP(6, num_couplings=8, hidden_units=(16, 16), seed=0)
    model.compile(keras.optimizers.SGD(1e4))
    x = np.random.default_rng(0).normal(size=(512, 6))
    with pytest.warns(RuntimeWarning, match=r"epoch \d+, batch \d+"):
        model.fit(x, batch_size=16, epochs=20, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("name", ["images", "table"])
def test_finite_losses_pass_the_numeric_checks_of_tensorflow(name):
    if name == "images":  # only evaluated, because gradients take long
        model = nvp.ImageRealNVP((2, 2, 1), num_scales=1, num_blocks=1, num_channels=2, num_levels=4, seed=0)
        data = np.random.default_rng(0).integers(0, 4, (16, 2, 2, 1))
    else:
        model = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), coupling="spline", normalization="batchnorm", seed=0)
        data = rows(2)
    model.compile(keras.optimizers.Adam(1e-3))
    tf.debugging.enable_check_numerics()
    try:
        if name == "table":
            model.fit(data, batch_size=8, verbose=0)
        assert np.isfinite(model.evaluate(data, batch_size=8, verbose=0)).all()
    finally:
        tf.debugging.disable_check_numerics()
