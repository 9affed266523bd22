"""Real NVP for images: the architecture, its density, training and files."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from conftest import run
from registry import jacobian, random_tensor
from tfp_realnvp.bijectors import Coupling, FactorOut
from tfp_realnvp.flows.arguments import _couplings

LEVELS = 16


def small_flow(event_shape=(4, 4, 1), **options):
    sizes = {"num_blocks": 1, "num_channels": 4, "num_levels": LEVELS, "seed": 0}
    return nvp.ImageRealNVP(event_shape, **sizes | options)


def images_of(rows, event_shape=(4, 4, 1), seed=0):
    """Noisy ramps of any brightness: pixels that depend on each other, and nothing at the edge of the range."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0.0, 4.0, event_shape[1])[:, np.newaxis]
    images = 4.0 + ramp + random.uniform(0.0, 6.0, (rows, 1, 1, 1)) + random.normal(0.0, 0.5, (rows, *event_shape))
    return np.clip(np.floor(images), 0, LEVELS - 1).astype("uint8")


def perturbed(flow):
    """The flow with weights away from the identity, and with statistics as training would have left them."""
    for index, variable in enumerate(flow.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, variable.dtype, seed=index, stddev=0.3))
    variances = [variable for variable in flow.non_trainable_variables if "variance" in variable.path]
    assert len(variances) > len(flow.conditioners)  # those of networks, and those between couplings
    for index, variable in enumerate(variances):
        variable.assign(tf.exp(random_tensor(variable.shape, variable.dtype, seed=index, stddev=0.5)))
    return flow


@pytest.fixture(scope="module")
def trained():
    flow = small_flow(num_scales=1)
    flow.compile(keras.optimizers.Adam(1e-2, global_clipnorm=100.0))
    images = images_of(512)
    before = flow.evaluate(images, verbose=0, return_dict=True)
    history = flow.fit(images, epochs=8, batch_size=64, validation_data=images_of(128, seed=1), verbose=0).history
    return flow, before, history


# The density


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
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = bijector.inverse(x)
    size = math.prod(event_shape)
    assert z.shape == (3, size)
    slopes = jacobian(z, x, tape)
    expected = np.linalg.slogdet(slopes)[1]
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(tf.identity(x), 3), expected, atol=1e-8)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(tf.identity(z), 1), -expected, atol=1e-8)
    np.testing.assert_allclose(bijector.forward(tf.identity(z)), x, atol=1e-9)
    gaussian = -0.5 * np.sum(z.numpy() ** 2, axis=1) - 0.5 * size * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob(x, *contexts), gaussian + expected, atol=1e-8)
    assert np.all(np.any(slopes != 0, axis=(0, 1))) and np.mean(slopes != 0) > 0.6  # every pixel, in most latents


def test_the_couplings_of_each_scale():
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


def test_what_is_factored_out_first_is_a_checkerboard():
    """At the start every coupling is the identity, and a latent the logit of a pixel."""
    flow = small_flow((4, 4, 1))
    x = np.random.default_rng(0).uniform(0.0, LEVELS, (2, 4, 4, 1)).astype("float32")
    z = flow.bijector().inverse(x).numpy()
    share = 0.05 + 0.9 * x / LEVELS
    logits = np.log(share) - np.log1p(-share)
    board = nvp.masks.checkerboard(4, 4)[..., 0]
    for latents, pixels in ((z[:, :8], logits[:, board, 0]), (z[:, 8:], logits[:, ~board, 0])):
        np.testing.assert_allclose(np.sort(latents), np.sort(pixels), rtol=2e-3, atol=1e-4)  # BatchNorm's epsilon


# Training


def test_training_reaches_a_better_code(trained):
    flow, before, history = trained
    assert set(history) == {"loss", "bits_per_dim", "val_loss", "val_bits_per_dim"}
    assert history["val_bits_per_dim"][-1] < before["bits_per_dim"] - 0.5
    bits = np.array(history["val_loss"]) / (16 * math.log(2))
    np.testing.assert_allclose(history["val_bits_per_dim"], bits, rtol=1e-5)
    assert history["bits_per_dim"][-1] < history["loss"][-1] / (16 * math.log(2))  # which has the penalty, too
    result = flow.evaluate(images_of(128, seed=1), verbose=0, return_dict=True)
    assert result["bits_per_dim"] == pytest.approx(history["val_bits_per_dim"][-1], abs=0.05)


