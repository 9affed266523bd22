"""Saving and loading: a loaded flow computes the same results, also in a new process."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.processes import run
from helpers.users import UserNet, everything
from registry import perturbed
from tfp_realnvp.flows.serialization import from_config, to_config

LOAD_MODELS = """
import os, sys
os.dup2(1, 2)  # send errors to standard output
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
import numpy as np, keras, tfp_realnvp
folder = sys.argv[1]
data = dict(np.load(folder + "/data.npz"))
flow = keras.models.load_model(folder + "/flow.keras")
conditional = keras.models.load_model(folder + "/conditional.keras")
np.savez(
    folder + "/loaded.npz",
    log_prob=flow.log_prob(data["x"]),
    sample=flow.sample(5, seed=3),
    evaluated=flow.evaluate(data["x"], verbose=0),
    conditional_log_prob=conditional.log_prob(data["y"], data["context"]),
    conditional_sample=conditional.sample(5, data["context"], seed=3),
)
flow.fit(data["x"], epochs=1, verbose=0)
residual = keras.models.load_model(folder + "/residual.keras")
residual.fit(data["x"], verbose=0)
residual.log_prob(data["x"])
print("trained")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, flow, data, conditional_flow, conditional_data):
    folder = tmp_path_factory.mktemp("models")
    flow.save(folder / "flow.keras")
    conditional_flow.save(folder / "conditional.keras")
    residual = nvp.RealNVP(2, num_couplings=1, conditioner="resnet", hidden_units=(8, 8))
    residual.compile("adam")
    residual.save(folder / "residual.keras")
    y, context = conditional_data["x"][:20], conditional_data["context"][:20]
    np.savez(folder / "data.npz", x=data[:20], y=y, context=context)
    return folder


@pytest.fixture(scope="module")
def log(folder):
    """Output of a new process that loads and trains the flows."""
    return run(LOAD_MODELS, folder)


def test_training_a_resnet_logs_no_tensorflow_errors(log):
    """TensorFlow's graph optimizer logs pages of errors if it fails to fuse the sum in a residual block."""
    assert "trained" in log
    assert "remapper" not in log and "OpKernel" not in log


@pytest.mark.usefixtures("log")
def test_new_process_loads_the_same_flows(folder, flow, data, conditional_flow, conditional_data):
    loaded = np.load(folder / "loaded.npz")
    y, context = conditional_data["x"][:20], conditional_data["context"][:20]
    np.testing.assert_allclose(loaded["log_prob"], flow.log_prob(data[:20]), rtol=1e-5)
    np.testing.assert_allclose(loaded["sample"], flow.sample(5, seed=3), rtol=1e-5)
    np.testing.assert_allclose(loaded["evaluated"], flow.evaluate(data[:20], verbose=0), rtol=1e-5)
    np.testing.assert_allclose(loaded["conditional_log_prob"], conditional_flow.log_prob(y, context), rtol=1e-12)
    np.testing.assert_allclose(loaded["conditional_sample"], conditional_flow.sample(5, context, seed=3), rtol=1e-12)


def test_loaded_flow_keeps_its_optimizer_and_trains(folder, data):
    flow = keras.models.load_model(folder / "flow.keras")
    assert flow.optimizer.iterations == 4 * 2048 // 128
    assert np.isfinite(flow.fit(data[:64], verbose=0).history["loss"][0])


@pytest.mark.parametrize("permutation", ["reverse", "random"])
@pytest.mark.parametrize("event_shape", [1, 5])
def test_config_round_trip(event_shape, permutation, tmp_path):
    flow = nvp.RealNVP(event_shape, num_couplings=3, hidden_units=(4,), permutation=permutation, context_shape=(2,))
    other = nvp.RealNVP.from_config(flow.get_config())
    assert other.get_config() == flow.get_config()
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    x, context = np.ones((3, event_shape)), np.ones((3, 2))
    np.testing.assert_array_equal(loaded.log_prob(x, context), flow.log_prob(x, context))
    np.testing.assert_array_equal(other.bijector(context).forward(x), flow.bijector(context).forward(x))


