"""Is a flow calibrated? Ranks, coverage and tests with random points in one picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tfp_realnvp.checks import check_fraction
from tfp_realnvp.diagnostics.calibration import all_checks
from tfp_realnvp.diagnostics.uniformity import ecdf_differences, simultaneous_band, uniformity_test
from tfp_realnvp.plots.style import COLOURS, DATA, MODEL, as_names, figure_of, new_figure, style, wrapped

__all__ = ["calibration"]


def calibration(
    flow: Any,
    x: Any,
    context: Any = None,
    *,
    num_samples: int = 1000,
    names: Sequence[str] | None = None,
    level: float = 0.95,
    title: str | None = None,
    seed: int | None = 0,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Draws three checks of calibration. The curves of a calibrated flow stay in the grey bands.

    If the flow is calibrated, the probability that a curve leaves its band anywhere is 5 %, 1 - `level`.

    - Ranks: the distribution function of the ranks of each feature, minus the uniform one; see `sbc_ranks`. The density
      is too narrow if the curve is above the band on the left and below it on the right, too wide if the opposite, and
      shifted if the curve is on one side. With one feature, these are the values of `pit`.
    - Coverage: how often x is in the region of highest density of each level, minus the level; see `coverage`. The
      density is too narrow if the curve is below the band, too wide if it is above.
    - TARP: expected coverage of balls around random points, minus their credibility; see `tarp`. The density is too
      narrow, or shifted, if the curve is above the band on the left and below it on the right.

    p-values are those of `uniformity_test`.

    Args:
        flow, x, context, num_samples, seed: as in `sbc_ranks`. Use some hundred rows, not those of the training.
        names: names of the features; None for `feature_names` of the flow, or the columns of x, or x1, x2, ...
        level: probability of the bands, for each curve by itself.
        title: None, or a title above all.
        figure: where to draw, with `layout="constrained"`; None for a new figure.

    Raises:
        ValueError: as in `sbc_ranks`.
    """
    check_fraction("level", level)
    ranks, levels, credibilities = all_checks(flow, x, context, num_samples, seed)
    names = as_names(getattr(flow, "feature_names", None) if names is None else names, ranks.shape[1], x)
    p_values = uniformity_test(ranks, num_samples)
    differences, grid = ecdf_differences(ranks, num_samples)
    with style():
        num_panels = 2 if credibilities is None else 3
        few = len(names) <= len(COLOURS)
        lines = [wrapped(name, 60) for name in names]
        num_columns = max(1, min(num_panels, 100 // (max(map(len, names)) + 16)))
        legend_rows = -(-len(names) // num_columns) if few and len(names) > 1 else 0
        figure = figure or new_figure(2.6 * num_panels + 0.4, 3.1 + 0.2 * legend_rows)
        axes = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
        rows = len(ranks)
        _draw(axes[0], grid, list(differences), rows, level)
        axes[0].set_ylabel("observed minus expected")
        if len(names) == 1:
            axes[0].set(title=f"PIT (p {_short(p_values[0])})", xlabel=f"cumulative probability\nof {names[0]}")
        else:
            axes[0].set(title="ranks", xlabel="rank / number of samples")
        if legend_rows:
            labels = [f"{name} (p {_short(p)})" for name, p in zip(lines, p_values, strict=True)]
            figure.legend(axes[0].lines[1:], labels, loc="outside lower left", ncols=num_columns, fontsize=9)
        panels = [("coverage", "level of the region", levels), ("TARP", "credibility of the ball", credibilities)]
        for ax, (name, xlabel, found) in zip(axes[1:], panels, strict=False):
            curve, level_grid = ecdf_differences(found, None)
            _draw(ax, level_grid, [curve], rows, level)
            ax.set(title=f"{name} (p {_short(uniformity_test(found))})", xlabel=xlabel)
        if title is not None:
            figure.suptitle(title)
    return figure_of(axes[0])


def _draw(ax: Axes, grid: np.ndarray, curves: Sequence[np.ndarray], num_rows: int, level: float) -> None:
    """Draws curves, and the band of a calibrated flow."""
    band = simultaneous_band(num_rows, grid, level)
    ax.fill_between(grid, -band, band, color=DATA, alpha=0.2, linewidth=0)
    ax.axhline(0, color=DATA, linewidth=0.7)
    few = len(curves) <= len(COLOURS)
    for index, curve in enumerate(curves):
        ax.plot(grid, curve, color=COLOURS[index] if few else MODEL, linewidth=1.3 if few else 0.8)
    ax.set_xlim(0, 1)


def _short(p: Any) -> str:
    return "< 0.001" if p < 0.001 else f"= {float(p):.2g}"
