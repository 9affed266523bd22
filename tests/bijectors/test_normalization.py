"""ActNorm and BatchNorm: which statistics they use, and when these change."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed, random_tensor

pytestmark = pytest.mark.default_steps

X = np.random.default_rng(0).normal([5.0, -2.0, 0.0], [3.0, 0.5, 1.0], (96, 3))


def flow_of(*bijectors):
    base = tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64))
    flow = nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain(list(bijectors))))
    flow.compile(keras.optimizers.SGD(0.0))
    return flow


def act_norm_flow():
    norm = nvp.ActNorm(3, epsilon=1e-12, dtype="float64")
    return flow_of(norm, tfb.Scale(tf.Variable(np.ones(3)))), norm


def batch_norm_flow(**options):
    norm = nvp.BatchNorm(3, dtype="float64", **options)
    return flow_of(norm, tfb.Scale(tf.Variable(np.ones(3)))), norm


def test_act_norm_takes_its_start_from_the_first_batch_only():
    flow, norm = act_norm_flow()
    flow.log_prob(X), flow.evaluate(X, verbose=0), flow.sample(5)
    np.testing.assert_array_equal(norm.inverse(X), X)
    flow.fit(X[:32], batch_size=32, verbose=0)
    latent = norm.inverse(X[:32]).numpy()
    np.testing.assert_allclose(latent.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(latent.std(axis=0), 1.0, atol=1e-9)
    flow.fit(X, batch_size=32, epochs=2, verbose=0)
    np.testing.assert_array_equal(norm.inverse(X[:32]), latent)


def test_act_norm_starts_at_scale_one_if_the_first_batch_is_constant():
    flow, norm = act_norm_flow()
    flow.fit(X[:1], verbose=0)
    np.testing.assert_array_equal(norm.inverse(X[:1]), np.zeros((1, 3)))
    assert float(norm.inverse_log_det_jacobian(X[:1], event_ndims=1)) == 0.0


def test_act_norm_trains_after_its_start():
    flow, norm = act_norm_flow()
    flow.compile(keras.optimizers.Adam(0.01))
    flow.fit(X, batch_size=32, verbose=0)
    start = X.mean(axis=0), np.log(X.std(axis=0))
    shift, log_scale = norm.forward(np.zeros(3)), np.log(norm.forward(np.ones(3)) - norm.forward(np.zeros(3)))
    assert np.all(np.abs(shift - start[0]) < 1.5) and np.all(np.abs(log_scale - start[1]) < 0.5)
    before = flow.evaluate(X, verbose=0)
    flow.fit(X, batch_size=32, epochs=20, verbose=0)
    assert flow.evaluate(X, verbose=0) < before


def test_a_saved_act_norm_does_not_start_again(tmp_path):
    flow, _ = act_norm_flow()
    flow.fit(X[:32], verbose=0)
    expected = flow.log_prob(X)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(X), expected)
    loaded.fit(10 * X, verbose=0)
    np.testing.assert_array_equal(loaded.log_prob(X), expected)


def averages(batches, momentum):
    """Yields the running averages after each batch, computed with the formula."""
    for count in range(1, len(batches) + 1):
        weights = [momentum ** (count - 1 - index) * len(batch) for index, batch in enumerate(batches[:count])]
        yield (
            np.average([batch.mean(axis=0) for batch in batches[:count]], axis=0, weights=weights),
            np.average([batch.var(axis=0) for batch in batches[:count]], axis=0, weights=weights),
        )


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.99])
def test_batch_norm_uses_its_batch_in_training_and_averages_otherwise(momentum):
    flow, norm = batch_norm_flow(momentum=momentum)
    batches = [X[:32], X[32:64], X[64:90]]
    for batch, (mean, variance) in zip(batches, averages(batches, momentum), strict=True):
        log_prob = flow(batch, training=True)
        expected = gaussian(batch.mean(axis=0), batch.var(axis=0)).log_prob(batch)
        np.testing.assert_allclose(log_prob, expected, atol=1e-10)
        np.testing.assert_allclose(flow.log_prob(X), gaussian(mean, variance).log_prob(X), atol=1e-10)
        z = norm.inverse(X)
        np.testing.assert_allclose(norm.forward(tf.identity(z)), X, atol=1e-12)


def gaussian(mean, variance):
    """The Gaussian that `BatchNorm` with these statistics turns into a standard Gaussian."""
    return tfd.MultivariateNormalDiag(mean, np.sqrt(variance + 1e-4))


def test_batch_norm_in_training_uses_its_batch_in_both_directions():
    """A user's own layer may also draw samples in training."""
    _, norm = batch_norm_flow()
    in_a_training_layer(norm.inverse, 3.0 * X)

    def both_ways(x):
        z = norm.inverse(x)
        log_det = norm.forward_log_det_jacobian(tf.identity(z), event_ndims=1)
        return z, norm.forward(tf.identity(z)), norm.inverse_log_det_jacobian(x, event_ndims=1), log_det

    z, x, inverse_log_det, log_det = in_a_training_layer(both_ways, X)
    np.testing.assert_allclose(z, (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-4), atol=1e-12)
    np.testing.assert_allclose(x, X, atol=1e-12)
    expected = np.sum(np.log(X.var(axis=0) + 1e-4)) / 2
    np.testing.assert_allclose([log_det, -inverse_log_det], [expected, expected], atol=1e-12)


