"""Outside the range of a stock bijector, a log-density is -inf with gradient 0, and never NaN."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import random_tensor

pytestmark = pytest.mark.optimized

INSIDE = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2)).astype("float32")
OUTSIDE = np.array([[-0.5, 0.5], [0.5, 1.5], [0.0, 0.5], [2.0, -3.0]], "float32")


def coupling():
    network = nvp.MLP(1, (8,), seed=0)
    made = nvp.AffineCoupling(network, nvp.masks.half(2))
    for index, variable in enumerate(made.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float32", seed=index, stddev=0.3))
    return made


BOUNDS = {
    "sigmoid": tfb.Sigmoid,
    "chain": lambda: tfb.Chain([tfb.Scale(2.0), tfb.Sigmoid(), tfb.Shift(0.5)]),
    "blocks": lambda: tfb.Blockwise([tfb.Sigmoid(), tfb.NormalCDF()]),
    "inverse": lambda: tfb.Invert(tfb.Chain([tfb.Invert(tfb.Sigmoid())])),
}


def flow_with_bounds(bounds, **options):
    base = tfd.MultivariateNormalDiag(tf.Variable([0.3, 0.0]), [1.0, 2.0])
    return nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain([bounds, coupling()])), **options)


@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, "eager") for kind in BOUNDS), ("chain", "graph"), ("blocks", "xla")]
)
def test_density_outside_the_range_is_zero_and_has_no_gradient(kind, mode):
    scale = 2.0 if kind == "chain" else 1.0
    distribution = flow_with_bounds(BOUNDS[kind]()).distribution()
    variables = distribution.trainable_variables
    invalid = np.array([[np.nan, 0.5], [0.5, np.inf]], "float32")

    def derivatives(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            log_prob = distribution.log_prob(x)
            total = tf.reduce_sum(tf.where(tf.math.is_finite(log_prob), log_prob, 0.0))
        return [log_prob, tape.gradient(log_prob, x), *tape.gradient(total, variables)]

    if mode != "eager":
        derivatives = tf.function(derivatives, jit_compile=mode == "xla")
    inside, slopes, *gradients = derivatives(tf.constant(scale * INSIDE))
    assert np.all(np.isfinite(inside)) and np.all(np.any(slopes != 0, axis=1))
    log_prob, slopes_with_outside, *same_gradients = derivatives(tf.constant(scale * np.concatenate([INSIDE, OUTSIDE])))
    np.testing.assert_allclose(log_prob[:20], inside, rtol=1e-5)
    np.testing.assert_array_equal(log_prob[20:], -np.inf)
    np.testing.assert_allclose(slopes_with_outside[:20], slopes, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(slopes_with_outside[20:], 0.0)
    for actual, expected in zip(same_gradients, gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.all(np.isnan(distribution.log_prob(np.concatenate([INSIDE, invalid]))[20:]))


def flow_of(*parts, base=None):
    """A flow with two features that transforms its base by `parts`."""
    base = base or tfd.MultivariateNormalDiag(tf.zeros(2))
    return nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain(list(parts))))


@pytest.mark.parametrize(
    ("parts", "outside"),
    [
        ([tfb.Softsign()], 2.0),  # Outside, its inverse is finite, but its log-determinant is not.
        ([tfb.Exp(), tfb.Reciprocal()], -1.0),  # The second bijector cannot transform a latent of 0.
    ],
    ids=["log-determinant", "chain"],
)
def test_rows_outside_for_any_reason_have_density_zero(parts, outside):
    flow = flow_of(*parts)
    log_prob = flow.log_prob([[0.5, 0.5], [outside, 0.5]])
    assert np.isfinite(log_prob[0]) and np.isneginf(log_prob[1])


def test_rows_outside_the_range_do_not_change_the_gradients_of_the_base():
    concentration = tf.Variable([2.0, 3.0])
    distribution = flow_of(tfb.Exp(), base=tfd.Independent(tfd.Gamma(concentration, 1.0), 1)).distribution()
    gradients = []
    for x in ([[2.0, 3.0]], [[2.0, 3.0], [-1.0, 1.0]]):
        with tf.GradientTape() as tape:
            log_prob = distribution.log_prob(x)
            loss = tf.reduce_sum(tf.where(tf.math.is_finite(log_prob), log_prob, 0.0))
        gradients.append(tape.gradient(loss, concentration))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5)


def test_the_density_of_nan_is_nan_for_any_base():
    """TFP's own beta distribution assigns a density to NaN."""
    flow = flow_of(tfb.Shift([0.0, 0.0]), base=tfd.Independent(tfd.Beta(tf.ones(2), tf.ones(2)), 1))
    np.testing.assert_array_equal(flow.log_prob([[np.nan, 0.5], [0.3, 0.5]]), [np.nan, 0.0])


