"""Masks: which part of an event a coupling keeps (True) and which part it moves (False).

Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.4.
"""

import numpy as np

from tfp_realnvp.checks import check_flag, check_size

__all__ = ["alternating", "channelwise", "checkerboard", "half"]


def half(size: int, flip: bool = False) -> np.ndarray:
    """Keeps the first `ceil(size / 2)` features.

    Args:
        size: number of features `D`, at least 1.
        flip: return the complement.

    Returns:
        Boolean array of shape `[D]`.

    Raises:
        ValueError: if `size` is below 1, or `flip` is not a boolean.

    >>> half(5)
    array([ True,  True,  True, False, False])
    """
    check_size("size", size)
    check_flag("flip", flip)
    return np.asarray((np.arange(size) < (size + 1) // 2) != flip)


def alternating(size: int, flip: bool = False) -> np.ndarray:
    """Keeps the features with an even index.

    Args:
        size: number of features `D`, at least 1.
        flip: return the complement.

    Returns:
        Boolean array of shape `[D]`.

    Raises:
        ValueError: if `size` is below 1, or `flip` is not a boolean.

    >>> alternating(4)
    array([ True, False,  True, False])
    """
    check_size("size", size)
    check_flag("flip", flip)
    return np.asarray((np.arange(size) % 2 == 0) != flip)


def checkerboard(height: int, width: int, flip: bool = False) -> np.ndarray:
    """Keeps the pixels whose row and column add up to an even number.

    Args:
        height: number of rows `H`, at least 1.
        width: number of columns `W`, at least 1.
        flip: return the complement.

    Returns:
        Boolean array of shape `[H, W, 1]`.

    Raises:
        ValueError: if a size is below 1, or `flip` is not a boolean.

    >>> checkerboard(2, 2)[..., 0]
    array([[ True, False],
           [False,  True]])
    """
    check_size("height", height)
    check_size("width", width)
    check_flag("flip", flip)
    rows, columns = np.indices((height, width))
    return np.asarray(((rows + columns) % 2 == 0)[..., np.newaxis] != flip)


def channelwise(channels: int, flip: bool = False) -> np.ndarray:
    """Keeps the first `ceil(channels / 2)` channels of an image.

    Args:
        channels: number of channels `C`, at least 1.
        flip: return the complement.

    Returns:
        Boolean array of shape `[1, 1, C]`.

    Raises:
        ValueError: if `channels` is below 1, or `flip` is not a boolean.

    >>> channelwise(3)[0, 0]
    array([ True,  True, False])
    """
    check_size("channels", channels)
    return half(channels, flip)[np.newaxis, np.newaxis]


def __dir__() -> list[str]:
    return __all__
