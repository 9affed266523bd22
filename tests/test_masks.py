"""Masks, compared with their definitions."""

import numpy as np
import pytest

from tfp_realnvp import masks


@pytest.mark.parametrize("size", range(1, 10))
def test_vector_masks(size):
    np.testing.assert_array_equal(masks.half(size), [index < -(-size // 2) for index in range(size)])
    np.testing.assert_array_equal(masks.alternating(size), [index % 2 == 0 for index in range(size)])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 4), (3, 3), (4, 5)])
def test_checkerboard_alternates_in_both_directions(height, width):
    mask = masks.checkerboard(height, width)
    assert mask.shape == (height, width, 1)
    for row, column in np.ndindex(height, width):
        assert mask[row, column, 0] == ((row + column) % 2 == 0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channelwise_keeps_the_first_channels(channels):
    mask = masks.channelwise(channels)
    assert mask.shape == (1, 1, channels)
    np.testing.assert_array_equal(mask[0, 0], masks.half(channels))


@pytest.mark.parametrize(
    ("function", "sizes"),
    [(masks.half, (5,)), (masks.alternating, (4,)), (masks.checkerboard, (2, 3)), (masks.channelwise, (3,))],
)
def test_flip_gives_the_complement_and_bad_arguments_are_errors(function, sizes):
    mask = function(*sizes)
    assert mask.dtype == bool
    np.testing.assert_array_equal(function(*sizes, flip=True), ~mask)
    for bad in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"at least 1, got {bad}"):
            function(*sizes[:-1], bad)
    with pytest.raises(ValueError, match="flip must be True or False, got 'no'"):
        function(*sizes, flip="no")
