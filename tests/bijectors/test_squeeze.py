"""Squeezes, compared with the formula in a loop."""

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from registry import random_tensor


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_squeeze_by_rows_matches_the_formula(factor):
    height, width, channels = 2 * factor, 3 * factor, 2
    x = random_tensor((5, height, width, channels), "float32", seed=0)
    y = nvp.Squeeze(factor).forward(x).numpy()
    assert y.shape == (5, 2, 3, factor**2 * channels)
    for h, w, c in np.ndindex(height, width, channels):
        position = factor * (h % factor) + w % factor
        np.testing.assert_array_equal(y[:, h // factor, w // factor, position * channels + c], x[:, h, w, c])


@pytest.mark.parametrize(("factor", "width"), [(2, 2), (2, 4), (2, 6), (4, 4)])
def test_channel_halves_are_checkerboards_in_checkerboard_order(factor, width):
    width *= factor
    board = nvp.masks.checkerboard(4 * factor, width).astype("float32")
    y = nvp.Squeeze(factor, order="checkerboard").forward(np.repeat(board, 3, axis=2)).numpy()
    first, second = np.split(y, 2, axis=-1)
    assert np.all(first == 1.0) and np.all(second == 0.0)


def test_channel_halves_are_not_checkerboards_in_row_order():
    board = nvp.masks.checkerboard(4, 4).astype("float32")
    first, second = np.split(nvp.Squeeze().forward(board).numpy(), 2, axis=-1)
    assert first.mean() == second.mean() == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nvp.Squeeze(0), "factor must be an integer of at least 1, got 0"),
        (lambda: nvp.Squeeze(order="columns"), "order must be one of 'rows', 'checkerboard', got 'columns'"),
        (lambda: nvp.Squeeze().forward(tf.zeros([3, 4, 1])), r"multiples of 2, got shape \[3, 4, 1\]"),
        (lambda: nvp.Squeeze().inverse(tf.zeros([3, 4, 6])), r"multiple of 4, got shape \[3, 4, 6\]"),
        (lambda: nvp.Squeeze().forward(tf.zeros([4])), r"\[..., H, W, C\], got"),
    ],
)
def test_wrong_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