def test_held_out_images_do_not_lag_those_of_training(trained):
    """Averages of the networks' batch normalisation that follow the weights too slowly cost 0.18 bits/dim here."""
    *_, history = trained
    held_out, training = (np.mean(history[name][-3:]) for name in ("val_bits_per_dim", "bits_per_dim"))
    assert held_out < training + 0.1


def test_the_loss_is_that_of_noisy_images(trained):
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
    of_each = flow.log_prob(images + noise).numpy()
    actual = flow.log_prob(images, dequantize=1000, seed=1)
    error = of_each.std(axis=0) / np.sqrt(1000)
    assert np.all(np.abs(actual - of_each.mean(axis=0)) < 6 * error) and np.all(error < 0.2)
    corners = flow.log_prob(images.astype("float32"))
    assert np.all(np.abs(actual - corners) > 10 * error)
    np.testing.assert_array_equal(flow.log_prob(images.astype("float32"), dequantize=1000, seed=1), actual)
    # One draw is a density of noisy images, another with each seed; many draws are several calls.
    one, same, other = (flow.log_prob(images, dequantize=1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)
    assert np.all(flow.log_prob(images, dequantize=1) != flow.log_prob(images, dequantize=1))
    assert flow.log_prob(images[0], dequantize=2).shape == ()


def test_images_and_contexts_that_broadcast_under_noise():
    flow = perturbed(small_flow(num_scales=1, context_shape=2, dtype="float64"))
    context = 10 * random_tensor((3, 2), "float64", seed=1)
    noisy = flow.log_prob(images_of(2)[:, np.newaxis], context, dequantize=200, seed=0)
    assert noisy.shape == (2, 3)
    expected = flow.log_prob(images_of(2)[:, np.newaxis] + 0.5, context).numpy()
    assert np.ptp(expected, axis=1).min() > 1.0
    np.testing.assert_allclose(noisy, expected, atol=0.5)
    assert flow.log_prob(images_of(1)[0], context, dequantize=2).shape == (3,)


def test_integers_without_noise_are_an_error(trained):
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
            r"x must hold whole numbers from 0 to num_levels - 1 = 15; the images 0, 1, 2, 3 do not",
        ),
        (images_of(2) + 12, {}, "x must hold whole numbers .* = 15; the images 0, 1 do not"),
        (images_of(2), {"dequantize": 0}, "dequantize must be an integer of at least 1, got 0"),
        (images_of(2), {"dequantize": 1.5}, "dequantize must be an integer of at least 1, got 1.5"),
        (images_of(2), {"seed": "a"}, "seed must be an integer or a pair of int32, got 'a'"),
        (images_of(2), {"context": np.zeros((2, 1))}, "unexpected context"),
        (images_of(2)[:, :3], {}, r"x must have shape \[..., 4, 4, 1\], got \[2, 3, 4, 1\]"),
    ],
)
def test_bad_arguments_of_noise(trained, images, options, message):
    with pytest.raises(ValueError, match=message):
        trained[0].log_prob(images, **{"dequantize": 2} | options)


def test_wrong_pixels_under_noise_have_no_density_in_a_graph(trained):
    flow, *_ = trained
    images = images_of(4).astype("float32")
    images[1, 0, 0, 0], images[2, 3, 3, 0] = 0.5, np.nan
    log_prob = tf.function(lambda images: flow.log_prob(images, dequantize=2))(images)
    np.testing.assert_array_equal(np.isnan(log_prob), [False, True, True, False])
    images[1] = images_of(1)[0]  # Without a wrong number, NaN is no error outside of a graph either.
    np.testing.assert_array_equal(np.isnan(flow.log_prob(images, dequantize=2)), [False, False, True, False])