BASES = {
    "arrays": lambda: tfd.MultivariateNormalDiag(np.float32([1.0, 2.0]), np.float32([1.0, 3.0])),
    "student": lambda: tfd.Independent(tfd.StudentT(df=3.0, loc=[0.0, 1.0], scale=1.0), 1),
    "sample": lambda: tfd.Sample(tfd.Logistic(0.0, 1.0), sample_shape=2),
    "mixture": lambda: tfd.MixtureSameFamily(
        tfd.Categorical(logits=[0.0, 1.0]), tfd.MultivariateNormalDiag([[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0]])
    ),
    "trainable": lambda: tfd.MultivariateNormalDiag(
        tf.Variable([0.5, 0.0]), tfp.util.TransformedVariable([1.0, 2.0], tfb.Softplus())
    ),
    "transformed": lambda: tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag([0.0, 0.0]),
        tfb.Chain([tfb.Shift(tf.Variable([1.0, 2.0])), tfb.ScaleMatvecTriL([[1.0, 0.0], [0.5, 2.0]])]),
    ),
}


def assert_survives_saving(flow, folder):
    for variable in flow.trainable_variables:
        variable.assign_add(0.1 * tf.ones(variable.shape))
    flow.save(folder / "flow.keras")
    loaded = keras.models.load_model(folder / "flow.keras")
    x = np.array([[0.3, 0.4], [2.0, -1.0]], "float32")
    np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))
    assert len(loaded.trainable_variables) == len(flow.trainable_variables)


@pytest.mark.parametrize("name", BASES)
def test_base_distributions_survive_saving(name, tmp_path):
    base = BASES[name]()
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), base_distribution=base)
    assert {id(v) for v in base.trainable_variables} <= {id(v._value) for v in flow.trainable_variables}
    assert_survives_saving(flow, tmp_path)


def test_flow_of_a_user_distribution_survives_saving(tmp_path):
    half, net = nvp.masks.half(2), UserNet(dropout=0.1)
    parts = [nvp.AffineCoupling(net, half), tfb.Permute([1, 0]), nvp.AffineCoupling(nvp.MLP(1, (4,)), half)]
    chain = tfb.Chain([*parts, tfb.Permute([1, 0]), nvp.AffineCoupling(net, half)])  # one network used twice
    assert_survives_saving(nvp.Flow(tfd.TransformedDistribution(BASES["trainable"](), chain)), tmp_path)


