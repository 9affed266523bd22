"""Graphs with inputs of unknown shape give the same densities as eager calls, and errors for wrong shapes."""

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def flow():
    return nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), seed=0)


@pytest.fixture(scope="module")
def image_flow():
    return nvp.ImageRealNVP((4, 4, 1), num_blocks=1, num_channels=2, seed=0)


@pytest.mark.parametrize("shape", [None, [None, None], [4, None]])
def test_wrong_width_in_a_graph_is_an_error(flow, shape):
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    functions = (
        tf.function(function, input_signature=[tf.TensorSpec(shape)], autograph=False)
        for function in (flow.distribution().log_prob, flow.bijector().inverse)
    )
    for function, expected in zip(functions, (flow.log_prob(x), flow.bijector().inverse(x)), strict=True):
        np.testing.assert_allclose(function(x), expected, rtol=1e-5)
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(x[:, :1])


def test_images_of_unknown_rank_have_the_same_density(image_flow):
    sample = tf.function(
        lambda shape: image_flow.distribution().sample(shape, seed=1), input_signature=[tf.TensorSpec(None, tf.int32)]
    )
    assert sample(3).shape == (3, 4, 4, 1) and sample([2, 1]).shape == (2, 1, 4, 4, 1)
    images = np.random.default_rng(0).uniform(0, 256, (2, 4, 4, 1)).astype("float32")
    log_prob = tf.function(lambda x: image_flow.distribution().log_prob(x), input_signature=[tf.TensorSpec(None)])
    np.testing.assert_allclose(log_prob(images), image_flow.log_prob(images), rtol=1e-5)


def test_images_of_wrong_shape_in_a_graph_are_an_error(image_flow):
    log_prob = tf.function(image_flow.distribution().log_prob, input_signature=[tf.TensorSpec(None)], autograph=False)
    for shape in ((3, 2, 8, 1), (3, 1, 4, 4), (16,), ()):
        with pytest.raises(tf.errors.InvalidArgumentError):
            log_prob(np.ones(shape, np.float32))


def test_error_names_the_dtype_of_integer_tensors(image_flow):
    with pytest.raises(ValueError, match="event of flow must be of a floating-point dtype, got int64"):
        image_flow.distribution().log_prob(tf.zeros([1, 4, 4, 1], tf.int64))


def test_wrong_width_in_a_dataset_of_undeclared_width_is_an_error(flow):
    flow.compile("adam")
    rows = tf.data.Dataset.from_generator(
        lambda: iter([np.zeros((10, 1))]), output_signature=tf.TensorSpec([None, None])
    )
    with pytest.raises(ValueError, match=r"x must have shape \[N, 2\], got \[10, 1\]"):  # raised by `call`
        flow.predict(rows, verbose=0)
    for method in (flow.fit, flow.evaluate):
        with pytest.raises(ValueError, match=r"x must have shape \[N, 2\], got \[10, 1\]"):
            method(rows, verbose=0)


def test_wrong_context_in_a_dataset_of_undeclared_width_is_an_error():
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), context_shape=2, seed=0)
    flow.compile("adam")
    batch = {"x": np.zeros((6, 2)), "context": np.zeros((6, 4))}
    specs = {"x": tf.TensorSpec([None, 2]), "context": tf.TensorSpec([None, None])}
    batches = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=specs)
    with pytest.raises(ValueError, match=r"context must have shape \[N, 2\], got \[6, 4\]"):
        flow.fit(batches, verbose=0)


@pytest.mark.parametrize("rows", [1, 4])
def test_context_of_other_rows_in_a_dataset_of_undeclared_rows_is_an_error(rows):
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), context_shape=2, seed=0)
    flow.compile("adam")
    batch = {"x": np.zeros((3, 2)), "context": np.zeros((rows, 2))}
    specs = {"x": tf.TensorSpec([None, 2]), "context": tf.TensorSpec([None, 2])}
    batches = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=specs)
    for method in (flow.fit, flow.evaluate, flow.predict):
        with pytest.raises(ValueError, match=r"x and context must have the same number of rows|got 3 and [14]"):
            method(batches, verbose=0)


def test_images_of_unknown_height_and_width_in_a_spline_network():
    network = nvp.ConvResNet(1, num_blocks=1, num_channels=2, num_parameters=5, seed=0)
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 1)).astype("float32")
    expected = network(images)
    call = tf.function(network, input_signature=[tf.TensorSpec([None, None, None, 1])], autograph=False)
    np.testing.assert_allclose(call(images), expected, rtol=1e-5, atol=1e-6)