def test_datasets_and_weights(trained):
    flow, *_ = trained
    images = images_of(64, seed=3)
    data = tf.data.Dataset.from_tensor_slices(images).batch(32)
    assert flow.evaluate(data, verbose=0) == pytest.approx(flow.evaluate(images, verbose=0), abs=1.0)
    weights = np.repeat([2.0, 0.0], 32)
    weighted = flow.evaluate(images, sample_weight=weights, verbose=0, return_dict=True)
    assert weighted["bits_per_dim"] == pytest.approx(weighted["loss"] / (16 * math.log(2)), rel=1e-5)
    assert weighted["loss"] == pytest.approx(flow.evaluate(images[:32], verbose=0, return_dict=True)["loss"], abs=1.5)


def test_noise_goes_on_where_a_file_left_off(trained, tmp_path):
    flow, *_ = trained
    flow.save(tmp_path / "flow.keras")
    flow.save_weights(tmp_path / "flow.weights.h5")
    loaded, fresh = keras.models.load_model(tmp_path / "flow.keras"), small_flow(num_scales=1)
    fresh.load_weights(tmp_path / "flow.weights.h5")
    shape = tf.constant([3, 4, 4, 1])
    expected, first = flow._noise(shape), small_flow(num_scales=1)._noise(shape)
    assert not np.any(np.equal(expected, first))
    for other in (loaded, fresh):
        np.testing.assert_array_equal(other._noise(shape), expected)


def test_no_image_at_all(trained):
    flow, *_ = trained
    assert flow.sample(0).shape == (0, 4, 4, 1)
    assert flow.log_prob(np.zeros((0, 4, 4, 1), "float32")).shape == (0,)


def test_adapt_standardises_the_context_alone():
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


def test_samples_are_pixels(trained):
    flow, *_ = trained
    sample = flow.sample(500, seed=1).numpy()
    assert sample.shape == (500, 4, 4, 1)
    assert sample.min() >= 0.0 and sample.max() < LEVELS
    x, log_prob = flow.sample_and_log_prob(500, seed=1)
    np.testing.assert_array_equal(sample, np.clip(x, 0.0, np.nextafter(np.float32(LEVELS), 0)))
    np.testing.assert_allclose(flow.log_prob(x), log_prob, atol=1e-2)
    assert abs(sample.mean() - images_of(512).mean() - 0.5) < 1.0


def test_a_label_conditions_the_image():
    flow = small_flow(num_scales=1, context_shape=2)
    flow.compile(keras.optimizers.Adam(1e-2))
    labels = np.arange(512) % 2
    images = np.where(labels[:, np.newaxis, np.newaxis, np.newaxis] == 1, images_of(512) // 2, images_of(512))
    data = {"x": images.astype("uint8"), "context": np.eye(2, dtype="float32")[labels]}
    flow.fit(data, epochs=10, batch_size=64, verbose=0)
    dark, bright = (flow.sample(200, context=np.eye(2)[label], seed=1).numpy().mean() for label in (1, 0))
    assert bright - dark > 2.0
    assert flow.distribution(np.eye(2)).batch_shape == (2,)


# Files


def test_files(tmp_path):
    flow = perturbed(small_flow(num_scales=1))
    images = images_of(20, seed=4)
    flow.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.log_prob(images + 0.5), flow.log_prob(images + 0.5))
    assert loaded.num_levels == LEVELS
    flow.export(tmp_path / "export")
    np.savez(tmp_path / "x.npz", x=images.astype("float32"))
    run(
        """
import sys, numpy as np, tensorflow as tf
served, x = tf.saved_model.load(sys.argv[1]).signatures, tf.constant(np.load(sys.argv[2])["x"])
z = served["inverse"](x=x)
back = served["forward"](z=z["z"])
np.testing.assert_allclose(back["x"], x, atol=1e-2)
np.testing.assert_allclose(back["log_det"], -z["log_det"], rtol=1e-3, atol=1e-2)
log_prob = -0.5 * np.sum(z["z"].numpy() ** 2 + np.log(2 * np.pi), axis=1) + z["log_det"]
np.testing.assert_allclose(served["serving_default"](x=x)["log_prob"], log_prob, rtol=1e-3)
try:
    served["serving_default"](x=tf.cast(x, tf.uint8))
except tf.errors.InvalidArgumentError as error:
    assert "expected to be a float tensor but is a uint8 tensor" in error.message
else:
    raise AssertionError("integers have a density")
sample = served["sample"](num_samples=tf.constant(50), seed=tf.constant([0, 1]))["x"].numpy()
assert sample.shape == (50, 4, 4, 1) and sample.min() >= 0 and sample.max() < 16
""",
        tmp_path / "export",
        tmp_path / "x.npz",
    )


