"""Couplings of images, compared with the formula in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from registry import random_tensor

BOARD = nvp.masks.checkerboard(3, 4)
SHAPE = (5, 3, 4, 2)
CONTEXT = tf.ones([2, 5])
NET = nvp.ConvResNet(1, num_blocks=1, num_channels=2, mask=BOARD)
NET.build((None, 3, 4, 1), (None, 5))


class Recorder:
    """A conditioner that stores its last input and returns functions of it."""

    def __init__(self, size):
        self.size = size

    def __call__(self, kept, context=None):
        self.kept = kept
        total = tf.reduce_sum(kept, axis=[1, 2, 3], keepdims=True) + tf.zeros([*kept.shape[:-1], self.size], kept.dtype)
        return tf.sin(total), tf.cos(3 * total)


@pytest.mark.parametrize("flip", [False, True])
def test_checkerboard_coupling_matches_the_formula(flip):
    mask = nvp.masks.checkerboard(3, 4, flip=flip)
    network = Recorder(2)
    coupling = nvp.AffineCoupling(network, mask)
    x = random_tensor(SHAPE, "float64", seed=0)
    y = coupling.forward(x).numpy()
    np.testing.assert_array_equal(network.kept, np.where(mask, x, 0.0))
    shift, log_scale = network(tf.where(mask, x, 0.0))
    b = mask.astype(float)
    np.testing.assert_allclose(y, x * np.exp((1 - b) * log_scale) + (1 - b) * shift, rtol=1e-12)
    log_det = coupling.forward_log_det_jacobian(x, event_ndims=3)
    np.testing.assert_allclose(log_det, np.sum((1 - b) * log_scale, axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(coupling.inverse(tf.constant(y)), x, rtol=1e-10)


@pytest.mark.parametrize("flip", [False, True])
def test_channelwise_coupling_sees_only_the_kept_channels(flip):
    mask = nvp.masks.channelwise(3, flip=flip)
    moved = ~mask[0, 0]
    network = Recorder(int(moved.sum()))
    coupling = nvp.AffineCoupling(network, mask)
    x = random_tensor((5, 2, 3, 3), "float64", seed=0).numpy()
    y = coupling.forward(x).numpy()
    np.testing.assert_array_equal(network.kept, x[..., ~moved])
    shift, log_scale = network(tf.constant(x[..., ~moved]))
    np.testing.assert_allclose(y[..., moved], x[..., moved] * np.exp(log_scale) + shift, rtol=1e-12)
    log_det = coupling.forward_log_det_jacobian(x, event_ndims=3)
    np.testing.assert_allclose(log_det, np.sum(log_scale, axis=(1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("mask", [BOARD, nvp.masks.channelwise(2)], ids=["checkerboard", "channelwise"])
def test_kept_pixels_stay_the_same_bit_for_bit(mask):
    """A NaN or infinite kept pixel makes the moved pixels NaN. An infinite moved pixel does not change kept pixels."""
    kept = np.broadcast_to(mask, SHAPE)
    finite = np.where(kept, np.resize([-0.0, 1e-310, 1.0], SHAPE), random_tensor(SHAPE, "float64", seed=0))
    special = np.where(kept, np.resize([np.nan, np.inf, -0.0, 1e-310, -np.inf, 1.0], SHAPE), finite)

    def network(kept):
        shape = tf.shape(kept)  # With two halves of the channels, the moved part has the same shape.
        return tf.fill(shape, tf.constant(0.5, tf.float64)), tf.fill(shape, tf.constant(np.inf, tf.float64))

    for x, is_expected in ((finite, np.isinf), (special, np.isnan)):
        y = nvp.AffineCoupling(network, mask).forward(x).numpy()
        np.testing.assert_array_equal(y[kept].view(np.uint64), x[kept].view(np.uint64))
        assert np.all(is_expected(y[~kept]))


def test_gradients_are_finite_where_a_kept_pixel_would_overflow():
    x = random_tensor((2, 3, 4, 1), "float64", seed=0)
    log_scale = tf.Variable(tf.where(BOARD, tf.fill([2, 3, 4, 1], tf.constant(1e4, tf.float64)), 0.1))
    coupling = nvp.AffineCoupling(lambda kept: (tf.zeros_like(kept), tf.identity(log_scale)), BOARD)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(coupling.forward(x))
    gradient = tape.gradient(loss, log_scale).numpy()
    assert np.all(np.isfinite(gradient)) and np.all((gradient != 0) == ~np.broadcast_to(BOARD, gradient.shape))


def test_the_coupling_builds_its_layer():
    class Net(keras.layers.Layer):
        def __init__(self, size):
            super().__init__()
            self.conv = keras.layers.Conv2D(2 * size, 3, padding="same")

        def build(self, shape):
            self.conv.build(shape)
            self.built = True

        def call(self, kept):
            return keras.ops.split(self.conv(kept), 2, axis=-1)

    for mask, size, shape in (
        (BOARD, 1, (3, 4, 1)),
        (np.repeat(BOARD, 2, axis=-1), 2, (3, 4, 2)),
        (nvp.masks.channelwise(3), 1, (2, 5, 3)),
    ):
        coupling = nvp.AffineCoupling(Net(size), mask)
        assert len(coupling.trainable_variables) == 2
        assert coupling.forward(tf.zeros([2, *shape])).shape == (2, *shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nvp.AffineCoupling(Recorder(2), BOARD).forward(tf.zeros([4, 4, 1])), r"shape \[\.\.\., 3, 4, None\]"),
        (lambda: nvp.AffineCoupling(Recorder(2), BOARD).forward(tf.zeros([4, 1])), r"shape \[\.\.\., 3, 4, None\]"),
        (
            lambda: nvp.AffineCoupling(Recorder(1), nvp.masks.channelwise(2)).forward(tf.zeros([3, 4, 1])),
            "None, None, 2",
        ),
        (
            lambda: nvp.AffineCoupling(Recorder(2), nvp.masks.channelwise(2)).forward(tf.zeros([3, 4, 2])),
            r"each \[N, H, W, 1\], got shapes \(1, 3, 4, 2\) and",
        ),
        (lambda: nvp.AffineCoupling(Recorder(2), np.ones([2, 2], bool)), r"mask must be a boolean vector \[D\], or"),
        (lambda: nvp.AffineCoupling(Recorder(2), np.ones([2, 2, 1], bool)), "mask must keep a part"),
        (lambda: nvp.ConvResNet(0), "output_size must be an integer of at least 1, got 0"),
        (lambda: nvp.ConvResNet(1, scale_penalty=-1.0), "scale_penalty must be at least 0 and finite, got -1.0"),
        (lambda: nvp.ConvResNet(1, mask=[1, 0]), r"mask must be a boolean array \[H, W, 1\]"),
        (lambda: nvp.ConvResNet(1, mask=np.repeat(BOARD, 2, axis=-1)), r"\[H, W, 1\], got dtype bool .* \[3, 4, 2\]"),
        (lambda: nvp.ConvResNet(1, seed=2**70), "seed must fit into 64 bits"),
        (lambda: nvp.ConvResNet(1)(tf.zeros([3, 4])), r"kept must have shape \[N, H, W, c\], got shape \[3, 4\]"),
        (lambda: nvp.ConvResNet(1)(tf.zeros([2, 3, 4, 0])), r"kept must have shape .* got shape \[2, 3, 4, 0\]"),
        (
            lambda: NET(tf.zeros([2, 4, 4, 1]), CONTEXT),
            r"kept must have shape \[N, 3, 4, c\], as mask is, got .* 4, 4, 1",
        ),
        (
            lambda: NET(tf.zeros([2, 3, 4, 2]), CONTEXT),
            r"kept must have 1 channels, as in the first call, got .*4, 2\]",
        ),
        (lambda: NET(tf.zeros([3, 3, 4, 1]), CONTEXT), r"context must have shape \[3, 5\], got shape \[2, 5\]"),
        (lambda: NET(tf.zeros([2, 3, 4, 1]), CONTEXT[:1]), r"context must have shape \[2, 5\], got shape \[1, 5\]"),
        (lambda: NET(tf.zeros([2, 3, 4, 1]), CONTEXT[:, :4]), r"context must have shape \[2, 5\], got shape \[2, 4\]"),
        (lambda: NET(tf.zeros([2, 3, 4, 1]), CONTEXT[0]), r"context must have shape .* got shape \[5\]"),
        (lambda: NET(tf.zeros([2, 3, 4, 1])), r"context must have shape \[N, 5\], got None"),
    ],
)
def test_wrong_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mask_of_one_channel_fits_a_network_of_several_channels():
    network = nvp.ConvResNet(2, num_blocks=1, num_channels=4, mask=BOARD)
    coupling = nvp.AffineCoupling(network, BOARD)
    assert coupling.forward(random_tensor(SHAPE, "float32", seed=0)).shape == SHAPE


@pytest.mark.parametrize("compiled", [False, True])
def test_batches_without_images(compiled):
    network = nvp.ConvResNet(2, num_blocks=1, num_channels=4, mask=BOARD)
    coupling = nvp.AffineCoupling(network, BOARD)

    def loss(x):
        y = coupling.forward(x)
        return y, tf.reduce_sum(y) + tf.reduce_sum(coupling.inverse_log_det_jacobian(y, event_ndims=3))

    if compiled:
        loss = tf.function(loss, input_signature=[tf.TensorSpec([None, *SHAPE[1:]])])
    for rows in (0, 2):
        with tf.GradientTape() as tape:
            y, value = loss(tf.ones([rows, *SHAPE[1:]]))
        assert y.shape == (rows, *SHAPE[1:])
        assert all(gradient is not None for gradient in tape.gradient(value, coupling.trainable_variables))


def test_only_the_scales_have_a_penalty():
    network = nvp.ConvResNet(2, num_blocks=2, num_channels=4, scale_penalty=0.01)
    network.build((None, 4, 4, 2))
    scales = [variable for variable in network.trainable_variables if variable.path.endswith("/scale")]
    assert len(scales) == 1 + 2 * 2 + 3 + 1
    expected = 0.01 * sum(np.sum(np.square(scale)) for scale in scales)
    np.testing.assert_allclose(sum(network.losses), expected, rtol=1e-6)


def test_conv_resnet_starts_at_the_identity_and_can_be_rebuilt(tmp_path):
    network = nvp.ConvResNet(2, num_blocks=1, num_channels=4, mask=BOARD, seed=0)
    x = random_tensor(SHAPE, "float32", seed=0)
    for output in network(x):
        np.testing.assert_array_equal(output, np.zeros(SHAPE))
    for index, variable in enumerate(network.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, "float32", seed=index, stddev=0.1))
    copy = nvp.ConvResNet.from_config(network.get_config())
    copy(x)
    copy.set_weights(network.get_weights())
    for one, other in zip(network(x), copy(x), strict=True):
        assert np.max(np.abs(one)) > 0.0
        np.testing.assert_array_equal(one, other)


def test_a_seed_fixes_every_weight():
    networks = [nvp.ConvResNet(2, num_blocks=2, num_channels=4, seed=3) for _ in range(2)]
    for network in networks:
        network.build((None, 3, 4, 2), (None, 5))
    one, other = (network.get_weights() for network in networks)
    for weight, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(weight, same)
    drawn = [weight for weight in one if weight.ndim > 1 and np.any(weight)]
    assert len({weight.tobytes() for weight in drawn}) == len(drawn) == 1 + 2 * 3 + 3 + 1