@keras.saving.register_keras_serializable(package="tests")
class NetWithInnerLayer(keras.layers.Layer):
    """A network with an inner layer, which several networks may share."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, kept):
        return keras.ops.split(self.inner(kept), 2, axis=-1)

    def get_config(self):
        return super().get_config() | {"inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"inner": keras.saving.deserialize_keras_object(config["inner"])})


def test_save_refuses_networks_that_share_a_layer(tmp_path):
    def flow(*inner):
        half = nvp.masks.half(2)
        couplings = [nvp.AffineCoupling(NetWithInnerLayer(layer), half) for layer in inner]
        chain = tfb.Chain([couplings[0], tfb.Permute([1, 0]), couplings[1]])
        return nvp.Flow(tfd.TransformedDistribution(BASES["trainable"](), chain))

    assert_survives_saving(flow(keras.layers.Dense(2), keras.layers.Dense(2)), tmp_path)
    activation = keras.layers.ReLU()
    layers = [keras.Sequential([keras.layers.Dense(2), activation]) for _ in range(2)]
    with pytest.raises(ValueError, match=r"bijectors\[2\].conditioner cannot be saved: .* share layers or variables"):
        flow(*layers).save(tmp_path / "shared.keras")
    shared = flow(*2 * [keras.layers.Dense(2)])
    with pytest.raises(
        ValueError, match=r"bijectors\[2\].conditioner cannot be saved: .* share layers or variables. Use save_we"
    ):
        shared.save(tmp_path / "shared.keras")
    shared.save_weights(tmp_path / "shared.weights.h5")
    other = flow(*2 * [keras.layers.Dense(2)])
    other.load_weights(tmp_path / "shared.weights.h5")
    x = np.array([[0.3, 0.4], [2.0, -1.0]], "float32")
    np.testing.assert_array_equal(other.log_prob(x), shared.log_prob(x))


def test_save_refuses_file_names_that_keras_cannot_load(flow, tmp_path):
    with pytest.raises(ValueError, match=r"filepath must end in \.keras, got '.*flow\.h5'"):
        flow.save(tmp_path / "flow.h5")


@pytest.mark.parametrize("kind", ["RealNVP", "Flow"])
def test_frozen_networks_and_variables_stay_frozen_after_loading(kind, tmp_path):
    if kind == "RealNVP":
        flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), base_distribution=BASES["trainable"]())
    else:
        couplings = [nvp.AffineCoupling(nvp.MLP(1, (4,)), nvp.masks.half(2)) for _ in range(2)]
        chain = tfb.Chain([couplings[0], tfb.Permute([1, 0]), couplings[1]])
        flow = nvp.Flow(tfd.TransformedDistribution(BASES["trainable"](), chain))
    flow.conditioners[0].trainable = False
    trainable = [variable for variable in flow.bare_variables if variable.trainable]
    trainable[0].trainable = False
    assert len(flow.trainable_variables) == 4 + 1
    flow.compile(keras.optimizers.Adam(0.1))
    x = np.random.default_rng(0).normal(size=(32, 2))
    flow.fit(x, verbose=0)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert len(loaded.trainable_variables) == 4 + 1
    assert loaded.optimizer.iterations == 1
    frozen = loaded.conditioners[0].get_weights()
    loaded.fit(x, verbose=0)
    for before, after in zip(frozen, loaded.conditioners[0].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@keras.saving.register_keras_serializable(package="tests")
class NormalizedNet(keras.Model):
    """A typical user model: a subclass whose configuration does not list its layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.out = keras.layers.BatchNormalization(), keras.layers.Dense(2)

    def call(self, kept):
        return keras.ops.split(self.out(self.norm(kept)), 2, axis=-1)


def functional_net():
    kept = keras.Input((1,))
    hidden = keras.layers.BatchNormalization(name="norm")(kept)
    return keras.Model(kept, [keras.layers.Dense(1)(hidden), keras.layers.Dense(1, "tanh")(hidden)])


PARTLY_FROZEN = {
    "subclassed": (NormalizedNet, lambda net: net.norm),
    "functional": (functional_net, lambda net: net.get_layer("norm")),
    "MLP": (lambda: nvp.MLP(1, (4, 4)), lambda net: net.hidden_layers[1]),
    "ResNet": (lambda: nvp.ResNet(1, (4,), normalization="batch"), lambda net: net.blocks[0].normalizations[1]),
    "ConvResNet": (lambda: nvp.ConvResNet(1, 1, 4), lambda net: net.blocks[0].norms[0]),
}