# Errors


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
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_levels", [2, 256, 2**16])
def test_the_largest_alpha_keeps_pixel_values_apart(num_levels, dtype):
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
def test_pixels_out_of_range(trained, pixels):
    flow, *_ = trained
    images = images_of(8).astype("float32")
    images[3, 0, 0, 0] = pixels
    for use in (flow.evaluate, flow.fit):
        with pytest.raises(
            ValueError, match=f"x must hold whole numbers from 0 to .* = 15; the images 3 do not: {pixels} is"
        ):
            use(images, verbose=0)
    with pytest.raises(ValueError, match="validation_data must hold whole numbers"):
        flow.fit(images_of(8), validation_data=images, verbose=0)


def test_images_scaled_to_the_unit_interval_get_a_hint(trained):
    flow, *_ = trained
    hint = r"images in \[0, 1\] must be scaled: np.round\(\(num_levels - 1\) \* images\)$"
    for scaled in (images_of(8) / 16, tf.data.Dataset.from_tensors(images_of(8) / 16)):
        with pytest.raises(ValueError, match=f"x must hold whole numbers .*{hint}"):
            flow.evaluate(scaled, verbose=0)
    for other in (images_of(8) + 0.5, tf.data.Dataset.from_tensors(images_of(8) + 0.5)):
        with pytest.raises(ValueError, match=r"whole numbers .* (is none|does not)$"):
            flow.evaluate(other, verbose=0)


def test_pixels_of_a_dataset_out_of_range(trained):
    flow, *_ = trained
    data = tf.data.Dataset.from_tensor_slices(images_of(8) / 16).batch(4)
    with pytest.raises(
        ValueError, match=r"x must hold whole numbers from 0 to .* = 15; a batch of the dataset does not"
    ):
        flow.evaluate(data, verbose=0)


def test_pixels_of_a_generator_out_of_range(trained):
    """Nobody looks at them before; images scaled to [0, 1] would have a density, but none per pixel."""
    flow, *_ = trained
    before = flow.get_weights()
    with pytest.warns(RuntimeWarning, match="the loss is nan in epoch 1, batch 1"):
        flow.fit(((images_of(8) / 16,) for _ in range(2)), steps_per_epoch=2, verbose=0)
    for weight, other in zip(flow.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert np.isnan(flow.test_on_batch(images_of(8) / 16, return_dict=True)["loss"])


def test_continuous_pixels_out_of_range(trained):
    flow, *_ = trained
    x, log_prob = flow.sample_and_log_prob(500, seed=0)  # some of them a little beyond the pixels
    np.testing.assert_allclose(flow.log_prob(x), log_prob, rtol=1e-3, atol=1e-2)
    saturated = flow.bijector().forward(30 * tf.ones([1, 16]))
    batch = np.concatenate([x[:2], np.full_like(x[:1], np.nan), saturated])
    assert np.all(np.isfinite(flow.log_prob(batch)[:2])) and np.isnan(flow.log_prob(batch)[2])
    for use in (flow.log_prob, flow, flow.predict):
        use(batch)
        with pytest.raises(ValueError, match="x must hold pixels from 0 to num_levels = 16; the images 1 do not: 40"):
            use(np.stack([x[0], np.full_like(x[0], 40.0)]))
