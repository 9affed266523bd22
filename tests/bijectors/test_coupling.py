"""Affine couplings: the formula of the paper, every kind of conditioner, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.networks import CountingNet, X
from registry import make, random_tensor
from tfp_realnvp.bijectors import OnePassChain
from tfp_realnvp.distributions import OnePassTransformedDistribution


# The formula
@pytest.mark.parametrize("mask", [nvp.masks.half(5), nvp.masks.half(5, flip=True), nvp.masks.alternating(5)])
@pytest.mark.parametrize("form", ["exponent", "masked sum"])
def test_coupling_matches_both_forms_of_the_papers_formula(mask, form):
    weights = random_tensor((int(mask.sum()), 2 * int((~mask).sum())), "float64", seed=1, stddev=0.3)

    def conditioner(kept):
        return tf.split(tf.tanh(kept @ weights), 2, axis=-1)

    x = np.random.default_rng(0).normal(size=(7, 5))
    moved = [np.asarray(part) for part in conditioner(tf.constant(x[:, mask]))]
    shift, log_scale = np.zeros((2, 7, 5))
    shift[:, ~mask], log_scale[:, ~mask] = moved
    b = mask.astype(float)
    if form == "exponent":
        expected = x * np.exp((1 - b) * log_scale) + (1 - b) * shift
    else:
        expected = b * x + (1 - b) * (x * np.exp(log_scale) + shift)
    coupling = nvp.AffineCoupling(conditioner, mask)
    np.testing.assert_allclose(coupling.forward(x), expected, atol=1e-12)
    np.testing.assert_allclose(coupling.forward_log_det_jacobian(x), ((1 - b) * log_scale).sum(-1), atol=1e-12)


@pytest.mark.parametrize("name", ["half", "half_flipped", "alternating", "middle_block", "context_batch"])
def test_kept_features_stay_the_same_bit_for_bit(name):
    coupling = make(name, "float32")
    mask = coupling.mask
    x = random_tensor((6, mask.size), "float32", seed=5, stddev=100.0)
    for y in (coupling.forward(x), coupling.inverse(x)):
        np.testing.assert_array_equal(y.numpy()[:, mask], x.numpy()[:, mask])
        assert np.all(y.numpy()[:, ~mask] != x.numpy()[:, ~mask])


@pytest.mark.parametrize("name", ["half", "alternating", "middle_block"])
def test_jacobian_is_triangular(name):
    coupling = make(name)
    mask = coupling.mask
    x = random_tensor((6, mask.size), "float64", seed=5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = coupling.forward(x)
    jacobian = tape.batch_jacobian(y, x).numpy()
    np.testing.assert_array_equal(jacobian[:, mask][:, :, mask], np.eye(mask.sum())[None].repeat(6, 0))
    np.testing.assert_array_equal(jacobian[:, mask][:, :, ~mask], 0.0)
    moved = jacobian[:, ~mask][:, :, ~mask]
    np.testing.assert_array_equal(moved * (1 - np.eye(moved.shape[-1])), 0.0)
    assert np.all(jacobian[:, ~mask][:, :, mask] != 0.0)


# Every kind of conditioner
def functional(keras_module):
    kept = keras_module.Input((2,))
    hidden = keras_module.layers.Dense(8, "tanh")(kept)
    return keras_module.Model(kept, [keras_module.layers.Dense(2)(hidden), keras_module.layers.Dense(2)(hidden)])


class HoldsKerasLayer(tf.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nvp.MLP(2, (8,))]
        self.layers[0].build((None, 2))

    def __call__(self, kept):
        return self.layers[0](kept)


CONDITIONERS = {
    "keras layer": lambda: nvp.MLP(2, (8,)),
    "keras model": lambda: functional(keras),
    "tf_keras model": lambda: functional(tf_keras),
    "tf.Module": CountingNet,
    "tf.Module with a keras layer": HoldsKerasLayer,
}


@pytest.mark.parametrize("kind", CONDITIONERS)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_every_object_reports_the_variables_of_the_conditioner(kind, leading):
    coupling = nvp.AffineCoupling(CONDITIONERS[kind](), nvp.masks.half(4))
    chain = tfb.Chain([coupling, tfb.Permute([3, 2, 1, 0])])
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), chain)
    model = nvp.Flow(distribution)
    seen = [
        {id(variable) for variable in coupling.trainable_variables},
        {id(variable) for variable in chain.trainable_variables},
        {id(variable) for variable in distribution.trainable_variables},
        {id(variable._value) for variable in model.trainable_variables},
        {id(variable) for variable in model.bijector().trainable_variables},
        {id(variable) for variable in model.distribution().trainable_variables},
    ]
    assert seen[0] and all(ids == seen[0] for ids in seen)
    assert distribution.log_prob(tf.ones((*leading, 4))).shape == leading


def test_a_conditioner_that_uses_gather_runs_once_in_a_graph():
    """`tf.gather` reads a variable with its own operation, which must not count as a write."""

    class Table(CountingNet):
        def __call__(self, kept):
            shift, log_scale = super().__call__(kept)
            return shift + tf.gather(self.weight, 0, axis=0)[:2], log_scale

    network = Table()
    coupling = nvp.AffineCoupling(network, nvp.masks.half(4))
    tf.function(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), coupling).log_prob)(X)
    assert network.runs == 1


def test_functional_model_with_a_context():
    for module in (keras, tf_keras):
        kept, context = module.Input((2,)), module.Input((3,))
        hidden = module.layers.Dense(8)(module.layers.Concatenate()([kept, context]))
        net = module.Model([kept, context], [module.layers.Dense(2)(hidden), module.layers.Dense(2)(hidden)])
        coupling = nvp.AffineCoupling(net, nvp.masks.half(4), context=random_tensor((5, 3), "float32", seed=1))
        np.testing.assert_allclose(coupling.inverse(coupling.forward(X)), X, atol=1e-4)


def test_the_coupling_builds_a_keras_layer_inside_a_module():
    class Holder(tf.Module):
        def __init__(self):
            super().__init__()
            self.layer = nvp.MLP(2, (8,))

        def __call__(self, kept):
            return self.layer(kept)

    assert len(nvp.AffineCoupling(Holder(), nvp.masks.half(4)).trainable_variables) == 4


def test_the_coupling_copies_its_mask():
    mask = nvp.masks.half(4)
    coupling = nvp.AffineCoupling(lambda kept: (kept, kept), mask)
    mask[:] = ~mask
    np.testing.assert_array_equal(coupling.mask, nvp.masks.half(4))
    np.testing.assert_array_equal(coupling.copy().mask, nvp.masks.half(4))


def test_the_coupling_builds_its_conditioner():
    class Net(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, kept, context):
            return keras.ops.split(self.dense(keras.ops.concatenate([kept, context], -1)), 2, -1)

    net = Net()
    coupling = nvp.AffineCoupling(net, nvp.masks.half(4), context=tf.ones([7, 3]))
    assert net.built and net.dense.kernel.shape == (5, 4)
    assert len(coupling.trainable_variables) == 2


def test_half_precision_outputs_are_cast_and_the_log_det_is_float32():
    coupling = nvp.AffineCoupling(nvp.MLP(2, (8,), dtype="mixed_float16"), nvp.masks.half(4))
    for variable in coupling.trainable_variables:
        variable.assign(random_tensor(variable.shape, "float32", seed=1))
    assert coupling.forward(X).dtype == tf.float32
    np.testing.assert_allclose(coupling.inverse(coupling.forward(X)), X, atol=1e-4)
    log_det = coupling.forward_log_det_jacobian(tf.cast(X, tf.float16))
    assert log_det.dtype == tf.float32
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(4)), coupling)
    assert distribution.log_prob(X).dtype == tf.float32


# Errors
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(3, bool), "mask must keep a part"),
        (np.zeros(3, bool), "mask must keep a part"),
        (np.array([1.0, 0.0]), "boolean vector"),
        (np.ones((2, 2), bool), r"shape \[2, 2\]"),
        ([[True], [True, False]], r"boolean vector \[D\].* got \[\[True\], \[True, False\]\]"),
    ],
)
def test_bad_mask_is_an_error(mask, message):
    with pytest.raises(ValueError, match=message):
        nvp.AffineCoupling(lambda kept: (kept, kept), mask)


def test_bad_event_shape_is_an_error():
    coupling = make("half", "float32")
    for bad in (tf.zeros([3, 4]), tf.zeros([])):
        with pytest.raises(ValueError, match=r"shape \[\.\.\., 5\]"):
            coupling.forward(bad)


@pytest.mark.parametrize(
    ("conditioner", "message"),
    [
        (lambda kept: kept, "pair"),
        (lambda kept: (kept, kept, kept), "pair"),
        (lambda kept: (kept[:, :1], kept), r"\(5, 1\) and \(5, 2\)"),
        (lambda kept: (kept[0], kept[0]), r"\(2,\) and \(2,\)"),
    ],
)
def test_bad_conditioner_output_is_an_error(conditioner, message):
    with pytest.raises(ValueError, match=message):
        nvp.AffineCoupling(conditioner, nvp.masks.half(4)).forward(X)


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="conditioner must be callable"):
        nvp.AffineCoupling(None, nvp.masks.half(4))
    for context, found in ((1.0, "float32"), (["a"], "string")):
        with pytest.raises(ValueError, match=rf"context must be numbers of shape \[\.\.\., K\], got {found}"):
            nvp.AffineCoupling(lambda kept, context: (kept, kept), nvp.masks.half(4), context=context)
    coupling = nvp.AffineCoupling(lambda kept, context: (kept, kept), nvp.masks.half(4), context=tf.ones([3, 2]))
    with pytest.raises(ValueError, match=r"must broadcast, got \(3,\) and \(5,\)"):
        coupling.forward(X)
    with pytest.raises(ValueError, match="event of affine_coupling must be of a floating-point dtype, got int32"):
        nvp.AffineCoupling(lambda kept: (kept, kept), nvp.masks.half(4)).inverse([[1, 2, 3, 4]])


def test_slices_of_a_batch_with_permutations_and_their_inverses():
    """TFP cannot slice its own chain with a `tfb.Permute`."""
    contexts = random_tensor((4, 3, 1), "float32", seed=5)
    coupling = nvp.AffineCoupling(lambda kept, context: (kept * context, context), nvp.masks.half(2), contexts)
    permutation = tfb.Permute([1, 0])
    chain = OnePassChain([permutation, coupling, tfb.Invert(permutation)])
    distribution = OnePassTransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), chain)
    x = tf.constant([0.5, -1.0])
    expected = distribution.log_prob(x).numpy()
    for slices in (np.s_[:2], np.s_[1], np.s_[..., 0], np.s_[1:, ::2]):
        sliced = distribution[slices]
        assert sliced.batch_shape == expected[slices].shape
        np.testing.assert_allclose(sliced.log_prob(x), expected[slices], rtol=1e-6)
