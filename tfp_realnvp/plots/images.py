"""Images in a grid."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from tfp_realnvp.checks import check_size
from tfp_realnvp.plots.style import figure_of, new_figure, style

__all__ = ["images"]


def images(
    images: Any,
    *,
    num_levels: int = 256,
    num_columns: int | None = None,
    titles: Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Draws images in a grid, row by row.

    Args:
        images: `[N, H, W, C]` with 1 or 3 channels, or `[N, H, W]`, with pixels from 0 to num_levels.
        num_levels: number of values of a pixel, as in `ImageRealNVP`.
        num_columns: number of images in a row; None for a nearly square grid.
        titles: None, or a title above each image.
        figure: where to draw; None for a new figure.

    Raises:
        ValueError: if the images have a wrong shape, or if there are other than N titles.
    """
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"images must have shape [N, H, W, 1 or 3] or [N, H, W], got {list(np.shape(images))}")
    check_size("num_levels", num_levels, least=2)
    if pixels.dtype.kind == "f" and 0 < pixels.max() <= 1 and np.any(pixels % 1):
        raise ValueError(f"images must have pixels from 0 to num_levels = {num_levels}, got floats from 0 to 1")
    number, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(number)) if num_columns is None else num_columns
    check_size("num_columns", columns)
    if titles is not None and len(titles) != number:
        raise ValueError(f"titles must be {number} titles, got {len(titles)}")
    # Level k of an integer image is shown as k / (num_levels - 1).
    shades = np.clip(np.floor(pixels) / (num_levels - 1), 0, 1)
    rows = math.ceil(number / columns)
    size = min(1.0, 6.4 / columns)
    with style():
        figure = figure or new_figure(
            size * columns, size * rows * height / width + (0 if titles is None else 0.3 * rows)
        )
        axes = figure.subplots(rows, columns, squeeze=False)
        for index, ax in enumerate(axes.flat):
            ax.set_axis_off()
            if index < number:
                image = shades[index, ..., 0] if channels == 1 else shades[index]
                ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if titles is not None:
                    ax.set_title(titles[index])
    return figure_of(axes[0, 0])
