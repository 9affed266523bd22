"""ImageRealNVP: architecture, density, training, files and errors."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.image_flows import LEVELS, images_of, perturbed, small_flow, trained_flow
from registry import random_tensor, value_and_jacobian
from tfp_realnvp.bijectors import Coupling, FactorOut
from tfp_realnvp.flows.arguments import _couplings

pytestmark = pytest.mark.optimized


@pytest.fixture
def trained():
    return trained_flow()


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("event_shape", "num_scales", "context"),
    [((4, 6, 3), 2, True), ((8, 4, 1), 3, False), ((3, 2, 2), 1, False)],
)
def test_round_trip_and_log_det(event_shape, num_scales, context):
    flow = small_flow(event_shape, num_scales=num_scales, context_shape=2 if context else None, dtype="float64")
    perturbed(flow)
    x = np.random.default_rng(0).uniform(0.0, LEVELS, (3, *event_shape))
    contexts = [random_tensor((3, 2), "float64", seed=1)] if context else []
    bijector = flow.bijector(*contexts)
    x, size = tf.constant(x), math.prod(event_shape)
    z, slopes = value_and_jacobian(bijector.inverse, x, 3)
    assert z.shape == (3, size)
    expected = np.linalg.slogdet(slopes)[1]
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(tf.identity(x), 3), expected, atol=1e-8)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(tf.constant(z), 1), -expected, atol=1e-8)
    np.testing.assert_allclose(bijector.forward(tf.constant(z)), x, atol=1e-9)
    gaussian = -0.5 * np.sum(z**2, axis=1) - 0.5 * size * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob(x, *contexts), gaussian + expected, atol=1e-8)
    assert np.all(np.any(slopes != 0, axis=(0, 1))) and np.mean(slopes != 0) > 0.6  # each pixel affects most latents


def test_masks_and_channels_of_each_scale():
    flow = small_flow((8, 8, 3), num_scales=3, num_channels=2)
    shapes = [(coupling.mask.shape, coupling.conditioner.num_channels) for coupling in _couplings(flow.distribution())]
    assert shapes == [
        *(3 * [((8, 8, 3), 2)] + 3 * [((1, 1, 12), 4)]),
        *(3 * [((4, 4, 6), 4)] + 3 * [((1, 1, 24), 8)]),
        *(4 * [((2, 2, 12), 8)]),
    ]
    boards = [coupling.mask for coupling in _couplings(flow.distribution())][:3]
    np.testing.assert_array_equal(boards[0], ~boards[1])
    np.testing.assert_array_equal(boards[0], boards[2])
    assert all(isinstance(coupling, Coupling) for coupling in _couplings(flow.distribution()))


@pytest.mark.usefixtures("eagerly")
def test_first_latents_factored_out_form_a_checkerboard():
    """At the start every coupling is the identity, so each latent is the logit of a pixel."""
    flow = small_flow((4, 4, 1))
    x = np.random.default_rng(0).uniform(0.0, LEVELS, (2, 4, 4, 1)).astype("float32")
    z = flow.bijector().inverse(x).numpy()
    share = 0.05 + 0.9 * x / LEVELS
    logits = np.log(share) - np.log1p(-share)
    board = nvp.masks.checkerboard(4, 4)[..., 0]
    for latents, pixels in ((z[:, :8], logits[:, board, 0]), (z[:, 8:], logits[:, ~board, 0])):
        np.testing.assert_allclose(np.sort(latents), np.sort(pixels), rtol=2e-3, atol=1e-4)  # BatchNorm's epsilon


def test_training_lowers_bits_per_dim(trained):
    flow, before, history = trained
    assert set(history) == {"loss", "bits_per_dim", "val_loss", "val_bits_per_dim"}
    assert history["val_bits_per_dim"][-1] < before["bits_per_dim"] - 0.5
    bits = np.array(history["val_loss"]) / (16 * math.log(2))
    np.testing.assert_allclose(history["val_bits_per_dim"], bits, rtol=1e-5)
    assert history["bits_per_dim"][-1] < history["loss"][-1] / (16 * math.log(2))  # the loss includes a penalty
    result = flow.evaluate(images_of(128, seed=1), verbose=0, return_dict=True)
    assert result["bits_per_dim"] == pytest.approx(history["val_bits_per_dim"][-1], abs=0.05)


def test_validation_bits_per_dim_are_close_to_training(trained):
    """Validation would lose 0.18 bits/dim if the moving averages in the networks followed the weights too slowly."""
    *_, history = trained
    validation, training = (np.mean(history[name][-3:]) for name in ("val_bits_per_dim", "bits_per_dim"))
    assert validation < training + 0.1


def test_evaluate_accepts_datasets_and_sample_weights(trained):
    flow, *_ = trained
    images = images_of(64, seed=3)
    data = tf.data.Dataset.from_tensor_slices(images).batch(32)
    assert flow.evaluate(data, verbose=0) == pytest.approx(flow.evaluate(images, verbose=0), abs=1.0)
    weights = np.repeat([2.0, 0.0], 32)
    weighted = flow.evaluate(images, sample_weight=weights, verbose=0, return_dict=True)
    assert weighted["bits_per_dim"] == pytest.approx(weighted["loss"] / (16 * math.log(2)), rel=1e-5)
    assert weighted["loss"] == pytest.approx(flow.evaluate(images[:32], verbose=0, return_dict=True)["loss"], abs=1.5)


def test_zero_images_give_empty_samples_and_densities(trained):
    flow, *_ = trained
    assert flow.sample(0).shape == (0, 4, 4, 1)
    assert flow.log_prob(np.zeros((0, 4, 4, 1), "float32")).shape == (0,)


@pytest.mark.usefixtures("eagerly")
def test_adapt_standardises_only_the_context():
    flow = small_flow(num_scales=1, context_shape=2)
    context = np.random.default_rng(0).normal([5.0, -1.0], [3.0, 0.1], (50, 2)).astype("float32")
    x, images = np.full((50, 4, 4, 1), 3.0, "float32"), images_of(50)
    before = flow.log_prob(x, np.zeros((50, 2)))
    perturbed(flow)
    standard = (context - context.mean(axis=0)) / context.std(axis=0)
    expected = flow.log_prob(x, standard)
    assert np.ptp(expected) > 0.1 and np.ptp(before) == 0.0
    flow.adapt({"x": images, "context": context})
    np.testing.assert_allclose(flow.log_prob(x, context), expected, rtol=1e-3)


def test_samples_lie_in_the_range_of_pixels(trained):
    flow, *_ = trained
    sample = flow.sample(500, seed=1).numpy()
    assert sample.shape == (500, 4, 4, 1)
    assert sample.min() >= 0.0 and sample.max() < LEVELS
    x, log_prob = flow.sample_and_log_prob(500, seed=1)
    np.testing.assert_array_equal(sample, np.clip(x, 0.0, np.nextafter(np.float32(LEVELS), 0)))
    np.testing.assert_allclose(flow.log_prob(x), log_prob, atol=1e-2)
    assert abs(sample.mean() - images_of(512).mean() - 0.5) < 1.0


def test_samples_depend_on_the_label():
    flow = small_flow(num_scales=1, context_shape=2)
    flow.compile(keras.optimizers.Adam(1e-2))
    labels = np.arange(512) % 2
    images = np.where(labels[:, np.newaxis, np.newaxis, np.newaxis] == 1, images_of(512) // 2, images_of(512))
    data = {"x": images.astype("uint8"), "context": np.eye(2, dtype="float32")[labels]}
    flow.fit(data, epochs=10, batch_size=64, verbose=0)
    dark, bright = (flow.sample(200, context=np.eye(2)[label], seed=1).numpy().mean() for label in (1, 0))
    assert bright - dark > 2.0
    assert flow.distribution(np.eye(2)).batch_shape == (2,)


@pytest.mark.usefixtures("eagerly")
def test_loaded_flow_has_the_same_density(tmp_path):
    flow = perturbed(small_flow(num_scales=1))
    images = images_of(20, seed=4)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(images + 0.5), flow.log_prob(images + 0.5))
    assert loaded.num_levels == LEVELS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_flow((4, 4)), r"event_shape must be \(H, W, C\), got \(4, 4\)"),
        (lambda: small_flow((4, 0, 1)), r"event_shape\[1\] must be an integer of at least 1, got 0"),
        (
            lambda: small_flow((6, 4, 1), num_scales=3),
            r"multiples of .*, got \(6, 4, 1\) for num_scales = 3",
        ),
        (lambda: small_flow((4, 4, 1), num_scales=3), r"at least two pixels to the last scale, got \(4, 4, 1\)"),
        (lambda: small_flow(num_levels=1), "num_levels must be an integer of at least 2, got 1"),
        (
            lambda: small_flow(alpha=0.5),
            "alpha must be from 4.8e-07 to 0.49993896484375 in float32 with num_levels = 16, got 0.5",
        ),
        (lambda: small_flow(alpha=1e-8), "alpha must be .* got 1e-08"),
        (lambda: small_flow(dtype="bfloat16"), "dtype must be of at least 32 bits, .* got 'bfloat16'"),
        (lambda: small_flow(num_blocks=0), "num_blocks must be an integer of at least 1, got 0"),
        (lambda: small_flow(num_levels=2**16 + 1), "num_levels must be at most 65536 in float32, got 65537"),
        (lambda: small_flow(seed=-1), "seed must be .* got -1"),
        (lambda: small_flow().adapt(images_of(4)), "nothing to adapt"),
        (lambda: FactorOut([2, 2, 1], keras.layers.Dense(1)), "at least 2 channels"),
        (lambda: FactorOut([2, 2, 2], 3), "rest must be a bijector from events .* got 3"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
