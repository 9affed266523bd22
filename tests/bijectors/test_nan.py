"""Compiled functions never turn a NaN in a weight or an event into a plausible number."""

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp

pytestmark = pytest.mark.optimized

NETWORKS = {
    "mlp": lambda: nvp.MLP(2, (4, 4)),
    "mlp_for_a_spline": lambda: nvp.MLP(2, (4,), activation="elu", num_parameters=5),
    "resnet": lambda: nvp.ResNet(2, (4, 4)),
    "resnet_with_batch_normalization": lambda: nvp.ResNet(2, (4,), normalization="batch"),
    "conv_resnet": lambda: nvp.ConvResNet(2, 1, 2),
}


def perturbed(variable):
    noise = np.random.default_rng(len(variable.shape)).uniform(0.1, 0.3, variable.shape)
    return np.asarray(variable) + noise.astype(variable.dtype)


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_nan_in_any_weight_of_a_network_gives_nan(name, with_context):
    """TensorFlow's fused kernel for a dense layer with ReLU turns NaN into 0."""
    network, random = NETWORKS[name](), np.random.default_rng(0)
    shapes = [(3, 2, 2, 2) if name == "conv_resnet" else (3, 2)] + [(3, 2)] * with_context
    inputs = [tf.constant(random.normal(size=shape), tf.float32) for shape in shapes]
    network(*inputs)
    specs = [tf.TensorSpec([None, *x.shape[1:]]) for x in inputs]
    call = tf.function(lambda *inputs: network(*inputs), input_signature=specs, autograph=False)
    weights = [variable for variable in network.variables if variable.dtype == "float32"]
    for weight in weights:  # A weight of 0 would hide a NaN in the layers before it.
        weight.assign(perturbed(weight))
    assert np.isfinite(np.concatenate([np.ravel(y) for y in tf.nest.flatten(call(*inputs))])).all()
    for weight in weights:
        before = np.array(weight)
        weight.assign(np.full_like(before, np.nan))
        assert any(np.isnan(y).all() for y in tf.nest.flatten(call(*inputs))), weight.path
        weight.assign(before)


@pytest.mark.parametrize("options", [{"coupling": "spline"}, {"permutation": "lu"}])
def test_log_dets_of_non_finite_events_are_nan(options, tmp_path):
    flow = nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=0, **options)
    events = np.array([[0, 0, 0], [0, 0, np.nan], [np.inf, 0, 0]], np.float32)
    bijector = flow.bijector()
    flow.export(tmp_path / "export")
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    for log_det in (
        bijector.inverse_log_det_jacobian(events, 1),
        bijector.forward_log_det_jacobian(events, 1),
        signatures["inverse"](x=tf.constant(events))["log_det"],
        signatures["forward"](z=tf.constant(events))["log_det"],
    ):
        assert np.isfinite(log_det).tolist() == [True, False, False] and not np.isinf(log_det).any()


def test_a_non_finite_sample_has_no_finite_density():
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), context_shape=2, activation="tanh", seed=0)
    for variable in flow.trainable_variables:
        variable.assign(perturbed(variable))
    x, log_prob = flow.sample_and_log_prob(context=np.array([[3e38, -3e38], [0.0, 1.0]]), seed=1)
    assert (np.isfinite(log_prob) <= np.isfinite(x).all(axis=-1)).all() and np.isfinite(log_prob[1])


def test_an_infinite_context_gives_nan_even_if_the_network_does_not():
    coupling = nvp.AffineCoupling(
        lambda kept, context: (tf.tanh(context), tf.tanh(kept)), nvp.masks.half(2), tf.constant([[1.0], [np.inf]])
    )
    for value in (coupling.forward(tf.ones(2)), coupling.inverse(tf.ones(2))):
        assert np.isnan(value[:, 1]).tolist() == [False, True]
    assert np.isnan(coupling.forward_log_det_jacobian(tf.ones(2), 1)).tolist() == [False, True]
