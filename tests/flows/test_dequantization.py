"""Integer images: their density with noise added to the pixels, and errors for pixels out of range."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.image_flows import images_of, perturbed, small_flow, trained_flow
from registry import random_tensor

pytestmark = [pytest.mark.optimized, pytest.mark.default_steps]


@pytest.fixture
def trained():
    return trained_flow()


def test_loss_is_computed_on_images_with_noise(trained):
    flow, *_ = trained
    images = images_of(256, seed=2)
    losses = [flow.evaluate(images, verbose=0, return_dict=True)["loss"] for _ in range(2)]
    assert losses[0] != losses[1]
    noise = np.random.default_rng(0).uniform(size=(16, *images.shape))
    expected = -np.mean([flow.predict(images + each, verbose=0) for each in noise])
    assert np.mean(losses) == pytest.approx(expected, abs=0.3)
    x = images + 0.5
    np.testing.assert_allclose(flow.predict(x, verbose=0), flow.log_prob(x), rtol=1e-4)
    np.testing.assert_array_equal(flow(x), flow(x))


def test_log_prob_of_integer_images_is_the_mean_over_noise(trained):
    flow, *_ = trained
    images = images_of(4, seed=2)
    noise = np.random.default_rng(0).uniform(size=(1000, *images.shape))
    log_probs = flow.log_prob(images + noise).numpy()
    actual = flow.log_prob(images, dequantize=1000, seed=1)
    error = log_probs.std(axis=0) / np.sqrt(1000)
    assert np.all(np.abs(actual - log_probs.mean(axis=0)) < 6 * error) and np.all(error < 0.2)
    corners = flow.log_prob(images.astype("float32"))
    assert np.sum(np.abs(actual - corners) > 6 * error) >= 3  # of 4; at one corner the density may be near the mean
    np.testing.assert_array_equal(flow.log_prob(images.astype("float32"), dequantize=1000, seed=1), actual)
    # The seed fixes the noise. Without a seed, each call draws new noise.
    one, same, other = (flow.log_prob(images, dequantize=1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)
    assert np.all(flow.log_prob(images, dequantize=1) != flow.log_prob(images, dequantize=1))
    assert flow.log_prob(images[0], dequantize=2).shape == ()


@pytest.mark.usefixtures("eagerly")
def test_images_and_contexts_broadcast_with_dequantize():
    flow = perturbed(small_flow(num_scales=1, context_shape=2, dtype="float64"))
    context = 10 * random_tensor((3, 2), "float64", seed=1)
    noisy = flow.log_prob(images_of(2)[:, np.newaxis], context, dequantize=200, seed=0)
    assert noisy.shape == (2, 3)
    expected = flow.log_prob(images_of(2)[:, np.newaxis] + 0.5, context).numpy()
    assert np.ptp(expected, axis=1).min() > 1.0
    np.testing.assert_allclose(noisy, expected, atol=0.5)
    assert flow.log_prob(images_of(1)[0], context, dequantize=2).shape == (3,)


def test_integer_images_without_dequantize_are_an_error(trained):
    flow, *_ = trained
    images = images_of(4)
    for integers in (images, images.astype("int64"), tf.constant(images), images > 8, images.tolist()):
        with pytest.raises(ValueError, match=r"x must hold continuous pixels .*log_prob\(images, dequantize=n\)"):
            flow.log_prob(integers)
    batches = tf.data.Dataset.from_tensor_slices(images).batch(2)
    for use, data in (
        (flow, images),
        (flow.predict, images),
        (flow.predict, batches),
        (flow.predict, ((batch,) for batch in batches)),
        (flow.predict_on_batch, images),
        (tf.function(flow.log_prob), images),
    ):
        with pytest.raises(ValueError, match=r"continuous pixels .* got dtype uint8: .*dequantize=n"):
            use(data)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            images_of(4) / 2,
            {},
            r"x must hold whole numbers from 0 to num_levels - 1 = 15, got .* in 4 of its 4 images: 0, 1, 2, 3",
        ),
        (images_of(2) + 12, {}, "x must hold whole numbers .* = 15, got .* in 2 of its 2 images: 0, 1"),
        (images_of(2), {"dequantize": 0}, "dequantize must be an integer of at least 1, got 0"),
        (images_of(2), {"dequantize": 1.5}, "dequantize must be an integer of at least 1, got 1.5"),
        (images_of(2), {"seed": "a"}, "seed must be an integer or a pair of int32, got 'a'"),
        (images_of(2), {"context": np.zeros((2, 1))}, "unexpected context"),
        (images_of(2)[:, :3], {}, r"x must have shape \[..., 4, 4, 1\], got \[2, 3, 4, 1\]"),
    ],
)
def test_invalid_arguments_with_dequantize_are_refused(trained, images, options, message):
    with pytest.raises(ValueError, match=message):
        trained[0].log_prob(images, **{"dequantize": 2} | options)


def test_wrong_pixels_with_dequantize_have_a_nan_density_in_a_graph(trained):
    flow, *_ = trained
    images = images_of(4).astype("float32")
    images[1, 0, 0, 0], images[2, 3, 3, 0] = 0.5, np.nan
    log_prob = tf.function(lambda images: flow.log_prob(images, dequantize=2))(images)
    np.testing.assert_array_equal(np.isnan(log_prob), [False, True, True, False])
    images[1] = images_of(1)[0]  # Eagerly, a fraction is an error, but a NaN pixel makes only that image's density NaN.
    np.testing.assert_array_equal(np.isnan(flow.log_prob(images, dequantize=2)), [False, False, True, False])


@pytest.mark.usefixtures("eagerly")
def test_loaded_flow_continues_with_the_same_noise(trained, tmp_path):
    flow, *_ = trained
    flow.save(tmp_path / "flow.keras")
    flow.save_weights(tmp_path / "flow.weights.h5")
    loaded, fresh = keras.models.load_model(tmp_path / "flow.keras"), small_flow(num_scales=1)
    fresh.load_weights(tmp_path / "flow.weights.h5")
    with_new_noise = small_flow(num_scales=1)
    with_new_noise.set_weights(flow.get_weights())
    for other in (fresh, with_new_noise):
        other.compile("adam")
    losses = [each.evaluate(images_of(3), verbose=0)[0] for each in (flow, loaded, fresh, with_new_noise)]
    assert losses[0] == losses[1] == losses[2] != losses[3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_levels", [2, 256, 2**16])
def test_largest_alpha_keeps_pixel_values_distinct(num_levels, dtype):
    largest = 0.5 - 32 * num_levels * np.finfo(dtype).eps
    with pytest.raises(ValueError, match=rf"alpha must be from .* to {largest} in {dtype} with num_levels = "):
        nvp.Pixels(num_levels, alpha=np.nextafter(largest, 1.0), dtype=dtype)
    pixels = nvp.Pixels(num_levels, alpha=largest, dtype=dtype)
    y = (np.arange(num_levels) + np.random.default_rng(0).uniform(size=num_levels)).astype(dtype)
    logits = pixels.inverse(y)
    np.testing.assert_allclose(pixels.forward(tf.identity(logits)), y, rtol=0, atol=0.03)
    corners = pixels.inverse(np.arange(num_levels).astype(dtype)).numpy()
    assert np.all(corners[:-1] <= logits[:-1]) and np.all(logits[:-1] < corners[1:] + 0.03 * np.diff(corners))


@pytest.mark.parametrize("pixels", [16.0, -1.0, 0.5])
def test_arrays_with_pixels_out_of_range_are_refused(trained, pixels):
    flow, *_ = trained
    images = images_of(8).astype("float32")
    images[3, 0, 0, 0] = pixels
    for use in (flow.evaluate, flow.fit):
        with pytest.raises(
            ValueError, match=f"x must hold whole numbers from 0 to .* = 15, got {pixels} in 1 of its 8 images: 3$"
        ):
            use(images, verbose=0)
    with pytest.raises(ValueError, match="validation_data must hold whole numbers"):
        flow.fit(images_of(8), validation_data=images, verbose=0)


def test_error_for_images_in_the_unit_interval_says_how_to_scale_them(trained):
    flow, *_ = trained
    hint = r"images in \[0, 1\] must be scaled: np.round\(\(num_levels - 1\) \* images\)$"
    for scaled in (images_of(8) / 16, tf.data.Dataset.from_tensors(images_of(8) / 16)):
        with pytest.raises(ValueError, match=f"x must hold whole numbers .*{hint}"):
            flow.evaluate(scaled, verbose=0)
    for other in (images_of(8) + 0.5, tf.data.Dataset.from_tensors(images_of(8) + 0.5)):
        with pytest.raises(ValueError, match=r"whole numbers .* (images: 0, 1, 2, 3, 4, 5, 6, 7|does not)$"):
            flow.evaluate(other, verbose=0)


def test_datasets_with_pixels_out_of_range_are_refused(trained):
    flow, *_ = trained
    data = tf.data.Dataset.from_tensor_slices(images_of(8) / 16).batch(4)
    with pytest.raises(
        ValueError, match=r"x must hold whole numbers from 0 to .* = 15; a batch of the dataset does not"
    ):
        flow.evaluate(data, verbose=0)


def test_generators_with_pixels_out_of_range_have_a_nan_loss(trained):
    """These pixels are not checked before training. Images scaled to [0, 1] would have a finite but wrong density."""
    flow, *_ = trained
    before = flow.get_weights()
    with pytest.warns(RuntimeWarning, match="the loss is nan in epoch 1, batch 1"):
        flow.fit(((images_of(8) / 16,) for _ in range(2)), steps_per_epoch=2, verbose=0)
    for weight, other in zip(flow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert np.isnan(flow.test_on_batch(images_of(8) / 16, return_dict=True)["loss"])


def test_continuous_pixels_out_of_range_are_refused(trained):
    flow, *_ = trained
    x, log_prob = flow.sample_and_log_prob(500, seed=0)  # some samples lie slightly out of range
    np.testing.assert_allclose(flow.log_prob(x), log_prob, rtol=1e-3, atol=1e-2)
    saturated = flow.bijector().forward(30 * tf.ones([1, 16]))
    batch = np.concatenate([x[:2], np.full_like(x[:1], np.nan), saturated])
    assert np.all(np.isfinite(flow.log_prob(batch)[:2])) and np.isnan(flow.log_prob(batch)[2])
    for use in (flow.log_prob, flow, flow.predict):
        use(batch)
        with pytest.raises(
            ValueError, match=r"x must hold pixels from 0 to num_levels = 16, got 40.0 in 1 of its 2 images: 1"
        ):
            use(np.stack([x[0], np.full_like(x[0], 40.0)]))


def test_autograph_can_convert_the_check_of_a_flow_of_vectors():
    """Otherwise `tf.function(flow.log_prob)` prints a warning."""
    tf.autograph.to_graph(nvp.RealNVP(2, num_couplings=1)._dequantization.check_continuous)