@pytest.mark.parametrize("name", PARTLY_FROZEN)
def test_frozen_layer_of_a_network_stays_frozen_after_loading(name, tmp_path):
    make, part = PARTLY_FROZEN[name]
    shape, mask = ([2, 2, 2], nvp.masks.channelwise(2)) if name == "ConvResNet" else ([2], nvp.masks.half(2))
    base = tfd.Sample(tfd.Normal(tf.zeros([]), 1.0), shape)
    flow = nvp.Flow(tfd.TransformedDistribution(base, nvp.AffineCoupling(make(), mask)))
    part(flow.conditioners[0]).trainable = False
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert not part(loaded.conditioners[0]).trainable
    assert loaded.trainable and loaded.conditioners[0].trainable
    assert len(loaded.trainable_variables) == len(flow.trainable_variables) > 0
    before = part(loaded.conditioners[0]).get_weights()
    loaded(np.random.default_rng(0).normal(size=[8, *shape]), training=True)
    for value, old in zip(part(loaded.conditioners[0]).get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_network_with_only_frozen_variables_is_not_frozen_after_loading():
    flow = nvp.RealNVP(2, num_couplings=1, hidden_units=(4,))
    for variable in flow.conditioners[0].variables:
        variable.trainable = False
    loaded = nvp.RealNVP.from_config(flow.get_config())
    assert loaded.conditioners[0].trainable and not loaded.trainable_variables


def test_constraints_are_saved(tmp_path):
    loc = tf.Variable([0.3, 0.4], constraint=keras.constraints.MaxNorm(0.5))
    shift = tf.Variable([0.3, 0.4], constraint=tf_keras.constraints.MinMaxNorm(0.25, 0.5))
    scale = tfp.util.TransformedVariable([1.0, 2.0], tfb.Softplus(), constraint=tf_keras.constraints.MaxNorm(0.5))
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(loc, scale), tfb.Shift(shift)))
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    assert loaded.get_config() == flow.get_config()
    loaded.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    loaded.fit(np.full((8, 2), 5.0), verbose=0)
    for variable in loaded.trainable_variables:
        assert np.linalg.norm(variable) == pytest.approx(0.5, abs=1e-5)


def test_error_names_the_constraint_that_cannot_be_saved(tmp_path):
    class CustomConstraint(tf_keras.constraints.Constraint):
        pass

    for constraint in (lambda value: value, tf.nn.relu, CustomConstraint()):
        flow = nvp.Flow(tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0], constraint=constraint)))
        with pytest.raises(ValueError, match=r"distribution\.loc\.constraint cannot be saved: "):
            flow.save(tmp_path / "flow.keras")


def test_weight_files_contain_the_permutations(tmp_path):
    options = {"num_couplings": 4, "hidden_units": (4,), "permutation": "random"}
    flow, other = nvp.RealNVP(6, seed=1, **options), nvp.RealNVP(6, seed=2, **options)
    for variable in flow.trainable_variables:
        variable.assign_add(0.1 * tf.ones(variable.shape))
    flow.save_weights(tmp_path / "flow.weights.h5")
    other.load_weights(tmp_path / "flow.weights.h5")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_array_equal(other.log_prob(x), flow.log_prob(x))
    np.testing.assert_array_equal(other.distribution().log_prob(x), flow.distribution().log_prob(x))


