"""Samples and data in all pairs of features."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from tfp_realnvp.diagnostics.importance import effective_sample_size
from tfp_realnvp.plots.style import ACCENT, MODEL, as_names, as_table, figure_of, new_figure, style, wrapped

__all__ = ["contour_thresholds", "corner"]

_BINS = 40
_MIN_ROWS = 200  # for contours
_LEVELS = (0.5, 0.9)
_MARKERS = "os^Dv*PX"
_MARK: dict[str, Any] = {
    "linestyle": "",
    "color": "black",
    "markersize": 6,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "clip_on": False,
}


def corner(
    samples: Any,
    data: Any = None,
    names: Sequence[str] | None = None,
    *,
    columns: Sequence[str | int] | None = None,
    weights: Any = None,
    labels: tuple[str, str] = ("samples", "data"),
    marked: Any = None,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Draws samples, and data to compare them with: each feature on the diagonal, and each pair below it.

    Contours contain 50 % and 90 % of the rows, as far as 40 bins of each axis can show it. Fewer than 200 rows, or
    weights of fewer effective rows, are drawn as points, whose opacity is proportional to the weights.

    Args:
        samples: `[N, D]`, an array or a DataFrame.
        data: None, or `[M, D]`.
        names: names of the features. None for the columns of a DataFrame, or x1, x2, ...
        columns: names or indices of the features to draw; None for all.
        weights: None, or weights of the samples, `[N]`, such as `weights` of `importance_weights`.
        labels: names of samples and data in the legend.
        marked: None, or rows to mark, `[D]` or `[K, D]`, such as the truth, or outliers. The index of a DataFrame names
            them in the legend, up to 8 rows. Marks beyond the axes are drawn at their ends.
        figure: where to draw; None for a new figure.

    Raises:
        ValueError: if an argument has a wrong shape or is not finite, or if a column does not exist.
    """
    model = as_table(samples, "samples")
    size = model.shape[1]
    all_names = as_names(names, size, samples, data)
    chosen = _positions(columns, all_names)
    other = None if data is None else as_table(data, "data", samples)
    if other is not None and other.shape[1] != size:
        raise ValueError(f"data must have the {size} features of samples, got {other.shape[1]}")
    weight = None if weights is None else np.asarray(weights, np.float64)
    if weight is not None and (
        weight.shape != (len(model),) or not np.all(weight >= 0) or not 0 < np.sum(weight) < np.inf
    ):
        hint = "; are these log-weights?" if np.any(weight < 0) else ""
        wanted = f"{len(model)} numbers of at least 0 with a finite sum, not all 0"
        raise ValueError(f"weights must be {wanted}, got {weights!r:.100}{hint}")
    marked = marked.to_frame().T if hasattr(marked, "to_frame") and np.ndim(marked) == 1 else marked
    marks = None if marked is None else as_table(marked if np.ndim(marked) == 2 else [marked], "marked", samples)
    if marks is not None and marks.shape[1] != size:
        raise ValueError(f"marked must have the {size} features of samples, got {marks.shape[1]}")
    parts = [(model, weight, MODEL, labels[0])] + ([] if other is None else [(other, None, ACCENT, labels[1])])
    limits = [_limits([(part[:, column], part_weight) for part, part_weight, _, _ in parts]) for column in chosen]
    number = len(chosen)
    lines = [wrapped(name, max(8, min(14, 84 // number))) for name in all_names]  # Long names would overlap.
    with style():
        figure = figure or new_figure(*[max(3.2, min(1.5 * number + 1, 8.4))] * 2)
        axes = figure.subplots(number, number, squeeze=False)
        for row, first in enumerate(chosen):
            for column, second in enumerate(chosen):
                ax = axes[row, column]
                if column > row:
                    ax.set_visible(False)
                    continue
                for rows, part_weight, colour, _ in parts:
                    if row == column:
                        _draw_histogram(ax, rows[:, first], part_weight, limits[row], colour)
                    else:
                        _draw_contours(ax, rows[:, [second, first]], part_weight, colour, colour == MODEL)
                if marks is not None:
                    heights = np.zeros(len(marks)) if row == column else np.clip(marks[:, first], *limits[row])
                    _draw_marks(ax, np.clip(marks[:, second], *limits[column]), heights, row == column)
                _label(ax, row, column, number, lines[second], lines[first])
                ax.set_xlim(limits[column])
                if row != column:
                    ax.set_ylim(limits[row])
        figure.align_labels()
        handles = [Line2D([], [], color=colour, linewidth=2, label=label) for _, _, colour, label in parts]
        handles = handles if len(parts) > 1 else []
        if hasattr(marked, "index") and hasattr(marked, "columns") and len(marked) <= len(_MARKERS):
            handles += [
                Line2D([], [], marker=marker, label=str(label), **_MARK)
                for marker, label in zip(_MARKERS, marked.index, strict=False)
            ]
        if handles:
            figure.legend(handles=handles, loc="upper right")
    return figure_of(axes[0, 0])


def _positions(columns: Sequence[str | int] | None, names: list[str]) -> list[int]:
    if columns is None:
        return list(range(len(names)))
    found = []
    for column in [columns] if isinstance(columns, str) else columns:
        if isinstance(column, str) and column in names:
            found.append(names.index(column))
        elif not isinstance(column, str) and 0 <= int(column) < len(names):
            found.append(int(column))
        else:
            raise ValueError(f"columns has {column!r}, but the features are {', '.join(map(repr, names))}")
    if not found:
        raise ValueError(f"columns must name at least one feature, got {columns!r}")
    return found


def _limits(parts: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> tuple[float, float]:
    """A range that contains nearly all rows, without the few rows far outside."""
    ends = []
    for rows, weight in parts:
        order = np.argsort(rows)
        mass = np.cumsum(np.ones(len(rows)) if weight is None else weight[order])
        ends.append(np.interp([0.005, 0.995], mass / mass[-1], rows[order]))
    lower, upper = np.min(ends), np.max(ends)
    margin = 0.05 * (upper - lower) or 0.5
    return float(lower - margin), float(upper + margin)


def _effective_number(rows: np.ndarray, weight: np.ndarray | None) -> float:
    return len(rows) if weight is None else effective_sample_size(weight)


def _draw_histogram(
    ax: Axes, rows: np.ndarray, weight: np.ndarray | None, limits: tuple[float, float], colour: str
) -> None:
    bins = min(_BINS, math.ceil(2 * _effective_number(rows, weight) ** (1 / 3)))
    density, edges = np.histogram(rows, bins, limits, density=True, weights=weight)
    ax.stairs(density, edges, color=colour, linewidth=1.4, fill=False)
    if colour == MODEL:
        ax.stairs(density, edges, color=colour, alpha=0.2, fill=True)


def _draw_contours(ax: Axes, pair: np.ndarray, weight: np.ndarray | None, colour: str, is_filled: bool) -> None:
    number = _effective_number(pair, weight)
    if number < _MIN_ROWS:
        opacity = 1.0 if weight is None else weight / np.max(weight)
        ax.scatter(pair[:, 0], pair[:, 1], s=5, color=colour, alpha=opacity, linewidths=0)
        return
    limits = [_limits([(pair[:, axis], weight)]) for axis in range(2)]  # of these rows: others may be much wider
    counts, x_edges, y_edges = np.histogram2d(pair[:, 0], pair[:, 1], _BINS, limits, weights=weight)
    # In bins. Fewer rows show fewer details.
    bandwidth = max(1.0, 3.0 * (_MIN_ROWS / number) ** (1 / 6))
    smooth = _smoothed(_smoothed(counts, bandwidth).T, bandwidth)
    centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
    thresholds = contour_thresholds(smooth, centres, pair, weight, _LEVELS)
    if not thresholds:
        return
    if is_filled:
        shades = [to_rgba(colour, alpha) for alpha in np.linspace(0.2, 0.55, len(thresholds))]
        ax.contourf(*centres, smooth, [*thresholds, np.max(smooth) * 1.001], colors=shades)
    ax.contour(*centres, smooth, thresholds, colors=colour, linewidths=1.1)


def _smoothed(counts: np.ndarray, bandwidth: float) -> np.ndarray:
    """Counts smoothed along the first axis, by a Gaussian of this standard deviation."""
    width = math.ceil(3 * bandwidth)
    kernel = np.exp(-0.5 * (np.arange(-width, width + 1) / bandwidth) ** 2)
    return np.stack([np.convolve(column, kernel / kernel.sum())[width:-width] for column in counts.T], axis=1)


def contour_thresholds(
    grid: np.ndarray,
    centres: Sequence[np.ndarray],
    pair: np.ndarray,
    weight: np.ndarray | None,
    levels: Sequence[float],
) -> list[float]:
    """Ascending thresholds: `grid [y, x]`, interpolated, is above a threshold at the part `level` of the rows."""
    cells = [(rows - axis[0]) / (axis[1] - axis[0]) for rows, axis in zip(pair.T, centres, strict=True)]
    inside = np.all([(cell >= 0) & (cell <= len(axis) - 1) for cell, axis in zip(cells, centres, strict=True)], axis=0)
    (x, across), (y, up) = (
        np.divmod(np.clip(cell, 0, len(axis) - 1.001), 1) for cell, axis in zip(cells, centres, strict=True)
    )
    x, y = x.astype(int), y.astype(int)
    below = grid[y, x] * (1 - across) + grid[y, x + 1] * across
    above = grid[y + 1, x] * (1 - across) + grid[y + 1, x + 1] * across
    values = np.where(inside, below * (1 - up) + above * up, 0.0)
    order = np.argsort(values)[::-1]
    mass = np.cumsum(np.ones(len(values)) if weight is None else weight[order])
    found = {float(values[order][min(np.searchsorted(mass, level * mass[-1]), len(mass) - 1)]) for level in levels}
    return sorted(threshold for threshold in found if 0 < threshold < np.max(grid))


def _draw_marks(ax: Axes, x: np.ndarray, y: np.ndarray, on_diagonal: bool) -> None:
    if len(x) == 1:
        line: dict[str, Any] = {"color": "black", "linewidth": 0.6, "linestyle": "--"}
        ax.axvline(x[0], **line)
        if not on_diagonal:
            ax.axhline(y[0], **line)
    markers = _MARKERS if len(x) <= len(_MARKERS) else "o" * len(x)
    for across, up, marker in zip(x, y, markers, strict=False):
        ax.plot(across, up, marker=marker, zorder=3, **_MARK)


def _label(ax: Axes, row: int, column: int, number: int, x_name: str, y_name: str) -> None:
    ax.locator_params(nbins=4)
    if row == column:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    elif column == 0:
        ax.set_ylabel(y_name)
    else:
        ax.tick_params(labelleft=False)
    if row == number - 1:
        ax.set_xlabel(x_name)
        ax.tick_params(axis="x", labelrotation=45)
    else:
        ax.tick_params(labelbottom=False)
