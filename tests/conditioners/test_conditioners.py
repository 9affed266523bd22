"""Conditioners: identity start, formulas, bounded log-scale, shapes, configuration."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from registry import random_tensor
from tfp_realnvp.conditioners import Constant
from tfp_realnvp.conditioners.layers import asinh, batch_normalization


def test_mlp_starts_at_the_identity():
    shift, log_scale = nvp.MLP(3, (8, 8))(random_tensor((5, 2), "float32", seed=0))
    np.testing.assert_array_equal(shift, np.zeros((5, 3)))
    np.testing.assert_array_equal(log_scale, np.zeros((5, 3)))


def test_log_scale_is_bounded_and_shift_is_not():
    mlp = nvp.MLP(3, (8,), log_scale_bound=2.0)
    kept = random_tensor((50, 2), "float32", seed=0)
    mlp(kept)
    for variable in mlp.trainable_variables:
        variable.assign(random_tensor(variable.shape, "float32", seed=1, stddev=50.0))
    shift, log_scale = mlp(kept)
    assert np.max(np.abs(log_scale)) <= 2.0 < np.max(np.abs(shift))
    assert np.max(np.abs(log_scale)) > 1.99


@pytest.mark.parametrize(("kept_size", "context_size"), [(2, None), (2, 3), (0, 3)])
@pytest.mark.parametrize("hidden_units", [(), (8,), (8, 4)])
def test_mlp_shapes(kept_size, context_size, hidden_units):
    mlp = nvp.MLP(4, hidden_units)
    context = () if context_size is None else (np.ones((5, context_size), "float32"),)
    shift, log_scale = mlp(np.ones((5, kept_size), "float32"), *context)
    assert shift.shape == log_scale.shape == (5, 4)
    assert len(mlp.trainable_variables) == 2 * (len(hidden_units) + 1)
    assert (*mlp.hidden_layers, mlp.output_layer)[0].kernel.shape[0] == kept_size + (context_size or 0)


def test_no_input_features_are_an_error():
    with pytest.raises(ValueError, match=r"without a context, kept must have at least one feature, got shape \[5, 0\]"):
        nvp.MLP(2)(np.ones((5, 0), "float32"))


@pytest.mark.parametrize(
    ("network", "shape", "variables"),
    [
        (nvp.MLP(2, (8,), trainable=False), (None, 3), 4),
        (Constant(2, trainable=False), (None, 0), 2),
        (nvp.ConvResNet(2, num_blocks=1, num_channels=2, trainable=False), (None, 2, 2, 2), 26),
    ],
)
def test_a_frozen_network_has_no_trainable_variables(network, shape, variables):
    network.build(shape)
    assert not network.trainable_variables and len(network.variables) == variables
    assert not any(variable.trainable for variable in network.variables)


def test_a_layer_frozen_before_the_network_is_built_stays_frozen():
    for network, layer in (
        (mlp := nvp.MLP(2, (8,)), mlp.hidden_layers[0]),
        (resnet := nvp.ResNet(2, (8,)), resnet.blocks[0]),
    ):
        layer.trainable = False
        network.build((None, 3))
        assert not layer.trainable_variables
        assert len(network.trainable_variables) == len(network.variables) - len(layer.variables)


def test_mlp_config_round_trip():
    mlp = nvp.MLP(4, (8,), activation="tanh", log_scale_bound=1.5, seed=3, dtype="float64", name="net")
    other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(mlp))
    assert other.get_config() == mlp.get_config()
    kept = random_tensor((5, 2), "float64", seed=0)
    mlp(kept), other(kept)
    for one, same in zip(mlp.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_size": 0}, "output_size .* got 0"),
        ({"hidden_units": (4, 0)}, r"hidden_units\[1\] .* got 0"),
        ({"hidden_units": (4.5,)}, r"hidden_units\[0\] .* got 4.5"),
        ({"hidden_units": 4}, "hidden_units must be a sequence of integers, got 4"),
        ({"log_scale_bound": 0.0}, "log_scale_bound .* got 0.0"),
        ({"log_scale_bound": np.inf}, "log_scale_bound .* got inf"),
        ({"log_scale_bound": "a"}, "log_scale_bound .* got 'a'"),
        ({"seed": "a"}, "seed must be an integer or None, got 'a'"),
        ({"activation": "no such"}, "no such"),
    ],
)
def test_bad_mlp_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        nvp.MLP(**{"output_size": 2} | options)


# Spline parameters, residual networks and dropout

KEPT, CONTEXT = random_tensor((6, 2), "float32", seed=0), random_tensor((6, 3), "float32", seed=1)


def perturbed(network, *inputs):
    network(*inputs)
    for index, variable in enumerate(network.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, variable.dtype, seed=index, stddev=0.3))
    return network


@pytest.mark.parametrize("network", [nvp.MLP, nvp.ResNet])
def test_parameters_for_each_moved_feature_start_at_zero(network):
    assert network(4, (8, 8), num_parameters=11)(KEPT).shape == (6, 4, 11)
    parameters = network(4, (8, 8), num_parameters=11)(KEPT, CONTEXT)
    np.testing.assert_array_equal(parameters, np.zeros((6, 4, 11)))


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("gate_context", [True, False])
def test_resnet_starts_at_the_identity_and_all_its_variables_train(normalization, gate_context):
    network = nvp.ResNet(4, (8, 8), normalization=normalization, gate_context=gate_context, activation="tanh")
    shift, log_scale = network(KEPT, CONTEXT)
    np.testing.assert_array_equal(shift, np.zeros((6, 4)))
    np.testing.assert_array_equal(log_scale, np.zeros((6, 4)))
    perturbed(network, KEPT, CONTEXT)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(output**2) for output in network(KEPT, CONTEXT)])
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    assert all(np.max(np.abs(gradient)) > 0 for gradient in gradients)
    layers = 1 + 2 * 2 + 1 + 2 * gate_context + 2 * 2 * (normalization is not None)
    assert len(network.trainable_variables) == 2 * layers


# The documented formulas, in NumPy


def dense(layer, inputs):
    outputs = inputs @ layer.kernel.numpy()
    return outputs + layer.bias.numpy() if layer.use_bias else outputs


def convolved(layer, image):
    direction = layer.direction.numpy()
    kernel = layer.scale.numpy() * direction / np.sqrt(np.sum(direction**2, axis=(0, 1, 2)))
    (_, height, width, _), size = image.shape, len(kernel)
    padded = np.pad(image, [(0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)])
    outputs = 0.0
    for row in range(size):
        for column in range(size):
            outputs += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return outputs + layer.bias.numpy() if layer.use_bias else outputs


def normalized(layer, inputs):
    if isinstance(layer, keras.layers.BatchNormalization):  # in inference
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    else:
        mean, variance = (moment(inputs, axis=-1, keepdims=True) for moment in (np.mean, np.var))
    return layer.gamma.numpy() * (inputs - mean) / np.sqrt(variance + layer.epsilon) + layer.beta.numpy()


def rectified(inputs):
    return np.maximum(inputs, 0.0)


def randomized(network, *inputs):
    perturbed(network, *inputs)
    for index, variable in enumerate(network.non_trainable_variables):  # statistics of the normalization
        variable.assign(np.random.default_rng(index).uniform(0.5, 2.0, variable.shape))
    return network


def assert_outputs(network, inputs, shift, log_scale):
    for actual, expected in zip(network(*inputs), (shift, log_scale), strict=True):
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_asinh_and_its_gradient(dtype, jit_compile):
    x = tf.constant([-3e4, -2.0, -1e-3, 0.0, 1e-6, 0.5, 40.0, np.nan], dtype)

    @tf.function(jit_compile=jit_compile)
    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = asinh(x)
        return value, tape.gradient(value, x)

    value, gradient = value_and_gradient(x)
    exact, tolerance = x.numpy().astype("float64"), 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(value, np.arcsinh(exact), rtol=tolerance)
    np.testing.assert_allclose(gradient[:-1], 1 / np.sqrt(1 + exact[:-1] ** 2), rtol=2 * tolerance, atol=tolerance)
    if dtype == "float32":
        value, gradient = value_and_gradient(tf.constant([-3e38, 1e25]))
        np.testing.assert_allclose(value, np.arcsinh([-1e19, 1e19]), rtol=1e-6)
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize(("name", "transform"), [("asinh", np.arcsinh), (None, lambda kept: kept)])
def test_mlp_matches_the_formula(name, transform):
    kept, context = inputs = KEPT.numpy().astype("float64"), CONTEXT.numpy().astype("float64")
    options = {"log_scale_bound": 2.0, "input_transform": name, "seed": 0, "dtype": "float64"}
    network = randomized(nvp.MLP(3, (5, 4), **options), *inputs)
    hidden = np.concatenate([transform(kept), context], axis=1)
    for layer in network.hidden_layers:
        hidden = rectified(dense(layer, hidden))
    shift, log_scale = np.split(dense(network.output_layer, hidden), 2, axis=1)
    assert_outputs(network, inputs, shift, 2 * np.tanh(log_scale / 2))


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_resnet_matches_the_formula(normalization):
    kept, context = inputs = KEPT.numpy().astype("float64"), CONTEXT.numpy().astype("float64")
    network = nvp.ResNet(3, (4, 4), normalization=normalization, seed=0, dtype="float64")
    randomized(network, *inputs)
    hidden = dense(network.input_layer, np.concatenate([np.arcsinh(kept), context], axis=1))
    for block in network.blocks:
        change = hidden
        for index, layer in enumerate(block.dense_layers):
            change = normalized(block.normalizations[index], change) if normalization else change
            change = dense(layer, rectified(change))
        hidden = hidden + change / (1 + np.exp(-dense(block.gate, context)))
    shift, log_scale = np.split(dense(network.output_layer, hidden), 2, axis=1)
    assert_outputs(network, inputs, shift, 3 * np.tanh(log_scale / 3))


def test_conv_resnet_matches_the_formula():
    mask = nvp.masks.checkerboard(3, 4)
    context = CONTEXT.numpy().astype("float64")
    kept = mask * np.random.default_rng(0).normal(size=(len(context), 3, 4, 2))
    network = nvp.ConvResNet(2, num_blocks=2, num_channels=3, mask=mask, seed=0, dtype="float64")
    randomized(network, kept, context)
    board = np.broadcast_to(mask, (*kept.shape[:-1], 1))
    hidden = convolved(network.input_layer, np.concatenate([kept, -kept, board], axis=-1))
    total = convolved(network.skips[0], hidden)
    for block, skip in zip(network.blocks, network.skips[1:], strict=True):
        change = convolved(block.convs[0], rectified(normalized(block.norms[0], hidden)))
        change += dense(block.context_layer, context)[:, np.newaxis, np.newaxis]
        hidden = hidden + convolved(block.convs[1], rectified(normalized(block.norms[1], change)))
        total = total + convolved(skip, hidden)
    outputs = convolved(network.output_layer, rectified(normalized(network.output_norm, total)))
    shift, log_scale = np.split(outputs, 2, axis=-1)
    assert_outputs(network, (kept, context), shift, network.log_scale_bound.numpy() * np.tanh(log_scale))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [(8, 4, 4, 3), (16, 3)])
def test_batch_normalization_gives_the_numbers_of_keras(shape, policy):
    keras_layer = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-2, dtype=policy)
    layer = batch_normalization(keras.dtype_policies.get(policy), momentum=0.8, epsilon=1e-2)
    x = tf.constant(np.random.default_rng(0).normal(1.0, 2.0, shape), tf.float32)
    results = []
    for each in (keras_layer, layer):
        each.build(shape)
        each.gamma.assign([0.5, 1.0, 2.0])
        each.beta.assign([-1.0, 0.0, 1.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = each(x, training=True)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
        gradients = tape.gradient(loss, [x, *(variable.value for variable in each.trainable_variables)])
        assert y.dtype == each.compute_dtype
        results.append([tf.cast(y, tf.float32), *gradients, *each.variables, tf.cast(each(x), tf.float32)])
    tolerance = 1e-4 if policy == "float32" else 2e-2
    for expected, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


def test_batch_normalization_keeps_its_digits_under_xla():
    layer = batch_normalization(keras.dtype_policies.get("float32"))
    layer.build((64, 2, 2, 3))
    x = tf.constant(1e4 + np.random.default_rng(0).normal(size=(64, 2, 2, 3)), tf.float32)
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)(x)
    np.testing.assert_allclose(compiled, keras.layers.BatchNormalization()(x, training=True), atol=5e-3)
    np.testing.assert_allclose(layer.moving_variance, 1 * 0.99 + 0.01 * np.var(x, axis=(0, 1, 2)), rtol=1e-3)


def test_the_seed_fixes_the_weights_of_a_resnet():
    one, same, other = (nvp.ResNet(2, (8, 8), seed=seed) for seed in (1, 1, 2))
    for network in (one, same, other):
        network(KEPT, CONTEXT)
    kernels = [[v.numpy() for v in n.variables if np.any(v != 0.0)] for n in (one, same, other)]
    assert len(kernels[0]) == 1 + 2 * 2  # The second layer of each block starts at zero.
    for value, equal, different in zip(*kernels, strict=True):
        np.testing.assert_array_equal(value, equal)
        assert np.all(value != different)
    first, second = (block.dense_layers[0].kernel for block in one.blocks)
    assert np.all(first != second)


@pytest.mark.parametrize("num_parameters", [None, 5])
def test_constants_start_at_zero_train_and_are_equal_in_every_row(num_parameters):
    network = Constant(2, num_parameters=num_parameters, dtype="float64")
    empty = np.ones((4, 0))
    np.testing.assert_array_equal(np.stack(network(empty)), 0.0)
    perturbed(network, empty)
    with tf.GradientTape() as tape:
        outputs = tf.stack(network(empty))
    for gradient in tape.gradient(outputs, [variable.value for variable in network.trainable_variables]):
        assert np.max(np.abs(gradient)) > 0
    rows = outputs.numpy() if num_parameters else np.moveaxis(outputs, 0, 1)
    assert rows.dtype == np.float64 and rows.shape == ((4, 2, 5) if num_parameters else (4, 2, 2))
    assert np.all(rows == rows[0]) and len(np.unique(rows[0])) == rows[0].size


@pytest.mark.parametrize("network", [nvp.MLP, nvp.ResNet])
def test_dropout_acts_in_training_only(network):
    one = perturbed(network(2, (64, 64), dropout=0.5, seed=0), KEPT)
    without = network(2, (64, 64), seed=0)
    without(KEPT)
    without.set_weights([variable.numpy() for variable in one.trainable_variables])
    for other in (one(KEPT), one(KEPT, training=False)):
        np.testing.assert_array_equal(other, without(KEPT))
    first, second = one(KEPT, training=True), one(KEPT, training=True)
    assert np.all(np.abs(first[0] - second[0]) > 0) and np.all(np.abs(first[0] - without(KEPT)[0]) > 0)


@pytest.mark.parametrize("network", [nvp.MLP, nvp.ResNet])
def test_dropout_drops_a_fraction_of_the_units_and_scales_the_others(network):
    size = 64
    one = network(size, (size,), num_parameters=1, activation="softplus", dropout=0.25, seed=0)
    one(KEPT)
    one.output_layer.kernel.assign(np.eye(size))  # makes the outputs equal to the hidden units
    skipped = 0.0
    if network is nvp.ResNet:
        one.blocks[0].dense_layers[1].kernel.assign(np.eye(size))
        skipped = one.input_layer(tf.asinh(KEPT))[..., np.newaxis]
    ratio = ((one(KEPT, training=True) - skipped) / (one(KEPT) - skipped)).numpy()
    dropped = np.abs(ratio) < 1e-3
    np.testing.assert_allclose(ratio[~dropped], 1 / 0.75, rtol=1e-3)
    assert np.mean(dropped) == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (nvp.MLP, {"num_parameters": 11, "dropout": 0.25}),
        (nvp.ResNet, {"num_parameters": 11, "dropout": 0.25, "normalization": "layer", "gate_context": False}),
        (nvp.ResNet, {"normalization": "batch"}),
        (Constant, {"num_parameters": 11}),
        (nvp.ConvResNet, {"num_parameters": 11, "num_blocks": 1, "num_channels": 2, "scale_penalty": 0.5}),
        (nvp.ConvResNet, {"num_blocks": 2, "num_channels": 3, "mask": nvp.masks.checkerboard(2, 2)}),
    ],
)
def test_config_round_trip_with_every_option(network, options):
    sizes = {"hidden_units": (8, 8), "activation": "tanh"} if network in (nvp.MLP, nvp.ResNet) else {}
    one = network(4, seed=3, dtype="float64", name="net", **sizes, **options)
    other = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one))
    assert other.get_config() == one.get_config()
    assert getattr(other, "scale_penalty", None) == (
        options.get("scale_penalty", 5e-5) if not sizes and "num_blocks" in options else None
    )
    kept = random_tensor((5, 2, 2, 2) if network is nvp.ConvResNet else (5, 2), "float64", seed=0)
    np.testing.assert_array_equal(one(kept), other(kept))
    for value, same in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(value, same)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (
            nvp.ResNet,
            {"hidden_units": (4, 8)},
            r"hidden_units must be the width .*, all equal, got \(4, 8\)",
        ),
        (nvp.ResNet, {"hidden_units": ()}, r"hidden_units must be the width .*, all equal, got \(\)"),
        (nvp.ResNet, {"normalization": "group"}, "normalization must be one of 'batch', 'layer', got 'group'"),
        (nvp.ResNet, {"gate_context": 2}, "gate_context must be True or False, got 2"),
        (nvp.ResNet, {"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        (nvp.MLP, {"dropout": -0.1}, "dropout must be from 0 to below 1, got -0.1"),
        (nvp.MLP, {"dropout": "a"}, "dropout must be from 0 to below 1, got 'a'"),
        (nvp.MLP, {"num_parameters": 0}, "num_parameters must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options_are_errors(network, options, message):
    with pytest.raises(ValueError, match=message):
        network(**{"output_size": 2} | options)


NETWORKS = {
    "mlp": (nvp.MLP, {"hidden_units": (4,)}, (2,)),
    "resnet": (nvp.ResNet, {"hidden_units": (4,)}, (2,)),
    "constant": (Constant, {}, (0,)),
    "conv_resnet": (nvp.ConvResNet, {"num_blocks": 1, "num_channels": 2}, (4, 3, 2)),
}


@pytest.mark.parametrize("num_parameters", [None, 5])
@pytest.mark.parametrize("context_size", [None, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_output_shapes_alone_and_in_functional_models(name, context_size, num_parameters):
    make, options, shape = NETWORKS[name]
    network = make(1, num_parameters=num_parameters, **options)
    shapes = [shape] if context_size is None else [shape, (context_size,)]
    expected = (*shape[:-1], 1) if num_parameters is None else (*shape[:-1], 1, num_parameters)
    assert network.compute_output_shape(*((7, *each) for each in shapes)) == (
        ((7, *expected), (7, *expected)) if num_parameters is None else (7, *expected)
    )
    symbols = [keras.Input(each) for each in shapes]
    outputs = network(*symbols)
    assert [output.shape for output in tf.nest.flatten(outputs)] == (2 - bool(num_parameters)) * [(None, *expected)]
    doubled = [2 * keras.ops.exp(output) for output in tf.nest.flatten(outputs)]
    model = keras.Model(symbols, doubled)
    arrays = [np.ones((3, *each), "float32") for each in shapes]
    for actual, output in zip(*map(tf.nest.flatten, (model(arrays), network(*arrays))), strict=True):
        assert actual.shape == (3, *expected)
        np.testing.assert_allclose(actual, 2 * np.exp(output))


@pytest.mark.parametrize(
    ("network", "shapes", "message"),
    [
        (nvp.MLP(2, (4,)), [(5, 2), (5, 1)], "2 and 3 features, as in the first call, got 2 and 1"),
        (nvp.ResNet(2, (4,)), [(5, 4), (5, 3)], "2 and 3 features, as in the first call, got 4 and 3"),
        (nvp.MLP(2, (4,)), [(5, 2)], "2 and 3 features, as in the first call, got 2 and 0"),
        (nvp.MLP(2, (4,)), [(5, 2), (6, 3)], r"same number of rows, got \(5, 2\) and \(6, 3\)"),
        (nvp.MLP(2, (4,)), [(5, 4, 2), (5, 3)], r"kept must have shape \[N, size\], got shape \[5, 4, 2\]"),
    ],
)
def test_inputs_unlike_those_of_the_first_call_are_errors(network, shapes, message):
    network(KEPT, CONTEXT)
    symbols, arrays = ([make(shape) for shape in shapes] for make in (keras.KerasTensor, np.ones))
    for call, inputs in ((network, arrays), (network, symbols), (network.compute_output_shape, shapes)):
        with pytest.raises(ValueError, match=message):
            call(*inputs)
