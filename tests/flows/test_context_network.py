"""`context_network=`: a Keras network turns raw contexts, such as series, into the features that couplings see."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed

N = 12
X = np.random.default_rng(0).normal(size=(N, 2)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class MeanOverSet(layers.Layer):
    """Records the shapes of its inputs: once a trace in graphs, once a call in eager mode."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense, self.shapes = units, layers.Dense(units, activation="relu"), []

    def build(self, input_shape):
        self.dense.build(input_shape)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)

    def call(self, inputs):
        self.shapes.append(tuple(inputs.shape))
        return tf.reduce_mean(self.dense(inputs), axis=1)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def image_network():
    image = keras.Input((4, 4, 1))
    features = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(image))
    return keras.Model(image, layers.Dense(3)(layers.Dropout(0.5)(layers.BatchNormalization()(features))))


NETWORKS = {
    "vector": ((3,), lambda: keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(2)])),
    "series": ((6, 2), lambda: keras.Sequential([layers.Conv1D(3, 3, activation="relu"), layers.Flatten()])),
    "series of any length": ((None, 2), lambda: layers.GRU(3)),
    "set": ((None, 2), MeanOverSet),
    "image": ((4, 4, 1), image_network),
}


def contexts(shape, rows=N, length=6):
    return np.random.default_rng(1).normal(5.0, 3.0, (rows, *(size or length for size in shape))).astype("float32")


def small_flow(kind="set", **options):
    shape, network = NETWORKS[kind]
    options = {"context_shape": shape, "context_network": network(), "num_couplings": 2} | options
    return nvp.RealNVP(2, **{"hidden_units": (4,), "seed": 0} | options)


def trained(flow, context, **options):
    flow.adapt({"x": X, "context": context})
    perturbed(flow)
    flow.compile(keras.optimizers.Adam(0.01))
    flow.fit({"x": X, "context": context}, verbose=0, **{"epochs": 2, "batch_size": 4} | options)
    return flow


@pytest.fixture(params=NETWORKS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def flow(kind):
    return trained(small_flow(kind), contexts(NETWORKS[kind][0]))


@pytest.fixture(scope="module")
def context(kind):
    return contexts(NETWORKS[kind][0])


def test_the_network_sees_standardised_contexts_and_the_couplings_its_features(flow, context):
    x, y = X, np.asarray(context, np.float64)
    axes = tuple(range(y.ndim - 1))
    features = flow.context_network((y - y.mean(axes)) / y.std(axes), training=False)
    plain = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), context_shape=features.shape[-1])
    for network, trained_network in zip(plain.conditioners, flow.conditioners, strict=True):
        network.set_weights(trained_network.get_weights())
    expected = plain.log_prob((x - x.mean(axis=0)) / x.std(axis=0), features) - np.log(x.std(axis=0)).sum()
    np.testing.assert_allclose(flow.log_prob(x, context), expected, rtol=1e-4, atol=1e-4)


def test_every_way_gives_the_same_density(flow, context, tmp_path):
    expected = flow.log_prob(X, context).numpy()
    found = {
        "predict": flow.predict({"x": X, "context": context}, verbose=0),
        "call": flow({"x": X, "context": context}),
        "distribution": flow.distribution(context).log_prob(X),
        "one row": flow.log_prob(X[:1], context[0])[0],
        "shape [N, 1]": flow.log_prob(X[:, np.newaxis], context[:, np.newaxis])[:, 0],
    }
    flow.save(tmp_path / "flow.keras")
    found["loaded"] = keras.models.load_model(tmp_path / "flow.keras").log_prob(X, context)
    flow.export(tmp_path / "export")
    served = tf.saved_model.load(tmp_path / "export").signatures
    inputs = {"x": tf.constant(X), "context": tf.constant(context)}
    found["export"] = served["serving_default"](**inputs)["log_prob"]
    z = served["inverse"](**inputs)["z"]
    np.testing.assert_allclose(served["forward"](z=z, context=inputs["context"])["x"], X, rtol=1e-3, atol=1e-3)
    for way, log_prob in found.items():
        wanted = expected[0] if way == "one row" else expected
        np.testing.assert_allclose(log_prob, wanted, rtol=1e-4, atol=1e-4, err_msg=way)


