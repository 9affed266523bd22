"""RealNVP: flows with each option train, save and export."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.options import OPTIONS, data_of, with_options
from registry import random_tensor

pytestmark = pytest.mark.optimized


def test_activation_is_saved(tmp_path):
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), activation="silu", seed=0)
    assert all(mlp.activation is keras.activations.silu for mlp in flow.conditioners)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert loaded.conditioners[1].activation is keras.activations.silu
    with pytest.raises(ValueError, match="sofa"):
        nvp.RealNVP(2, activation="sofa")


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("conditioner", ["mlp", "resnet"])
@pytest.mark.parametrize("layer", [keras.layers.LeakyReLU, keras.layers.PReLU])
def test_each_network_has_its_own_copy_of_an_activation_layer(layer, conditioner, tmp_path):
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4, 4), activation=layer(), conditioner=conditioner, seed=0)
    assert len({id(network.activation) for network in flow.conditioners}) == 2
    x = np.random.default_rng(0).normal(size=(8, 2))
    flow.compile("sgd")
    flow.fit(x, verbose=0)
    flow.save(tmp_path / "flow.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "flow.keras").log_prob(x), flow.log_prob(x))


@pytest.fixture(scope="module", params=OPTIONS)
def trained(request):
    keras.utils.set_random_seed(1)  # of shuffling and dropout: 64 steps are few for the averages of batch normalization
    flow = with_options(request.param)
    inputs, arguments = data_of(flow, 1024)
    flow.adapt(inputs)
    flow.compile(keras.optimizers.Adam(1e-2))
    before = -np.mean(flow.distribution(*arguments[1:]).log_prob(arguments[0]))  # runs eagerly, without tracing
    flow.fit(inputs, epochs=4, batch_size=64, verbose=0)
    return request.param, flow, inputs, arguments, before


def test_every_option_trains_and_inverts(trained):
    _, flow, _, (x, *context), before = trained
    assert -np.mean(flow.log_prob(x, *context)) < before - 0.05
    bijector = flow.bijector(*context)
    assert np.max(np.abs(bijector.forward(bijector.inverse(x)) - x)) < 1e-3
    sample, log_prob = (
        flow.sample_and_log_prob((), *context, seed=1) if context else flow.sample_and_log_prob(50, seed=1)
    )
    np.testing.assert_allclose(flow.log_prob(sample, *context), log_prob, atol=1e-3)


@pytest.mark.usefixtures("eagerly")
def test_every_option_is_saved_and_exported(trained, tmp_path):
    _, flow, _, arguments, _ = trained
    expected = flow.log_prob(*arguments)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(*arguments), expected)
    assert loaded.get_config() == flow.get_config()
    flow.save_weights(tmp_path / "flow.weights.h5")
    other = with_options(trained[0], seed=1)
    other.load_weights(tmp_path / "flow.weights.h5")
    np.testing.assert_array_equal(other.log_prob(*arguments), expected)
    flow.export(tmp_path / "export")
    served = tf.saved_model.load(tmp_path / "export").signatures
    inputs = {name: tf.constant(value) for name, value in zip(("x", "context"), arguments, strict=False)}
    for _ in range(2):
        np.testing.assert_allclose(served["serving_default"](**inputs)["log_prob"], expected, atol=2e-5)
    seed = {"num_samples": tf.constant(2), "seed": tf.constant([1, 0])}
    seed |= {name: inputs[name] for name in inputs if name == "context"}
    for _ in range(2):
        np.testing.assert_allclose(served["sample"](**seed)["x"], flow.sample(2, *arguments[1:], seed=1), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_degrees_of_freedom_start_at_ten_and_fall_for_heavy_tails(dtype):
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), base_distribution="student_t", seed=0, dtype=dtype)
    x = np.random.default_rng(0).standard_t(2.0, size=(4096, 2))
    constant = math.lgamma(5.5) - math.lgamma(5.0) - 0.5 * math.log(10 * math.pi)
    np.testing.assert_allclose(flow.log_prob(x), np.sum(constant - 5.5 * np.log1p(x**2 / 10), axis=1), rtol=1e-4)
    flow.compile(keras.optimizers.Adam(0.05))
    flow.fit(x, epochs=12, batch_size=256, verbose=0)
    degrees = flow.distribution().distribution.distribution.df
    # Of one feature, a coupling may learn the tails instead.
    assert 1.5 < np.min(degrees) < 3.0 and np.max(degrees) < 9.0, degrees


def test_dropout_is_off_outside_training(trained):
    name, flow, inputs, (x, *context), _ = trained
    if not OPTIONS[name].get("dropout"):
        return
    without = with_options(name, dropout=0.0)
    without.compile("adam")
    variables = [variable for variable in flow.variables if "seed_generator" not in variable.path]
    assert len(variables) < len(flow.variables)
    for variable, value in zip(without.variables, variables, strict=True):
        variable.assign(value)
    expected = without.log_prob(x, *context)
    for log_prob in (
        flow.log_prob(x, *context),
        flow(inputs),
        flow.predict(inputs, verbose=0),
        flow.distribution(*context).log_prob(x),
    ):
        np.testing.assert_allclose(log_prob, expected, atol=1e-4)
    assert flow.evaluate(inputs, verbose=0) == pytest.approx(without.evaluate(inputs, verbose=0), abs=1e-5)
    sample_shape = () if context else (20,)
    np.testing.assert_allclose(
        flow.sample(sample_shape, *context, seed=1), without.sample(sample_shape, *context, seed=1), atol=1e-5
    )
    assert np.max(np.abs(flow(inputs, training=True) - expected)) > 1e-3


def test_non_finite_loss_restores_the_running_averages():
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), normalization="batchnorm", dropout=0.2, seed=0)
    flow.compile(keras.optimizers.Adam(1e-3))
    x = np.random.default_rng(0).normal(size=(320, 2)).astype("float32")
    flow.fit(x, batch_size=32, verbose=0)
    good = flow.get_weights()
    x[40] = 1e30  # finite, but its density is not
    with pytest.warns(RuntimeWarning, match="batch 2"):
        flow.fit(x, batch_size=32, shuffle=False, verbose=0)
    for weight, before in zip(flow.get_weights(), good, strict=True):
        np.testing.assert_array_equal(weight, before)
    assert np.isfinite(flow.log_prob(x[:32])).all()


def test_spline_flow_of_one_feature_learns_two_peaks():
    random = np.random.default_rng(0)
    x = np.where(random.random((4096, 1)) < 0.5, -2.0, 2.0) + 0.5 * random.normal(size=(4096, 1))
    flow = nvp.RealNVP(1, num_couplings=2, coupling="spline", seed=0)
    flow.adapt(x)
    flow.compile(keras.optimizers.Adam(2e-2))
    flow.fit(x, epochs=12, batch_size=256, verbose=0)
    components = [np.exp(-0.5 * ((x - mean) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi)) for mean in (-2.0, 2.0)]
    best = -np.mean(np.log(np.mean(components, axis=0)))
    assert flow.evaluate(x, verbose=0) == pytest.approx(best, abs=0.03)


def test_nan_in_a_context_gives_nan_for_that_row(tmp_path):
    """The default settings must not use TensorFlow's fused kernel, which turns NaN into 0."""
    flow = nvp.RealNVP(2, context_shape=2, num_couplings=2, seed=0)
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float32", seed=index, stddev=0.1))
    flow.compile("adam")
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    context = np.array([[1.0, 2.0], [np.nan, 0.0], [0.5, -1.0], [0.0, -np.inf]], "float32")
    flow.export(tmp_path / "export")
    exported = tf.saved_model.load(str(tmp_path / "export")).signatures
    seed = {"num_samples": tf.constant(3), "seed": tf.constant([1, 2])}
    results = {
        "log_prob": flow.log_prob(x, context),
        "xla": tf.function(flow.log_prob, jit_compile=True)(x, context),
        "call": flow({"x": x, "context": context}),
        "predict": flow.predict({"x": x, "context": context}, verbose=0),
        "distribution": flow.distribution(context).log_prob(x),
        "latent": flow.bijector(context).inverse(x),
        "export": exported["serving_default"](x=tf.constant(x), context=tf.constant(context))["log_prob"],
        "exported latent": exported["inverse"](x=tf.constant(x), context=tf.constant(context))["z"],
        "sample": tf.transpose(flow.sample(3, context, seed=[1, 2]), [1, 0, 2]),
        "exported sample": tf.transpose(exported["sample"](context=tf.constant(context), **seed)["x"], [1, 0, 2]),
    }
    for name, values in results.items():
        values = np.reshape(values, [4, -1])
        assert np.all(np.isnan(values[[1, 3]])), name
        assert np.all(np.isfinite(values[[0, 2]])), name
    np.testing.assert_allclose(results["log_prob"][0], flow.log_prob(x[0], context[0]), rtol=1e-5)
    batches = tf.data.Dataset.from_tensors({"x": x, "context": context})
    assert np.isnan(flow.evaluate(batches, verbose=0))
