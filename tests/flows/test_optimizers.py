"""Fused Adam (one operation per variable) computes the same updates as Keras's Adam."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import small_flow, weights
from tfp_realnvp.flows.optimizers import use_fused_adam

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "schedule, clipping": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 5), clipnorm=0.1),
    "adamw, averaging": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_fused_adam_matches_keras_adam(data, kind):
    """Compares the fused Adam of `fit` with Keras's Adam in a training loop by hand."""
    x = tf.constant(data[:64])
    fused, by_hand = small_flow(dtype="float64"), small_flow(dtype="float64")  # Adam amplifies rounding errors
    optimizer = OPTIMIZERS[kind]()
    for flow in (fused, by_hand):
        flow.adapt(x)
    fused.compile(optimizer)
    assert fused.optimizer is optimizer
    fused.fit(x, batch_size=64, epochs=6, shuffle=False, verbose=0)

    plain = OPTIMIZERS[kind]()
    # The optimizer keeps its class and configuration, so any process can load it.
    assert keras.saving.serialize_keras_object(optimizer)["config"] == plain.get_config() | {"name": optimizer.name}
    assert type(optimizer) is type(plain)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(by_hand(x, training=True))
        plain.apply_gradients(
            zip(tape.gradient(loss, by_hand.trainable_weights), by_hand.trainable_weights, strict=True)
        )

    plain.build(by_hand.trainable_variables)
    for _ in range(6):
        step()
    plain.finalize_variable_values(by_hand.trainable_weights)
    np.testing.assert_allclose(weights(fused), weights(by_hand), rtol=1e-6, atol=1e-9)
    for one, other in zip(optimizer.variables, plain.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("betas", "tolerance"), [((0.9, 0.999), 2e-5), ((0.9, 0.99999), 1e-6), ((0.99999, 0.99), 2e-6)]
)
def test_fused_adam_matches_keras_adam_for_betas_that_float32_rounds(betas, tolerance):
    def variables_after_training(compiled):
        model = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0, 0.0]), tf.ones(3)))
        optimizer = keras.optimizers.Adam(0.01, *betas)
        if compiled:
            model.compile(optimizer)
        optimizer.build(model.trainable_variables)
        for gradient in np.random.default_rng(0).normal(size=(30, 3)).astype("float32"):
            optimizer.apply([tf.constant(gradient)], model.trainable_variables)
        return [variable.numpy() for variable in (*model.trainable_variables, *optimizer.variables)]

    for one, other in zip(
        variables_after_training(compiled=True), variables_after_training(compiled=False), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=tolerance)


def test_apply_accepts_the_names_of_its_arguments_and_update_step_works_alone():
    results = []
    for fused in (False, True):
        variable = keras.Variable([1.0, 2.0])
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build([variable])
        if fused:
            use_fused_adam(optimizer)
        optimizer.apply(grads=[tf.constant([0.5, -0.5])], trainable_variables=[variable])
        optimizer.update_step(tf.constant([1.0, 1.0]), variable, 0.1)
        results.append(variable.numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)