def test_a_short_last_batch_counts_by_its_rows():
    flow, _ = batch_norm_flow(momentum=0.9)
    for batch in (X[:64], X[64:65]):
        flow(batch, training=True)
    *_, (mean, variance) = averages([X[:64], X[64:65]], 0.9)
    np.testing.assert_allclose(flow.log_prob(X), gaussian(mean, variance).log_prob(X), atol=1e-10)
    assert np.mean(flow.log_prob(X)) > np.mean(gaussian(X[:64].mean(axis=0), X[:64].var(axis=0)).log_prob(X)) - 0.2


def test_only_training_updates_batch_norm():
    flow, norm = batch_norm_flow()
    flow.fit(X[:64], batch_size=32, verbose=0)
    before = [variable.numpy() for variable in norm.variables]
    assert [value for value in before if value.shape == ()] == [pytest.approx(32 * 1.99)]  # two steps
    distribution = flow.distribution()
    flow.evaluate(X, verbose=0), flow.predict(X, verbose=0), flow(X), flow.log_prob(X), flow.sample_and_log_prob(5)
    distribution.log_prob(X), distribution.sample(5), norm.inverse(X), norm.forward(X)
    in_a_training_layer(flow.distribution().log_prob, X)  # A flow's distribution stays in inference mode.
    for variable, value in zip(norm.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def in_a_training_layer(call, x):
    """Returns `call(x)`, called by a Keras layer in training mode."""

    class Layer(keras.layers.Layer):
        def call(self, x, training=None):
            return call(x)

    return Layer(dtype="float64")(x, training=True)


def coupling_with_dropout():
    network = nvp.MLP(1, (8,), dropout=0.5, seed=0, dtype="float64")
    return perturbed(nvp.AffineCoupling(network, nvp.masks.half(2)))


class NormalWithDropout(tfd.Normal):
    """A user's own distribution, with a Keras layer that is random in training."""

    dropout = keras.layers.Dropout(0.5, dtype="float64")

    def _log_prob(self, x):
        return super()._log_prob(x) + self.dropout(tf.ones_like(x))


def test_log_prob_first_traced_in_a_training_layer_uses_inference_mode():
    flow = nvp.Flow(tfd.Independent(NormalWithDropout(tf.zeros(2, tf.float64), tf.ones(2, tf.float64)), 1))
    expected = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64)).log_prob(X[:, :2]) + 2.0
    np.testing.assert_allclose(in_a_training_layer(flow.log_prob, X[:, :2]), expected, rtol=1e-10)