def test_flow_that_cannot_be_saved_can_save_weights_and_export(tmp_path):
    flow, other = nvp.Flow(everything()), nvp.Flow(everything())
    x = np.array([[0.3, 0.4], [2.0, -1.0]], "float32")
    with pytest.raises(ValueError, match=r"bijectors\[3\].conditioner cannot be saved: .*save_weights.*export"):
        flow.save(tmp_path / "flow.keras")
    flow.save_weights(tmp_path / "flow.weights.h5")
    assert np.all(other.log_prob(x) != flow.log_prob(x))
    other.load_weights(tmp_path / "flow.weights.h5")
    np.testing.assert_array_equal(other.log_prob(x), flow.log_prob(x))
    flow.export(tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"](x=tf.constant(x))
    np.testing.assert_allclose(served["log_prob"], flow.log_prob(x), rtol=1e-5)


def test_error_names_the_part_that_cannot_be_saved():
    class Unknown(tfd.Normal):
        pass

    coupling = nvp.AffineCoupling(lambda kept: (kept, kept), nvp.masks.half(2))
    for value, message in (
        (Unknown(0.0, 1.0), "base cannot be saved: .*Unknown.* is not a class of"),
        (coupling, r"base.conditioner cannot be saved: <function"),
        (
            tfd.TransformedDistribution(
                tfd.Normal(0.0, 1.0), tfb.Inline(tf.exp, tf.math.log, forward_min_event_ndims=0)
            ),
            "base.bijector",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            to_config(value, "base")


def test_variable_used_twice_stays_one_variable():
    variable = tf.Variable([1.0, 2.0])
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(variable), tfb.Shift(variable))
    rebuilt = from_config(to_config(distribution, "distribution"), "distribution")
    assert rebuilt.distribution.loc is rebuilt.bijector.shift
    assert len(nvp.Flow(rebuilt).trainable_variables) == 1


def test_from_config_accepts_only_distributions_and_bijectors():
    for name in ("tfp.distributions.Nothing", "os.system", "tfp.bijectors.np", "tfp.distributions.kl_divergence", None):
        with pytest.raises(ValueError, match="base cannot be read: unknown class"):
            from_config({"class": name, "parameters": {}}, "base")


def test_distribution_of_a_flow_in_another_flow_survives_saving(flow, data, tmp_path):
    bounded = tfd.TransformedDistribution(flow.distribution(), tfb.Exp())
    for distribution in (flow.distribution(), bounded):
        model = nvp.Flow(distribution)
        model.save(tmp_path / "flow.keras")
        loaded = keras.models.load_model(tmp_path / "flow.keras")
        x = distribution.sample(5, seed=1)
        np.testing.assert_allclose(loaded.log_prob(x), distribution.log_prob(x), rtol=1e-5)
        assert len(loaded.trainable_variables) == len(flow.trainable_variables)


def test_save_refuses_a_lambda_as_activation(tmp_path):
    flow = nvp.RealNVP(2, num_couplings=1, activation=lambda x: x)
    with pytest.raises(ValueError, match="activation cannot be saved"):
        flow.save(tmp_path / "flow.keras")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nvp.ActNorm(np.int64(2), event_ndims=np.int32(1), epsilon=np.float64(1e-3)),
        lambda: nvp.LULinear(np.int64(2), np.array([1, 0])),
        lambda: nvp.SplineCoupling(
            nvp.MLP(1, (4,), num_parameters=11), nvp.masks.half(2), num_bins=np.int64(4), bound=np.float32(2.0)
        ),
    ],
)
def test_arguments_given_as_numpy_scalars_survive_saving(make, tmp_path):
    parts = [make(), tfb.Scale(tf.Variable([2.0, 0.5]))]
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Chain(parts)))
    flow.save(tmp_path / "flow.keras")
    x = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "flow.keras").log_prob(x), flow.log_prob(x))


def test_order_of_the_first_variables_is_fixed():
    """Files store these variables by position. They have equal shapes, so a new order would load without an error."""
    flow = nvp.Flow(nvp.RealNVP(2, num_couplings=1, hidden_units=(4,)).distribution())
    names = [variable.name for variable in flow.bare_variables[:4]]
    assert names == 2 * ["standardization_shift", "standardization_scale"]


def test_names_in_weight_files_are_fixed(tmp_path):
    """Keras derives these names from class names, so a renamed class could not read older files."""
    flow = nvp.RealNVP(1, num_couplings=1, coupling="spline")
    flow.save_weights(tmp_path / "flow.weights.h5")
    with h5py.File(tmp_path / "flow.weights.h5") as file:
        assert list(file["conditioners"]) == ["constant"]
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,))
    flow.save_weights(tmp_path / "flow.weights.h5")
    with h5py.File(tmp_path / "flow.weights.h5") as file:
        assert list(file["conditioners"]) == ["mlp", "mlp_1"]


def test_networks_of_older_files_get_their_inputs_unchanged():
    flow = perturbed(nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), input_transform=None, seed=0))
    config = flow.get_config()
    del config["input_transform"], config["noise"]
    loaded = nvp.RealNVP.from_config(config)
    loaded.set_weights(flow.get_weights())
    x = 3 * np.random.default_rng(0).normal(size=(10, 3))
    np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))
    for network in (nvp.MLP(2, input_transform=None), nvp.ResNet(2, input_transform=None)):
        config = network.get_config()
        del config["input_transform"]
        assert type(network).from_config(config).input_transform is None
