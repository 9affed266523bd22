"""Adam in one operation a variable is the Adam of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import small_flow, weights

pytestmark = pytest.mark.usefixtures("unoptimized")

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
