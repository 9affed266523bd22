"""Flow(distribution): a user's distribution becomes a Keras model that trains all of its variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.users import TfKerasNet, UserNet, base, everything
from registry import random_tensor
from tfp_realnvp.distributions import OnePassTransformedDistribution

X = np.random.default_rng(0).normal(size=(256, 2)).astype("float32")


def test_flow_trains_and_counts_every_variable():
    distribution = everything()
    flow = nvp.Flow(distribution)
    trainable = distribution.trainable_variables
    assert len(trainable) == 4 + (4 + 2) + 4 + 1 + 2
    assert {id(variable._value) for variable in flow.trainable_variables} == {id(variable) for variable in trainable}
    standardization = 4
    expected = sum(int(tf.size(variable)) for variable in distribution.variables) + standardization
    seeds = sum(int(np.prod(v.shape)) for v in flow.variables if "seed" in v.name)
    assert flow.count_params() in (expected, expected - seeds)
    before = [variable.numpy() for variable in trainable]
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(X, epochs=2, verbose=0)
    for variable, old in zip(trainable, before, strict=True):
        assert np.any(variable.numpy() != old), variable.name


def test_fit_applies_constraints():
    def constrained_net(kind):
        class Net(kind.Model):
            def __init__(self):
                super().__init__()
                self.out = kind.layers.Dense(2, use_bias=False, kernel_constraint=kind.constraints.MaxNorm(0.05))

            def call(self, kept):
                return tf.split(tf.tanh(self.out(kept)), 2, axis=-1)

        return Net()

    nets, half = [constrained_net(keras), constrained_net(tf_keras)], nvp.masks.half(2)
    first, second = (nvp.AffineCoupling(net, half) for net in nets)
    scale = tf.Variable([1.0, 1.0], constraint=lambda value: tf.clip_by_value(value, 0.5, tf.cast(1.1, value.dtype)))
    frozen = tf.Variable([0.0, 2.0], constraint=tf.nn.relu, trainable=False)
    shift = tf.Variable([0.6, 0.8], constraint=keras.constraints.UnitNorm(axis=0))
    chain = tfb.Chain([tfb.Shift(shift), first, tfb.Permute([1, 0]), second])
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(frozen, scale), chain))
    flow.compile(keras.optimizers.Adam(0.1), steps_per_execution=None)
    flow.fit(5 * X, epochs=2, batch_size=32, verbose=0)
    np.testing.assert_allclose(scale, [1.1, 1.1])
    np.testing.assert_array_equal(frozen, [0.0, 2.0])
    assert np.linalg.norm(shift) == pytest.approx(1, abs=1e-5)
    for net in nets:
        assert 0 < np.max(np.linalg.norm(net.get_weights()[0], axis=0)) < 0.05 + 1e-6


def test_training_mode_reaches_keras_3_and_tf_keras_layers():
    for net in (UserNet(), TfKerasNet()):
        coupling = nvp.AffineCoupling(net, nvp.masks.half(2))
        flow = nvp.Flow(tfd.TransformedDistribution(base(trainable=False), coupling))
        np.testing.assert_array_equal(flow(X), flow(X))
        np.testing.assert_array_equal(flow.log_prob(X), flow(X, training=False))
        assert np.std([flow(X, training=True)[0] for _ in range(8)]) > 0
        flow.compile("sgd")
        plain = -np.mean(flow.log_prob(X))
        assert flow.evaluate(X, verbose=0) == pytest.approx(plain, rel=1e-5)
        y_pred = flow(X, training=True)
        assert flow.compute_loss(y_pred=y_pred) > -np.mean(y_pred) + 1e-3  # the loss includes the regulariser
        if isinstance(net, TfKerasNet):
            flow.fit(X, verbose=0)
            assert np.any(net.norm.moving_mean != 0)


def test_density_equals_the_density_of_the_distribution():
    distribution = everything()
    flow = nvp.Flow(distribution)
    expected = distribution.log_prob(tf.identity(X))
    for actual in (flow.log_prob(X), flow.distribution().log_prob(X), flow(X)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert isinstance(flow.distribution(), tfd.TransformedDistribution)
    assert isinstance(flow.bijector(), tfb.Chain)
    np.testing.assert_allclose(flow.sample(5, seed=3).shape, (5, 2))


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: tfd.MixtureSameFamily(
            tfd.Categorical(tf.Variable([0.0, 1.0])), tfd.MultivariateNormalDiag(tf.Variable(X[:2]), tf.ones([2, 2]))
        ),
        lambda: tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Shift(tf.Variable([1.0, 2.0]))),
        lambda: tfd.MultivariateNormalTriL(tf.Variable([0.0, 0.0]), tf.eye(2)),
        lambda: tfb.Sigmoid()(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]))),
        # TFP does not make composite tensors of such bijectors. The network is built when it is called first.
        lambda: tfb.MaskedAutoregressiveFlow(tfb.AutoregressiveNetwork(params=2, hidden_units=[8]))(
            tfd.MultivariateNormalDiag(tf.zeros(2))
        ),
    ],
    ids=["mixture", "no chain", "no bijector", "bounded", "autoregressive"],
)
def test_flow_accepts_any_distribution_of_vectors(distribution):
    distribution = distribution()
    flow = nvp.Flow(distribution)
    x = np.clip(X, 0.1, 0.9)
    np.testing.assert_allclose(flow.log_prob(x), distribution.log_prob(x), rtol=1e-5)
    z = flow.bijector().inverse(x)
    np.testing.assert_allclose(flow.bijector().forward(tf.identity(z)), x, atol=1e-5)
    flow.compile(keras.optimizers.Adam(0.1))
    losses = flow.fit(x, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(tf.as_dtype(variable.dtype).is_floating for variable in flow.trainable_variables)  # no counters


def test_flow_accepts_scalar_and_matrix_events():
    scalar = nvp.Flow(tfd.Normal(tf.Variable(0.0), 1.0))
    np.testing.assert_allclose(scalar.log_prob([[0.0, 1.0]]), tfd.Normal(0.0, 1.0).log_prob([[0.0, 1.0]]))
    assert scalar.sample(3).shape == (3,)
    matrix = nvp.Flow(tfd.Independent(tfd.Normal(tf.Variable(tf.zeros([2, 3])), 1.0), 2))
    assert matrix.log_prob(tf.zeros([4, 5, 2, 3])).shape == (4, 5)
    assert matrix.sample(4).shape == (4, 2, 3)
    for flow, shape in ((scalar, (64,)), (matrix, (64, 2, 3))):
        x = 3.0 + 2.0 * np.random.default_rng(0).normal(size=shape)
        flow.adapt(x)
        flow.compile("adam")
        assert flow.evaluate(x, verbose=0) == pytest.approx(
            np.prod(shape[1:]) * (np.log(2 * np.pi * 4) + 1) / 2, rel=0.1
        )


@pytest.mark.parametrize("adapted", [False, True])
def test_log_prob_includes_the_log_determinant_of_adapt(adapted):
    x = 100.0 + 5.0 * X
    flow = nvp.Flow(base(trainable=False))
    expected = base(trainable=False).log_prob(x)
    if adapted:
        flow.adapt(x)
        expected = tfd.MultivariateNormalDiag(np.mean(x, 0), np.std(x, 0)).log_prob(x)
    np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-4)


def test_conditional_flow_of_user_couplings():
    net = nvp.MLP(1, (8,))
    coupling = nvp.AffineCoupling(net, nvp.masks.half(2), context=tf.zeros(3))
    flow = nvp.Flow(tfd.TransformedDistribution(base(trainable=False), coupling), context_shape=3)
    context = random_tensor((256, 3), "float32", seed=1)
    flow.compile("adam")
    flow.fit({"x": X, "context": context}, verbose=0)
    assert flow.sample(5, context=context).shape == (5, 256, 2)
    assert np.any(flow.log_prob(X, context) != flow.log_prob(X, context[::-1]))


def conditional_distributions():
    """Distributions with a conditional coupling: alone, inverted in a chain, in a block, and in the base."""
    net = nvp.MLP(1, (8,))
    coupling = nvp.AffineCoupling(net, nvp.masks.half(2), context=tf.zeros(3))
    for index, variable in enumerate(coupling.trainable_variables):
        variable.assign(random_tensor(variable.shape, "float32", seed=index))
    inside = tfd.TransformedDistribution(base(trainable=False), coupling)
    return (
        inside,
        tfd.TransformedDistribution(base(trainable=False), tfb.Chain([tfb.Permute([1, 0]), tfb.Invert(coupling)])),
        tfd.TransformedDistribution(base(trainable=False), tfb.Blockwise([tfb.Chain([coupling])], [2])),
        tfd.TransformedDistribution(inside, tfb.Shift([1.0, 2.0])),
    )


@pytest.mark.parametrize("kind", range(4), ids=["coupling", "inverse", "block", "base"])
def test_context_reaches_couplings_in_chains_blocks_and_bases(kind):
    flow = nvp.Flow(conditional_distributions()[kind], context_shape=3)
    context = random_tensor((256, 3), "float32", seed=1)
    assert np.mean(flow.log_prob(X, context) != flow.log_prob(X, context + 1.0)) > 0.9


def test_context_that_cannot_reach_a_coupling_is_an_error():
    conditional = conditional_distributions()[0]
    with pytest.raises(ValueError, match="no coupling of distribution has a context"):
        nvp.Flow(base(), context_shape=3)
    with pytest.raises(ValueError, match=r"context_shape is \[2\], but affine_coupling.* has a context \(3,\)"):
        nvp.Flow(conditional, context_shape=2)
    mixture = tfd.Mixture(tfd.Categorical(probs=[0.5, 0.5]), [conditional, base()])
    with pytest.raises(ValueError, match="has a context, but is not in the chain"):
        nvp.Flow(mixture, context_shape=3)


def test_fit_leaves_frozen_layers_unchanged():
    for net in (UserNet(dropout=0.0), TfKerasNet()):
        coupling = nvp.AffineCoupling(net, nvp.masks.half(2))
        net.trainable = False
        flow = nvp.Flow(tfd.TransformedDistribution(base(), coupling))
        assert len(flow.trainable_variables) == 2  # of the base distribution
        flow.compile(keras.optimizers.Adam(0.1))
        before = [np.array(weight) for weight in net.get_weights()]
        flow.fit(X, verbose=0)
        for weight, old in zip(net.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)


def test_log_prob_first_called_in_training_mode_is_not_random():
    flow = nvp.Flow(tfd.TransformedDistribution(base(), nvp.AffineCoupling(UserNet(), nvp.masks.half(2))))

    class Outer(keras.layers.Layer):
        def call(self, x):
            return flow.log_prob(x)

    first = Outer()(X, training=True)
    np.testing.assert_array_equal(flow.log_prob(X), first)
    np.testing.assert_allclose(flow.log_prob(X), flow.distribution().log_prob(X), rtol=1e-5, atol=1e-5)


def test_distribution_and_bijector_use_inference_mode_in_a_training_layer():
    flow = nvp.Flow(tfd.TransformedDistribution(base(), nvp.AffineCoupling(UserNet(), nvp.masks.half(2))))
    distribution, bijector = flow.distribution(), flow.bijector()

    class Outer(keras.layers.Layer):
        def call(self, x):
            z = bijector.inverse(x)
            return distribution.log_prob(x), z, bijector.forward_log_det_jacobian(z), bijector.forward(z)

    for training, inference in zip(Outer()(X, training=True), Outer()(X), strict=True):
        np.testing.assert_array_equal(training, inference)
    assert np.any(flow(X, training=True) != distribution.log_prob(X))


def test_density_sums_over_several_inverses_of_a_bijector():
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.Normal(tf.Variable(0.0), 1.0), tfb.AbsoluteValue()))
    x = np.array([0.5, 1.0, 2.0], "float32")
    for density in (flow.log_prob, flow.distribution().log_prob):
        np.testing.assert_allclose(density(x), tfd.HalfNormal(1.0).log_prob(x), rtol=1e-5)
    assert np.all(flow.sample(100, seed=1) > 0)
    stock = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), tfb.AbsoluteValue())
    np.testing.assert_allclose(OnePassTransformedDistribution(**stock.parameters).log_prob(x), stock.log_prob(x))


def test_inverted_chain_runs_its_network_once():
    runs = tf.Variable(0, trainable=False)

    def conditioner(kept):
        runs.assign_add(1)
        return tf.tanh(kept), 0.1 * kept

    coupling = nvp.AffineCoupling(conditioner, nvp.masks.half(2))
    distribution = tfd.TransformedDistribution(base(), tfb.Invert(tfb.Chain([tfb.Permute([1, 0]), coupling])))
    expected = tf.function(distribution.log_prob)(X)
    ours = nvp.Flow(distribution).distribution()
    runs.assign(0)
    np.testing.assert_allclose(ours.log_prob(X), expected, rtol=1e-5)
    assert runs == 1


def test_keras_variable_as_parameter_is_an_error():
    with pytest.raises(ValueError, match=r"loc of .* is a keras\.Variable.*tf\.Variable"):
        nvp.Flow(tfd.MultivariateNormalDiag(keras.Variable([0.0, 0.0])))


def test_error_names_a_variable_that_the_flow_cannot_see():
    net = nvp.MLP(1, (8,), name="hidden_net")
    net.build((None, 1))
    coupling = nvp.AffineCoupling(lambda kept: net(kept), nvp.masks.half(2))
    flow = nvp.Flow(tfd.TransformedDistribution(base(), coupling))
    flow.compile("adam")
    with pytest.raises(ValueError, match=r"cannot see.*would never train.*kernel.*tf.Module"):
        flow.fit(X)


@pytest.mark.parametrize("hides", ["in an activation", "in a subclass"])
def test_error_names_a_variable_that_is_hidden_from_a_real_nvp(hides):
    hidden = tf.Variable(1.0, name="slope")

    class Scaled(nvp.RealNVP):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.conditioners[0].activation = lambda x: hidden * x

    if hides == "in a subclass":
        flow = Scaled(2, num_couplings=1, hidden_units=(4,))
    else:
        flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,), activation=lambda x: hidden * x)
    flow.compile("sgd")
    with pytest.raises(ValueError, match=r"cannot see.*slope"):
        flow.fit(X)


def test_fit_refuses_a_flow_without_trainable_variables():
    flow = nvp.Flow(base(trainable=False))
    flow.compile("adam")
    assert np.isfinite(flow.evaluate(X, verbose=0))
    with pytest.raises(ValueError, match="nothing to train"):
        flow.fit(X)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (None, "must be a tfd.Distribution, got None"),
        (tfb.Exp(), "must be a tfd.Distribution"),
        (tfd.Poisson(1.0), None),
        (tfd.Categorical([0.0, 0.0]), "floating-point .*int32"),
        (tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)]), "in one part"),
        (tfd.Normal([0.0, 1.0], 1.0), r"batch shape \[\], got \(2,\)"),
    ],
)
def test_invalid_distributions_are_refused(distribution, message):
    if message is None:  # TFP's Poisson has floating-point events
        assert nvp.Flow(distribution).log_prob(1.0) == distribution.log_prob(1.0)
        return
    with pytest.raises(ValueError, match=message):
        nvp.Flow(distribution)


def test_dtype_that_differs_from_the_distribution_is_refused():
    with pytest.raises(ValueError, match="dtype must have float32 variables"):
        nvp.Flow(base(), dtype="float64")


@pytest.mark.parametrize("method", ["minimize", "tape", "vi"])
def test_other_trainers_train_every_variable(method):
    flow = nvp.Flow(everything())
    distribution = flow.distribution()
    before = [variable.numpy() for variable in distribution.trainable_variables]
    if method == "minimize":
        tfp.math.minimize(lambda: -tf.reduce_mean(distribution.log_prob(X)), 3, tf_keras.optimizers.legacy.Adam(0.01))
    elif method == "vi":
        target = tfd.MultivariateNormalDiag([1.0, 2.0])
        tfp.vi.fit_surrogate_posterior(
            target.log_prob, distribution, tf_keras.optimizers.legacy.Adam(0.01), num_steps=3, seed=1
        )
    else:
        optimizer = keras.optimizers.Adam(0.01)
        variables = distribution.trainable_variables
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(distribution.log_prob(X))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    for variable, old in zip(distribution.trainable_variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.name


def test_distribution_of_a_conditional_flow_in_another_conditional_flow(conditional_flow, conditional_data):
    """The distribution is a copy. Its `submodules` also contain the couplings of the original."""
    x, context = (conditional_data[name][:5] for name in ("x", "context"))
    bounded = tfd.TransformedDistribution(conditional_flow.distribution(context[0]), tfb.Exp())
    model = nvp.Flow(bounded, context_shape=2)
    standardised = (context - conditional_data["context"].mean(axis=0)) / conditional_data["context"].std(axis=0)
    expected = conditional_flow.log_prob(x, context) - np.sum(x, axis=-1)
    np.testing.assert_allclose(model.log_prob(np.exp(x), standardised), expected, rtol=1e-6)


def test_adapt_refuses_a_distribution_with_bounds():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2))
    unbounded = nvp.RealNVP(2, num_couplings=2, hidden_units=(8,), seed=0)
    bounded = nvp.Flow(tfd.TransformedDistribution(unbounded.distribution(), tfb.Sigmoid(-1.0, 1.0)))
    before = bounded.log_prob(x)
    with pytest.raises(ValueError, match="the distribution has bounds"):
        bounded.adapt(x)
    np.testing.assert_array_equal(bounded.log_prob(x), before)
    unbounded.adapt(2 * np.arctanh(x))
    np.testing.assert_allclose(
        bounded.log_prob(x), unbounded.log_prob(2 * np.arctanh(x)) + np.sum(np.log(2 / (1 - x**2)), axis=-1), rtol=1e-4
    )


def test_log_determinant_sums_over_extra_event_dimensions():
    """An event has five rows of two features. The log-determinants of the rows add up, even if they are constant."""
    norm, linear = nvp.ActNorm(2, dtype="float64"), nvp.LULinear(2, dtype="float64")
    for index, variable in enumerate((*norm.trainable_variables, *linear.trainable_variables)):
        variable.assign_add(random_tensor(variable.shape, "float64", seed=index, stddev=0.3))
    network = nvp.MLP(1, (4,), num_parameters=11, dtype="float64")
    coupling = nvp.SplineCoupling(network, nvp.masks.half(2), num_bins=4)
    base = tfd.Independent(tfd.Normal(np.zeros((5, 2)), np.ones((5, 2))), 2)
    distribution = tfd.TransformedDistribution(base, tfb.Chain([linear, norm, coupling]))
    x = random_tensor((3, 5, 2), "float64", seed=9)
    flow = nvp.Flow(distribution)
    np.testing.assert_allclose(flow.log_prob(x), distribution.log_prob(x), atol=1e-10)
    log_det = sum(part.inverse_log_det_jacobian(x, event_ndims=1) for part in (norm, linear))  # of each row
    np.testing.assert_allclose(flow.bijector().inverse_log_det_jacobian(x, event_ndims=2), 5 * np.ones(3) * log_det)


@pytest.mark.parametrize("normalization", ["actnorm", "batchnorm"])
def test_frozen_flow_in_a_keras_model_stays_unchanged(normalization):
    class Outer(keras.Model):
        def __init__(self, flow):
            super().__init__()
            self.flow, self.dense = flow, keras.layers.Dense(1)

        def call(self, x, training=None):
            return self.dense(x) + self.flow(x, training=training)[:, None]

    x = random_tensor((32, 2), "float32", seed=0, stddev=3.0)
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), dropout=0.5, normalization=normalization, seed=0)
    flow.trainable = False
    before = flow.get_weights()
    outer = Outer(flow)
    outer.compile("sgd", "mse")
    outer.fit(x, np.zeros((32, 1)), verbose=0)
    for weight, value in zip(flow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    np.testing.assert_allclose(flow(x, training=True), flow.log_prob(x), atol=1e-6)
