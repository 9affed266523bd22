"""Noise that makes integer images continuous."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.coupling import broadcast_batch_shape
from tfp_realnvp.flows.arguments import stateless_seed
from tfp_realnvp.flows.data import check_pixels, is_pixel
from tfp_realnvp.replicas import rows_of_replicas

__all__ = ["check_floating", "mean_over_noise", "uniform_noise", "whole_numbers", "with_noise"]

_IMAGES_AT_ONCE = 64  # as in a usual batch of training


def check_floating(data: Any) -> None:
    """Raises a ValueError if images hold integers, be it an array, a dictionary with "x" or a dataset of either."""
    data = data.element_spec if isinstance(data, tf.data.Dataset) else data
    data = data[0] if isinstance(data, tuple) and data else data
    images = data.get("x") if isinstance(data, Mapping) else data
    if not hasattr(images, "dtype"):
        return
    dtype = np.dtype(getattr(images.dtype, "as_numpy_dtype", images.dtype))
    if dtype.kind in "biu":
        raise ValueError(
            f"x must hold continuous pixels as floating-point numbers, got dtype {dtype.name}: for integer images, "
            "call log_prob(images, dequantize=n), or add 0.5 or noise U(0, 1) to them"
        )


def whole_numbers(num_levels: int) -> str:
    """What integer images hold, for errors."""
    return f"whole numbers from 0 to num_levels - 1 = {num_levels - 1}"


def uniform_noise(shape: tf.Tensor, dtype: str, seed: keras.random.SeedGenerator) -> tf.Tensor:
    """U(0, 1) noise `[N, ...]` for a replica's rows; a batch gets the same noise on any number of replicas."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return keras.random.uniform(shape, dtype=dtype, seed=seed)
    rows = tf.cast(rows_of_replicas(shape[0]), shape.dtype)
    whole = tf.concat([[tf.reduce_sum(rows)], shape[1:]], axis=0)
    start = tf.reduce_sum(rows[: replica.replica_id_in_sync_group])
    return keras.random.uniform(whole, dtype=dtype, seed=seed)[start : start + shape[0]]


def with_noise(images: tf.Tensor, noise: tf.Tensor, num_levels: int) -> tf.Tensor:
    """The sum of both, with NaN for each value that is no pixel."""
    # Only a wrong value computes a NaN here. A constant NaN, chosen by `tf.where`, would be in every graph, and
    # `tf.debugging.enable_check_numerics` would report it.
    return images + noise + tf.sqrt(tf.cast(is_pixel(images, num_levels), images.dtype) - 1)


def mean_over_noise(
    log_prob: Callable[[tf.Tensor], tf.Tensor],
    images: tf.Tensor,
    context: tf.Tensor | None,
    num_levels: int,
    num_draws: int,
    seed: Any,
) -> tf.Tensor:
    """Mean of `log_prob(images + noise)` over `num_draws` draws of U(0, 1) noise.

    Args:
        log_prob: from images `[S, B..., H, W, C]`, with noise, to log-densities `[S, B...]`.
        images: `[..., H, W, C]`, whole numbers.
        context: None, or `[..., K]`, the context of `log_prob`, for its shape; `[B...]` is what both broadcast to.
        num_levels: number of values of a pixel.
        num_draws: number of draws for each image, at least 1.
        seed: None, an integer or a pair of int32.

    Returns:
        Tensor `[B...]`.

    Raises:
        ValueError: if images hold other values, NaN aside (in a graph, the result is NaN).
    """
    if hasattr(images, "numpy"):  # not in a graph
        rows = tf.reshape(images, [-1, *images.shape[-3:]])
        expected = whole_numbers(num_levels)
        check_pixels(rows, lambda pixels: is_pixel(pixels, num_levels) | np.isnan(pixels), expected, "x")
    if context is not None:
        batch_shape = broadcast_batch_shape(images, 3, context)
        images = tf.broadcast_to(images, tf.concat([batch_shape, images.shape[-3:]], axis=0))
    # One call takes several draws of few images, but one draw of many images or of a number unknown in a graph.
    num_images = images.shape[:-3].num_elements() or _IMAGES_AT_ONCE
    draws_of_a_call = max(1, _IMAGES_AT_ONCE // num_images)
    draws = [min(draws_of_a_call, num_draws - start) for start in range(0, num_draws, draws_of_a_call)]
    total = 0.0
    for count, seed_of_call in zip(draws, tf.unstack(tf.random.split(stateless_seed(seed), len(draws))), strict=True):
        shape = tf.concat([[count], tf.shape(images)], axis=0)
        noise = tf.random.stateless_uniform(shape, seed_of_call, dtype=images.dtype)
        total += tf.reduce_sum(log_prob(with_noise(images, noise, num_levels)), axis=0)
    return total / num_draws