def test_a_frozen_flow_uses_inference_mode_in_training():
    base = tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))
    flow = nvp.Flow(tfd.TransformedDistribution(base, coupling_with_dropout()))
    assert np.any(flow(X[:, :2], training=True) != flow(X[:, :2]))
    flow.trainable = False
    np.testing.assert_array_equal(flow(X[:, :2], training=True), flow(X[:, :2]))


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm_is_updated_once_in_a_users_training_layer(compiled):
    """TFP asks for the value and for the log-determinant. Together they count as one step."""
    norm = nvp.BatchNorm(3, dtype="float64")
    chain = tfb.Chain([tfb.Shift(np.ones(3)), norm])
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(3, tf.float64)), chain)
    log_prob = tf.function(distribution.log_prob) if compiled else distribution.log_prob
    actual = in_a_training_layer(log_prob, X)
    (weight,) = (variable for variable in norm.variables if variable.name.endswith("weight:0"))
    assert weight.numpy() == len(X)
    (mean, variance), *_ = averages([X - 1.0], 0.99)
    np.testing.assert_allclose(actual, gaussian(mean, variance).log_prob(X - 1.0), atol=1e-10)


@pytest.mark.parametrize("options", [{"jit_compile": True, "steps_per_execution": 3}, {"run_eagerly": True}])
def test_statistics_with_xla_and_in_eager_mode(options):
    flow, batch_norm = batch_norm_flow()
    *_, (mean, variance) = averages([X[:32], X[32:64], X[64:]], 0.99)
    flow.compile(keras.optimizers.SGD(0.0), **options)
    flow.fit(X, batch_size=32, shuffle=False, verbose=0)
    np.testing.assert_allclose(batch_norm.forward(np.zeros(3)), mean, atol=1e-12)
    np.testing.assert_allclose(flow.log_prob(X), gaussian(mean, variance).log_prob(X), atol=1e-10)


def test_gradients_flow_through_the_moments_of_the_batch():
    """Compares the gradient with differences of the loss. Changed events also change the statistics."""

    def loss(x):
        flow, _ = batch_norm_flow()
        return tf.reduce_mean(flow(x, training=True) * np.linspace(1.0, 2.0, 8))

    x = tf.constant(X[:8])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    gradient = tape.gradient(value, x)
    for index in ((0, 0), (3, 1), (7, 2)):
        step = np.zeros((8, 3))
        step[index] = 1e-5
        difference = (loss(x + step) - loss(x - step)) / 2e-5
        assert float(gradient[index]) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.parametrize("kind", [nvp.ActNorm, nvp.BatchNorm])
def test_training_statistics_are_over_rows_and_positions(kind):
    norm = kind(2, event_ndims=3, epsilon=1e-12, dtype="float64")
    x = random_tensor((6, 3, 4, 2), "float64", seed=3) * [2.0, 0.1] + [0.0, 5.0]
    base = tfd.Independent(tfd.Normal(tf.zeros([3, 4, 2], tf.float64), 1.0), 3)
    flow = nvp.Flow(tfd.TransformedDistribution(base, tfb.Chain([norm, tfb.Scale(tf.Variable(np.float64(1.0)))])))
    log_prob = flow(x, training=True)
    z = norm.inverse(x).numpy()
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1.0, atol=1e-9)
    expected = base.log_prob(z) - 12 * np.sum(np.log(np.std(x, axis=(0, 1, 2))))
    np.testing.assert_allclose(log_prob, expected, atol=1e-8)