def test_samples_have_the_density_of_their_context(flow, context):
    x, log_prob = flow.sample_and_log_prob((2, 3), context, seed=1)
    assert x.shape == (2, 3, N, 2) and log_prob.shape == (2, 3, N)
    np.testing.assert_allclose(flow.log_prob(x, context), log_prob, rtol=1e-3, atol=1e-3)
    assert flow.distribution(context).batch_shape == [N]
    nested = context.reshape(3, 4, *context.shape[1:])
    assert flow.distribution(nested).batch_shape == [3, 4] and flow.sample(5, nested, seed=1).shape == (5, 3, 4, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_context_that_is_not_finite_gives_nan_for_its_row_alone(flow, context, value):
    bad = context.copy()
    bad.reshape(N, -1)[3, 0] = value
    data = {"x": X, "context": bad}
    expected = np.where(np.arange(N) == 3, np.nan, flow.log_prob(X, context))
    for log_prob in (flow.log_prob(X, bad), flow.predict(data, verbose=0), flow.distribution(bad).log_prob(X)):
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.isnan(flow.sample(context=bad, seed=1))[:, 0], np.arange(N) == 3)
    with pytest.raises(ValueError, match=r'x\["context"\] has a NaN or infinity in 1 of its 12 rows: 3'):
        flow.fit(data, verbose=0)


def test_fit_trains_the_network_in_training_mode():
    context = contexts((4, 4, 1))
    flow = small_flow("image")
    flow.adapt({"x": X, "context": context})
    before = flow.context_network.get_weights()
    flow.compile(keras.optimizers.Adam(0.01))
    flow.fit({"x": X, "context": context}, epochs=2, verbose=0)
    # Kernels of the first layers change from the second step on: couplings start as the identity.
    changed = [not np.array_equal(*pair) for pair in zip(before, flow.context_network.get_weights(), strict=True)]
    assert all(changed), [weight.path for weight, is_new in zip(flow.context_network.weights, changed, strict=True)]
    data = {"x": X, "context": context}
    perturbed(flow)
    assert np.array_equal(flow(data), flow(data)) and not np.array_equal(flow(data, training=True), flow(data))
    assert np.array_equal(flow.distribution(context).log_prob(X), flow.distribution(context).log_prob(X))


def test_a_frozen_network_does_not_change():
    network = NETWORKS["image"][1]()
    network.trainable = False
    flow = small_flow("image", context_network=network)
    before = network.get_weights()
    trained(flow, contexts((4, 4, 1)))
    assert all(map(np.array_equal, before, network.get_weights()))
    assert not any("context_network" in variable.path for variable in flow.trainable_variables)
    config = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(flow))
    assert not config.context_network.trainable


@pytest.mark.usefixtures("eagerly")
def test_the_network_runs_once_for_each_context():
    flow, context = small_flow(), contexts((6, 2), rows=3)
    network = flow.context_network
    calls = {
        "log_prob": lambda: flow.log_prob(np.zeros((50, 1, 2)), context),
        "log_prob of one context": lambda: flow.log_prob(np.zeros((50, 2)), context[0]),
        "sample": lambda: flow.sample(50, context, seed=1),
        "sample_and_log_prob": lambda: flow.sample_and_log_prob((5, 10), context, seed=1),
        "distribution": lambda: flow.distribution(context).experimental_sample_and_log_prob(50, seed=1),
    }
    for name, call in calls.items():
        network.shapes.clear()
        call()
        assert network.shapes == [(1 if "one" in name else 3, 6, 2)], name


