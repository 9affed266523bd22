"""The density of a flow of one or two features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfp_realnvp.checks import check_size
from tfp_realnvp.diagnostics.draws import log_prob, sample
from tfp_realnvp.flows import Flow
from tfp_realnvp.plots.style import DATA, MODEL, as_names, as_table, axes_for, figure_of, style

__all__ = ["density"]

_SAMPLES = 4000


def density(
    flow: Any,
    context: Any = None,
    *,
    data: Any = None,
    limits: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    num_points: int = 200,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draws the density of a flow of one or two features.

    With two features, colours show the density, and each contour surrounds the smallest region with a probability of
    its level. With one feature, a curve shows the density, beside a histogram of the data.

    Args:
        flow: a flow, a `tfd.Distribution`, or anything else with their methods `sample` and `log_prob`.
        context: None, or one context.
        data: None, or rows `[M, D]` to draw too.
        limits: (lower, upper) of each feature; None for a range of nearly all samples and data.
        names: names of the features; None for `feature_names` of the flow, or the columns of `data`, or x1, x2.
        levels: probabilities inside the contours.
        num_points: number of points of each axis of the grid.
        seed: seed of the samples from which limits and contours are computed.
        ax: where to draw; None for a new figure.

    Raises:
        ValueError: if the flow has more than two features, or if an argument is wrong.
    """
    check_size("num_points", num_points, least=2)
    if np.ndim(levels) != 1 or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels must be a sequence of probabilities between 0 and 1, got {levels!r:.100}")
    samples = np.asarray(sample(flow, _SAMPLES, context, seed), np.float64)
    if samples.ndim != 2 or samples.shape[1] > 2:
        hint = "; draw samples of more features with nvp.plots.corner" if samples.ndim == 2 else ""
        raise ValueError(f"flow must have one or two features and one context, got samples {list(samples.shape)}{hint}")
    size = samples.shape[1]
    if isinstance(flow, Flow):
        data = flow.columns.checked_part("x", data, "data")
    rows = None if data is None else as_table(data, "data")
    if rows is not None and rows.shape[1] != size:
        raise ValueError(f"data must have the {size} features of flow, got {rows.shape[1]}")
    names = as_names(getattr(flow, "feature_names", None) if names is None else names, size, data)
    ranges = _limits([samples] if rows is None else [samples, rows]) if limits is None else np.asarray(limits, float)
    if ranges.shape != (size, 2) or not np.all(ranges[:, 0] < ranges[:, 1]):
        raise ValueError(f"limits must be {size} pairs (lower, upper), got {limits!r:.100}")
    grids = [np.linspace(lower, upper, num_points) for lower, upper in ranges]
    points = np.stack(np.meshgrid(*grids), axis=-1)
    log_density = log_prob(flow, points.reshape(-1, size), context).reshape(points.shape[:-1])
    with style():
        ax = axes_for(ax, *((5.6, 3.6) if size == 1 else (5.6, 4.6)))
        if size == 1:
            _draw_curve(ax, grids[0], np.exp(log_density), rows, names[0])
        else:
            thresholds = np.quantile(log_prob(flow, samples, context), 1 - np.sort(np.asarray(levels))[::-1])
            _draw_map(ax, grids, log_density, thresholds, rows, names)
    return figure_of(ax)


def _limits(tables: Sequence[np.ndarray]) -> np.ndarray:
    ends = np.stack([np.quantile(rows, [0.001, 0.999], axis=0) for rows in tables])
    lower, upper = ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)
    margin = np.where(upper > lower, 0.08 * (upper - lower), 0.5)
    return np.stack([lower - margin, upper + margin], axis=-1)


def _draw_curve(ax: Axes, grid: np.ndarray, values: np.ndarray, rows: np.ndarray | None, name: str) -> None:
    if rows is not None:
        # Rows outside the axes count too, as the probability there does.
        weights = np.full(len(rows), 60 / (len(rows) * (grid[-1] - grid[0])))
        ax.hist(rows[:, 0], 60, range=(grid[0], grid[-1]), weights=weights, color=DATA, alpha=0.3, label="data")
    ax.plot(grid, values, color=MODEL, linewidth=1.6, label="flow")
    ax.set(xlabel=name, ylabel="density", xlim=(grid[0], grid[-1]))
    ax.set_ylim(bottom=0)
    if rows is not None:
        ax.legend()


def _draw_map(
    ax: Axes,
    grids: Sequence[np.ndarray],
    log_density: np.ndarray,
    thresholds: np.ndarray,
    rows: np.ndarray | None,
    names: Sequence[str],
) -> None:
    values = np.exp(log_density)
    image = ax.pcolormesh(*grids, values, shading="gouraud", rasterized=True)
    figure_of(ax).colorbar(image, ax=ax, label="density")
    ax.contour(*grids, values, np.unique(np.exp(thresholds)), colors="white", linewidths=0.9)
    if rows is not None:
        shown = rows[:: -(-len(rows) // 2000)]
        ax.scatter(shown[:, 0], shown[:, 1], s=3, linewidths=0, color="#ffffff", alpha=0.6)
    ax.set(xlabel=names[0], ylabel=names[1], xlim=grids[0][[0, -1]], ylim=grids[1][[0, -1]])