@pytest.mark.parametrize("kind", [nvp.ActNorm, nvp.BatchNorm])
def test_positions_of_an_image_share_statistics(kind):
    norm = kind(2, event_ndims=3, dtype="float64")
    for index, variable in enumerate(variable for variable in norm.variables if variable.shape == (2,)):
        variable.assign(tf.exp(random_tensor((2,), "float64", seed=index)))
    x = random_tensor((3, 2, 2, 2), "float64", seed=5)
    flat = tf.reshape(x, [3, 8])
    with tf.GradientTape() as tape:
        tape.watch(flat)
        y = tf.reshape(norm.forward(tf.reshape(flat, x.shape)), [3, 8])
    expected = np.linalg.slogdet(tape.batch_jacobian(y, flat))[1]
    actual = np.broadcast_to(norm.forward_log_det_jacobian(x, event_ndims=3), 3)
    np.testing.assert_allclose(actual, expected, atol=1e-12)
    np.testing.assert_allclose(norm.inverse(tf.reshape(y, x.shape)), x, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nvp.ActNorm(0), "size must be an integer of at least 1, got 0"),
        (lambda: nvp.BatchNorm(2, event_ndims=0), "event_ndims must be an integer of at least 1, got 0"),
        (lambda: nvp.ActNorm(2, epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
        (lambda: nvp.BatchNorm(2, epsilon=np.inf), "epsilon must be above 0 and finite, got inf"),
        (lambda: nvp.BatchNorm(2, momentum=1.0), "momentum must be from 0 to below 1, got 1.0"),
        (lambda: nvp.BatchNorm(2, momentum="a"), "momentum must be from 0 to below 1, got 'a'"),
        (lambda: nvp.ActNorm(2).inverse(tf.ones([4, 3])), r"event of act_norm must have shape .* got \[4, 3\]"),
    ],
)
def test_wrong_arguments_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [nvp.ActNorm, nvp.BatchNorm])
def test_half_precision_log_dets_are_float32(kind):
    """The sum over many positions is too large for float16."""
    bijector = kind(3, event_ndims=3, dtype="float16")
    for variable in bijector.variables:
        variable.assign(tf.fill(variable.shape, tf.cast(9.0, tf.float16)))
    y = tf.ones([2, 64, 64, 3], tf.float16)
    log_det = bijector.inverse_log_det_jacobian(y, 3)
    expected = -9.0 * 64**2 * 3 if kind is nvp.ActNorm else -np.log(9.0) / 2 * 64**2 * 3
    assert log_det.dtype == tf.float32
    np.testing.assert_allclose(log_det, expected, rtol=1e-3)


COMBINATIONS = {
    "Mixture": (2, lambda one, other: tfd.Mixture(tfd.Categorical(probs=[0.4, 0.6]), [one, other])),
    "BatchReshape": (2, lambda one, other: tfd.BatchReshape(one, [])),
    "Joint": (
        4,
        lambda one, other: tfd.TransformedDistribution(
            tfd.JointDistributionSequential([one, other]), tfb.Invert(tfb.Split(2))
        ),
    ),
    "bijectors": (
        4,
        lambda one, other: tfd.TransformedDistribution(
            tfd.MultivariateNormalDiag(tf.zeros(4)),
            tfb.Blockwise([one.bijector, tfb.Invert(tfb.Invert(other.bijector))], [2, 2]),
        ),
    ),
}


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_a_flow_inside_a_flow_trains_in_training_mode(kind):
    """Losses equal those without an inner flow: ActNorm starts, BatchNorm is updated, and dropout is on."""
    size, combine = COMBINATIONS[kind]

    def assembled(seed):
        network = nvp.MLP(1, (8,), dropout=0.5, seed=seed)
        parts = [nvp.ActNorm(2), nvp.AffineCoupling(network, nvp.masks.half(2)), nvp.BatchNorm(2)]
        return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Chain(parts))

    x = (20.0 + 5.0 * np.random.default_rng(0).normal(size=(128, size))).astype("float32")
    losses = []
    for wrap in (lambda distribution: distribution, lambda distribution: nvp.Flow(distribution).distribution()):
        flow = nvp.Flow(combine(wrap(assembled(0)), wrap(assembled(1))))
        flow.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
        history = flow.fit(x, batch_size=64, shuffle=False, validation_data=x, verbose=0).history
        losses.append(history["loss"] + history["val_loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] < 4.0 * size
