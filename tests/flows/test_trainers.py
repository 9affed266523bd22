"""Every trainer trains every kind of conditioner, and contexts that are variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.conditioners import POINTS, Module, functional, in_mode, of_every_conditioner, train_by_tape
from helpers.formula import (
    DATA,
    SEED,
    X,
    assert_all_moved,
    latent_and_log_det,
    log_normal,
    make_flow,
)
from registry import perturbed


@pytest.mark.parametrize("kind", ["variable", "transformed variable"])
def test_variable_context_trains_and_is_saved(kind, tmp_path):
    start = np.array([0.5, 1.0])
    context = tf.Variable(start) if kind == "variable" else tfp.util.TransformedVariable(start, tfb.Softplus())
    mlp = nvp.MLP(1, (8,), seed=0, dtype="float64")
    coupling = perturbed(nvp.AffineCoupling(mlp, nvp.masks.half(2), context))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    flow = nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain([coupling])))
    z, log_det = latent_and_log_det([coupling], X[:, :2], np.broadcast_to(np.asarray(context), (6, 2)))
    np.testing.assert_allclose(flow.log_prob(X[:, :2]), log_normal(z) + log_det, rtol=1e-9)
    assert len(flow.trainable_variables) == len(mlp.trainable_variables) + 1
    before = np.asarray(context)
    flow.compile(keras.optimizers.Adam(0.01))
    flow.fit(DATA[:, :2], verbose=0)
    assert np.all(np.abs(np.asarray(context) - before) > 1e-3)
    z, log_det = latent_and_log_det([coupling], X[:, :2], np.broadcast_to(np.asarray(context), (6, 2)))
    np.testing.assert_allclose(flow.log_prob(X[:, :2]), log_normal(z) + log_det, rtol=1e-9)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(X[:, :2]), flow.log_prob(X[:, :2]))
    assert len(loaded.trainable_variables) == len(flow.trainable_variables)


def test_variable_contexts_that_cannot_train_are_refused():
    mlp = nvp.MLP(1, (8,), seed=0)
    with pytest.raises(ValueError, match=r"context must not be a keras\.Variable"):
        nvp.AffineCoupling(mlp, nvp.masks.half(2), keras.Variable([0.0, 0.0]))
    for variable in (tf.Variable([0.5, 0.5]), tfp.util.TransformedVariable([0.5, 0.5], tfb.Softplus())):
        coupling = nvp.AffineCoupling(mlp, nvp.masks.half(2), variable)
        distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), coupling)
        with pytest.raises(ValueError, match=r"context of affine_coupling is a variable.* tf\.zeros\(\[2\]\)"):
            nvp.Flow(distribution, context_shape=2)


def test_surrogate_posterior_with_stopped_gradients():
    options = {"coupling": "spline", "permutation": "lu", "normalization": "actnorm"}
    surrogate, twin = (make_flow(seed=18, **options).distribution() for _ in range(2))
    stopped = tf.nest.map_structure(tf.stop_gradient, surrogate, expand_composites=True)
    target = tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64))

    def gradients(target, stopped, estimator, importance_samples):
        with tf.GradientTape() as tape:
            loss = tfp.vi.monte_carlo_variational_loss(
                target.log_prob,
                surrogate,
                sample_size=10,
                importance_sample_size=importance_samples,
                gradient_estimator=estimator,
                stopped_surrogate_posterior=stopped,
                seed=SEED,
            )
        gradients = tape.gradient(loss, surrogate.trainable_variables)
        return np.concatenate([np.ravel(gradient) for gradient in gradients])

    doubly = tfp.vi.GradientEstimators.DOUBLY_REPARAMETERIZED
    actual, expected = (gradients(target, other, doubly, 5) for other in (stopped, twin))
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)
    assert np.linalg.norm(actual) > 0.1
    # At the optimum, the gradient of every single sample is 0 ("sticking the landing").
    with tf.GradientTape() as tape:
        x = surrogate.sample(5, seed=SEED)
        divergence = tf.reduce_mean(stopped.log_prob(x) - twin.log_prob(x))
    landed = tape.gradient(divergence, surrogate.trainable_variables)
    assert max(np.max(np.abs(gradient)) for gradient in landed) < 1e-10


def test_only_keras_3_networks_can_be_copied_with_other_tensors():
    for conditioner in (functional(tf_keras), Module()):
        coupling = nvp.AffineCoupling(conditioner, nvp.masks.half(2))
        for replace in (tf.stop_gradient, lambda value: tf.Variable(tf.zeros_like(value))):
            with pytest.raises(ValueError, match="not a variable of a Keras 3 layer"):
                tf.nest.map_structure(replace, coupling, expand_composites=True)
        actual = tf.function(lambda bijector, x: bijector.forward(x))(coupling, POINTS[:3])
        np.testing.assert_allclose(actual, coupling.forward(POINTS[:3]), rtol=1e-5)


TARGET = tfd.MultivariateNormalDiag([2.0, 3.0])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("trainer", ["fit", "minimize", "tape", "vi"])
def test_every_trainer_trains_every_conditioner(trainer, mode):
    user_distribution = of_every_conditioner()
    model = nvp.Flow(user_distribution)
    distribution = model.distribution()
    variables = user_distribution.trainable_variables
    assert len(variables) == 6 + 6 + 2 + 1

    def nll():
        return -tf.reduce_mean(distribution.log_prob(POINTS))

    def divergence():
        return tfp.vi.monte_carlo_variational_loss(TARGET.log_prob, distribution, sample_size=200, seed=SEED)

    loss = divergence if trainer == "vi" else nll  # runs eagerly, without tracing
    before, start = [variable.numpy() for variable in variables], loss()
    optimizer = tf_keras.optimizers.legacy.Adam(1e-2)
    compiled = {"jit_compile": True} if mode == "xla" else {}
    if trainer == "fit":
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=mode == "eager", jit_compile=mode == "xla")
        model.fit(POINTS, epochs=2, batch_size=32, verbose=0)
    elif trainer == "minimize":
        in_mode(lambda: tfp.math.minimize(nll, 10, optimizer, **compiled), "graph" if mode == "graph" else "eager")()
    elif trainer == "tape":
        train_by_tape(nll, variables, mode)
    else:
        in_mode(
            lambda: tfp.vi.fit_surrogate_posterior(
                TARGET.log_prob, distribution, optimizer, 10, sample_size=20, seed=SEED, **compiled
            ),
            "graph" if mode == "graph" else "eager",
        )()
    assert_all_moved(variables, before)
    assert loss() < start - 0.01
