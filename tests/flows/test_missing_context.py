"""`missing_context=True`: NaN in a context means that the value was not observed."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed

NAN = np.nan
random = np.random.default_rng(0)
X = random.normal(size=(60, 2))
CONTEXT = random.normal(3.0, 2.0, (60, 2))
CONTEXT[:20, 0] = NAN
CONTEXT[10:50, 1] = NAN
DATA = {"x": X, "context": CONTEXT}


def small_flow(**options):
    options = {
        "num_couplings": 2,
        "hidden_units": (4,),
        "context_shape": 2,
        "missing_context": True,
        "seed": 0,
    } | options
    return nvp.RealNVP(2, **options)


@pytest.fixture(scope="module")
def flow():
    flow = small_flow()
    flow.adapt(DATA)
    return perturbed(flow)


@pytest.mark.parametrize("batch_size", [None, 7, 60])
def test_adapt_standardises_by_the_values_that_are_there(batch_size):
    flow = small_flow(dtype="float64")
    flow.adapt(DATA if batch_size is None else tf.data.Dataset.from_tensor_slices(DATA).batch(batch_size))
    shift, scale = flow._contexts.variables
    np.testing.assert_allclose(shift, np.nanmean(CONTEXT, axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, np.nanstd(CONTEXT, axis=0), rtol=1e-12)


def test_networks_get_zeros_and_indicators(flow):
    shift, scale = (variable.numpy() for variable in flow._contexts.variables)
    features = flow._contexts.encoded(tf.constant([[NAN, 1.0], [2.0, NAN]])).numpy()
    expected = [[0.0, (1 - shift[1]) / scale[1], 1.0, 0.0], [(2 - shift[0]) / scale[0], 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_a_missing_value_is_not_the_mean(flow):
    mean = flow._contexts.variables[0].numpy()
    assert np.all(np.abs(flow.log_prob(X, [NAN, mean[1]]) - flow.log_prob(X, mean)) > 1e-4)


def test_densities_are_equal_everywhere_and_infinity_spoils_its_row_only(flow, tmp_path):
    context = CONTEXT.astype("float32")
    context[3, 1] = np.inf
    data = {"x": tf.constant(X, tf.float32), "context": tf.constant(context)}
    log_prob = flow.log_prob(data["x"], context).numpy()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(log_prob)), [3])
    flow.export(tmp_path / "export")
    flow.save(tmp_path / "flow.keras")
    others = {
        "distribution": flow.distribution(context).log_prob(data["x"]),
        "call": flow(data),
        "predict": flow.predict(data, verbose=0),
        "export": tf.saved_model.load(tmp_path / "export").signatures["serving_default"](**data)["log_prob"],
        "file": keras.models.load_model(tmp_path / "flow.keras")(data),
        "xla": tf.function(flow.log_prob, jit_compile=True)(data["x"], data["context"]),
    }
    for name, other in others.items():
        np.testing.assert_allclose(other, log_prob, rtol=1e-4, atol=1e-4, err_msg=name)


def test_samples_of_missing_contexts(flow):
    samples, log_prob = flow.sample_and_log_prob(5, [[NAN, NAN], [1.0, NAN]], seed=0)
    assert samples.shape == (5, 2, 2)
    np.testing.assert_allclose(flow.log_prob(samples, [[NAN, NAN], [1.0, NAN]]), log_prob, rtol=1e-4, atol=1e-4)


def test_gradients_of_missing_values_are_zero(flow):
    context = tf.constant([[NAN, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(context)
        log_prob = flow.log_prob(X[:1], context)
    gradient = tape.gradient(log_prob, context).numpy()[0]
    assert gradient[0] == 0 and np.isfinite(gradient[1]) and gradient[1] != 0


def test_fit_learns_the_density_given_what_is_there():
    scale, random = 0.5, np.random.default_rng(1)
    context = random.normal(size=(8000, 1))
    x = context + scale * random.normal(size=(8000, 1))
    context[random.uniform(size=8000) < 0.5] = NAN
    flow = nvp.RealNVP(1, num_couplings=2, hidden_units=(16,), context_shape=1, missing_context=True, seed=0)
    data = {"x": x, "context": context}
    flow.adapt(data)
    flow.compile()
    flow.fit(data, validation_split=0.1, batch_size=256, epochs=20, verbose=0)
    at = np.linspace(-0.5, 1.0, 7)[:, np.newaxis]
    for value, mean, stddev in ((NAN, 0.0, np.hypot(1.0, scale)), (0.5, 0.5, scale)):
        expected = stats.norm(mean, stddev).logpdf(at[:, 0])
        np.testing.assert_allclose(flow.log_prob(at, [value]), expected, atol=0.3)


def test_nullable_columns_are_contexts():
    frame = pd.DataFrame(CONTEXT, columns=["g", "r"]).convert_dtypes()
    assert frame.dtypes["g"] == "Float64"
    flow = small_flow()
    flow.adapt({"x": X, "context": frame})
    flow.compile("adam")
    flow.fit({"x": X, "context": frame}, verbose=0)
    assert flow.context_names == ["g", "r"]
    assert np.all(np.isfinite(flow.log_prob(X, frame)))


def test_other_flows_take_missing_contexts(flow):
    context = np.array([[NAN, 1.0], [0.0, NAN]], "float32")
    ensemble = nvp.Ensemble([flow, small_flow(seed=1)])
    assert ensemble.missing_context and np.all(np.isfinite(ensemble.log_prob(X[:2], context)))
    with pytest.raises(ValueError, match="same missing_context, got True and False"):
        nvp.Ensemble([flow, small_flow(missing_context=False)])

    network = nvp.MLP(1, hidden_units=(4,), seed=0)
    coupling = nvp.AffineCoupling(network, nvp.masks.half(2), context=tf.zeros([4]))
    own = nvp.Flow(
        tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), coupling),
        context_shape=2,
        missing_context=True,
    )
    own.adapt(DATA)
    own.compile("adam")
    assert np.isfinite(own.fit(DATA, verbose=0).history["loss"][0])
    copy = nvp.Flow.from_config(own.get_config())
    copy.set_weights(own.get_weights())
    np.testing.assert_allclose(copy.log_prob(X[:2], context), own.log_prob(X[:2], context), rtol=1e-6)

    images = nvp.ImageRealNVP(
        (2, 2, 1),
        num_scales=1,
        num_blocks=1,
        num_channels=4,
        num_levels=4,
        context_shape=2,
        missing_context=True,
        seed=0,
    )
    images.adapt({"x": np.zeros((60, 2, 2, 1), int), "context": CONTEXT})
    assert np.all(np.isfinite(images.log_prob(tf.ones([2, 2, 2, 1]), context)))
    assert images.get_config()["missing_context"]


def test_for_data_takes_missing_contexts():
    options = {"num_couplings": 2, "hidden_units": (4,), "seed": 0, "verbose": False}
    flow = nvp.RealNVP.for_data(X, CONTEXT, missing_context=True, **options)
    assert np.all(np.isfinite(flow.log_prob(X, CONTEXT)))
    with pytest.raises(ValueError, match=r"context has a NaN or infinity in 50 of its 60 rows.*missing_context=True"):
        nvp.RealNVP.for_data(X, CONTEXT, **options)


def test_adapt_warns_if_a_feature_is_never_missing():
    always_there = pd.DataFrame({"g": CONTEXT[:, 0], "r": X[:, 0]})
    with pytest.warns(UserWarning, match=r'data\["context"\] has no missing value in the columns \'r\'') as found:
        small_flow().adapt({"x": X, "context": always_there})
    assert found[0].filename == __file__


def test_a_flow_without_a_context_has_no_missing_context():
    for make in (nvp.RealNVP, lambda *size, **options: nvp.RealNVP.for_data(X, **options)):
        with pytest.raises(ValueError, match="missing_context=True is for flows with a context, but"):
            make(2, missing_context=True)


def test_wrong_contexts(flow):
    plain = small_flow(missing_context=False)
    with pytest.raises(ValueError, match=r'data\["context"\] has a NaN .*; with missing_context=True, the flow takes'):
        plain.adapt(DATA)
    assert np.isnan(plain.log_prob(X[0], CONTEXT[0]))
    unseen = {"x": X, "context": pd.DataFrame({"g": CONTEXT[:, 0], "r": NAN})}
    with pytest.raises(ValueError, match=r"no value that is not missing in the columns 'r': drop"):
        small_flow().adapt(unseen)
    context = CONTEXT.copy()
    context[7, 0] = np.inf
    with pytest.raises(ValueError, match=r'data\["context"\] has an infinity in 1 of its 60 rows: 7'):
        flow.adapt({"x": X, "context": context})
    masked = np.ma.masked_invalid(CONTEXT)
    with pytest.raises(ValueError, match=r"NaN for missing values, got masked values: call filled"):
        flow.adapt({"x": X, "context": masked})
    with pytest.raises(ValueError, match="missing_context must be True or False, got 1"):
        small_flow(missing_context=1)
    with pytest.raises(ValueError, match=r'data\["x"\] has a NaN'):
        flow.adapt({"x": CONTEXT, "context": CONTEXT})