def test_new_lengths_need_no_new_trace():
    flow = small_flow()
    flow.compile(keras.optimizers.SGD(0.01))
    lengths = [contexts((length, 2), rows=2) for length in (3, 5, 9)]
    signature = {"x": tf.TensorSpec([None, 2]), "context": tf.TensorSpec([None, None, 2])}
    data = tf.data.Dataset.from_generator(
        lambda: ({"x": X[:2], "context": each} for each in lengths), output_signature=signature
    )
    flow.fit(data, verbose=0)
    flow.evaluate(data, verbose=0)
    flow.predict(data, verbose=0)
    flow.log_prob(X[:2], lengths[0])
    flow.context_network.shapes.clear()
    losses = flow.fit(data, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    found = flow.predict(data, verbose=0)
    np.testing.assert_allclose(found, np.concatenate([flow.log_prob(X[:2], each) for each in lengths]), rtol=1e-5)
    flow.evaluate(data, verbose=0)
    assert flow.context_network.shapes == []


def test_missing_values_become_channels():
    context = contexts((6, 2))
    context[:5, 2:, 0] = np.nan
    flow = small_flow(missing_context=True)
    flow.adapt({"x": X, "context": context})
    assert flow.context_network.dense.kernel.shape[0] == 4
    shift, scale = (variable.numpy() for variable in flow._contexts.variables)
    np.testing.assert_allclose(shift, np.nanmean(context, axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(scale, np.nanstd(context, axis=(0, 1)), rtol=1e-5)
    flow.compile()
    assert np.isfinite(flow.fit({"x": X, "context": context}, verbose=0).history["loss"]).all()
    perturbed(flow)
    assert np.all(np.isfinite(flow.log_prob(X, context)))
    context[3, 0, 0] = np.inf
    assert np.array_equal(np.isnan(flow.log_prob(X, context)), np.arange(N) == 3)


def test_flow_takes_a_context_network():
    couplings = [nvp.AffineCoupling(nvp.MLP(1, hidden_units=(4,)), [True, False], tf.zeros([3]))]
    base = tfd.MultivariateNormalDiag(tf.zeros(2), tf.ones(2))
    distribution = tfd.TransformedDistribution(base, tfb.Chain(couplings))
    flow = nvp.Flow(distribution, context_shape=(None, 2), context_network=MeanOverSet())
    context = contexts((6, 2))
    trained(flow, context)
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(flow))
    loaded.set_weights(flow.get_weights())
    np.testing.assert_allclose(loaded.log_prob(X, context), flow.log_prob(X, context), rtol=1e-5)
    with pytest.raises(ValueError, match=r"context_shape is \[4\], but affine_coupling\S* has a context \(3,\)"):
        nvp.Flow(distribution, context_shape=(None, 2), context_network=MeanOverSet(4))


def test_images_take_a_context_network():
    options = {"num_scales": 1, "num_blocks": 1, "num_channels": 2, "num_levels": 4, "seed": 0}
    flow = nvp.ImageRealNVP((2, 2, 1), context_shape=(None, 2), context_network=MeanOverSet(), **options)
    images = np.random.default_rng(0).integers(0, 4, (N, 2, 2, 1))
    context = contexts((6, 2))
    flow.adapt({"x": images, "context": context})
    flow.compile("adam")
    flow.fit({"x": images, "context": context}, verbose=0)
    perturbed(flow)
    assert flow.log_prob(images[:5, np.newaxis], context[:3], dequantize=2, seed=1).shape == (5, 3)
    assert flow.sample(2, context[:3]).shape == (2, 3, 2, 2, 1)


def test_ensembles_take_members_with_networks_of_their_own(tmp_path):
    context = contexts((6, 2))
    ensemble = nvp.Ensemble([small_flow(seed=seed) for seed in (1, 2)])
    trained(ensemble, context, epochs=1)
    parts = [flow.log_prob(X, context) for flow in ensemble.flows]
    expected = np.logaddexp(*parts) - np.log(2)
    np.testing.assert_allclose(ensemble.log_prob(X, context), expected, rtol=1e-4, atol=1e-4)
    assert ensemble.sample(4, context).shape == (4, N, 2) and ensemble.spread(X, context).shape == (N,)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.log_prob(X, context), expected, rtol=1e-4, atol=1e-4)
    shared = MeanOverSet()
    networks = [keras.Sequential([shared, layers.Dense(2)]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"context networks of their own, but flows\[1\] shares mean_over_set"):
        nvp.Ensemble([small_flow(context_network=network) for network in networks])


def test_for_data_takes_raw_contexts(capsys):
    context = contexts((6, 2))
    options = {"context_network": MeanOverSet(5), "hidden_units": (4,), "num_couplings": 2}
    flow = nvp.RealNVP.for_data(X, context, **options)
    assert flow.context_shape == (6, 2) and flow._contexts.features_shape == (5,)
    line = capsys.readouterr().out
    assert "of 2 features, for_data takes " in line and "noise=0.0" in line and "context_network" not in line
    options["context_network"] = MeanOverSet()
    flow = nvp.RealNVP.for_data(X, context, context_shape=(None, 2), verbose=False, **options)
    assert flow.context_shape == (None, 2) and flow.log_prob(X, context[:, :2]).shape == (N,)
    with pytest.raises(ValueError, match=r"context_shape is the number of columns of the data, got 3 too"):
        nvp.RealNVP.for_data(X, context[:, 0], context_shape=3)
    with pytest.raises(ValueError, match=r"context must .* got shape \[12, 6, 2\]; give a context_network for series"):
        nvp.RealNVP.for_data(X, context)
    with pytest.raises(ValueError, match=r"context_shape must .* got \(None, 2\); give a context_network for series"):
        nvp.RealNVP(2, context_shape=(None, 2))
    with pytest.raises(ValueError, match=r"context must have shape \[N, None, 3\], got \[12, 6, 2\]"):
        nvp.RealNVP.for_data(X, context, context_shape=(None, 3), **options)


def test_networks_with_tokens_or_padding_see_contexts_as_they_are():
    padded = np.concatenate([contexts((6, 2)), np.zeros((N, 3, 2), "float32")], axis=1)
    masking = keras.Sequential([layers.Masking(0.0), layers.LSTM(3)])
    flow = small_flow(context_network=masking)
    flow.adapt({"x": X, "context": padded})
    perturbed(flow)
    np.testing.assert_allclose(flow.log_prob(X, padded), flow.log_prob(X, padded[:, :6]), rtol=1e-5)
    tokens = np.random.default_rng(0).integers(0, 20, (N, 6))
    embedding = keras.Sequential([layers.Embedding(20, 4), layers.GlobalAveragePooling1D()])
    flow = nvp.RealNVP.for_data(X, tokens, context_network=embedding, num_couplings=1, verbose=False)
    expected = embedding.layers[0].embeddings.numpy()[tokens].mean(axis=1)
    np.testing.assert_allclose(flow._contexts.encoded(tf.constant(tokens, tf.float32)), expected, rtol=1e-5)


def test_variables_that_the_model_cannot_see_are_an_error():
    hidden = tf.Variable(np.ones((2, 3), "float32"))
    network = layers.Lambda(lambda inputs: tf.reduce_mean(inputs, axis=1) @ hidden, output_shape=(3,))
    flow = small_flow(context_network=network)
    flow.compile()
    with pytest.raises(ValueError, match="depends on variables that the model cannot see"):
        flow.fit({"x": X, "context": contexts((6, 2))}, verbose=0)


def test_batches_of_wrong_channels_are_an_error():
    data = tf.data.Dataset.from_generator(
        lambda: [{"x": X, "context": contexts((6, 3))}],
        output_signature={"x": tf.TensorSpec(None), "context": tf.TensorSpec(None)},
    )
    with pytest.raises(ValueError, match=r"must have shape \[\S+, None, 2\].*\[12,6,3\]|\[12, 6, 3\]"):
        small_flow().predict(data, verbose=0)


def test_double_precision_flows_take_networks_of_single_precision():
    flow = small_flow("series", dtype="float64")
    assert flow.log_prob(X, contexts((6, 2))).dtype == tf.float64
    x = flow.sample(3, contexts((6, 2)), seed=1)
    assert x.dtype == tf.float64 and np.all(np.isfinite(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_network": "gru"}, "context_network must be a Keras 3 layer or model, got 'gru'"),
        ({"context_shape": None}, r"context_shape must be the shape of one input of context_network, .*; got None"),
        ({"context_shape": (6, None)}, r"with a last size of at least 1; got \(6, None\)"),
        ({"context_shape": (6, 0)}, r"with a last size of at least 1; got \(6, 0\)"),
        ({"context_shape": (6, 2), "context_network": None}, r"context_shape must be one integer of at least 1, or"),
        (
            {"context_shape": (6, 2), "context_network": layers.Dense(3)},
            r"context_network must return one tensor \[N, features\] for inputs \[None, 6, 2\], got .*\(None, 6, 3\)",
        ),
        (
            {"context_shape": (6,), "context_network": layers.GRU(3)},
            r"context_network cannot take inputs \[None, 6\], the shape of contexts; series .*ndim=3",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        small_flow(**options)


@pytest.mark.parametrize("shape", [(N, 6), (N, 6, 3), (2,)])
def test_wrong_contexts(shape):
    flow, context = small_flow(), np.zeros(shape)
    for call in (flow.log_prob, lambda x, context: flow.predict({"x": x, "context": context}, verbose=0)):
        with pytest.raises(ValueError, match=r"context.* must have shape \[\S+, None, 2\], got"):
            call(X, context)
    with pytest.raises(
        ValueError, match=r"the batch shapes of context and events must broadcast, got \(5,\) and \(12,"
    ):
        flow.log_prob(X, np.zeros((5, 6, 2)))
    with pytest.raises(ValueError, match=r"a context of shape \[..., None, 2\] is missing"):
        flow.sample(3)