def test_a_bijector_without_a_forward_map_has_a_density():
    logarithm = tfb.Inline(
        inverse_fn=tf.math.log,
        inverse_log_det_jacobian_fn=lambda y: -tf.math.log(y),
        forward_min_event_ndims=0,
    )
    x = [[0.5, 2.0]]
    np.testing.assert_allclose(flow_of(logarithm).log_prob(x), flow_of(tfb.Exp()).log_prob(x), rtol=1e-5)


def test_evaluate_accepts_rows_within_the_range_for_their_context():
    def network(kept, context):
        return 5.0 * context + tf.zeros_like(kept), tf.zeros_like(kept)

    shifted = nvp.AffineCoupling(network, nvp.masks.half(2), context=tf.zeros([1]))
    base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]))
    distribution = tfd.TransformedDistribution(base, tfb.Chain([shifted, tfb.Exp()]))
    flow = nvp.Flow(distribution, context_shape=1)
    context = -np.ones([20, 1], "float32")
    x = flow.sample(context=context, seed=1).numpy()
    assert np.any(x < 0.0)
    flow.compile("sgd")
    assert np.isfinite(flow.evaluate({"x": x, "context": context}, verbose=0))


def test_rows_outside_the_range_have_nan_latents():
    flow = flow_with_bounds(tfb.Sigmoid())
    latents = flow.bijector().inverse(np.concatenate([INSIDE, OUTSIDE]))
    assert np.all(np.isfinite(latents[:20])) and np.all(np.isnan(latents[20:]))
    np.testing.assert_array_equal(flow.bijector().inverse_log_det_jacobian(OUTSIDE), -np.inf)


def test_nan_weights_and_parameters_give_nan_densities():
    distribution = flow_with_bounds(tfb.Sigmoid()).distribution()
    distribution.trainable_variables[0].assign(np.nan * distribution.trainable_variables[0])
    assert np.all(np.isnan(distribution.log_prob(INSIDE)))
    nan_parameter = tfb.SinhArcsinh(skewness=tf.constant(np.nan))
    assert np.all(np.isnan(flow_with_bounds(nan_parameter).log_prob(INSIDE)))


def test_a_mixture_with_a_component_of_smaller_range():
    bounded = flow_with_bounds(tfb.Sigmoid()).distribution()
    wide = tfd.MultivariateNormalDiag(tf.zeros(2))
    mixture = nvp.Flow(tfd.Mixture(tfd.Categorical(probs=[0.5, 0.5]), [bounded, wide]))
    np.testing.assert_allclose(mixture.log_prob(OUTSIDE), np.log(0.5) + wide.log_prob(OUTSIDE), rtol=1e-5)


def test_fit_and_evaluate_refuse_rows_outside_the_range():
    flow = flow_with_bounds(BOUNDS["blocks"]())
    flow.compile("adam")
    rows = np.concatenate([INSIDE, OUTSIDE])
    message = "within the range .* 4 of the 24 rows do not: 20, 21, 22, 23"
    for call in (
        lambda: flow.fit(rows, verbose=0),
        lambda: flow.evaluate(rows, verbose=0),
        lambda: flow.fit(INSIDE, validation_data=rows, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    history = flow.fit(INSIDE, validation_data=INSIDE, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"])) and history["val_loss"][0] == pytest.approx(history["loss"][0], rel=0.1)
