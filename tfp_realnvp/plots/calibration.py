"""Is a flow calibrated? Ranks, coverage and tests with random points in one picture."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tfp_realnvp.checks import check_fraction
from tfp_realnvp.diagnostics.calibration import all_checks
from tfp_realnvp.diagnostics.uniformity import ecdf_differences, simultaneous_band, uniformity_test
from tfp_realnvp.plots.style import COLOURS, DATA, MODEL, as_names, new_figure, style

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
) -> Figure | SubFigure:
    """Draws three checks of calibration. Each grey band contains the whole curve of a calibrated flow with 95 %.

    - Ranks: the distribution function of the ranks of each feature, minus the uniform one; see `sbc_ranks`. A curve
      that rises above the band and then falls below it belongs to a density that is too narrow. With one feature, these
      are the values of `pit`.
    - Coverage: the part of the rows in the regions of highest density of each level, minus the level; see `coverage`.
      Below the band, the density is too narrow.
    - TARP: expected coverage of balls around random points, minus their credibility; see `tarp`.

    Args:
        flow, x, context, num_samples, seed: as in `sbc_ranks`. Use some hundred rows, not those of the training.
        names: names of the features; None for `feature_names` of the flow, or the columns of x, or x1, x2, ...
        level: probability of the bands, for each curve by itself.
        title: None, or a title above all.
        figure: where to draw; None for a new figure.

    Raises:
        ValueError: as in `sbc_ranks`.
    """
    check_fraction("level", level)
    ranks, levels, curve = all_checks(flow, x, context, num_samples, seed)
    names = as_names(getattr(flow, "feature_names", None) if names is None else names, ranks.shape[1], x)
    p_values = uniformity_test(ranks, num_samples)
    differences, grid = ecdf_differences(ranks, num_samples)
    with style():
        figure = figure or new_figure(6.0 if curve is None else 8.0, 3.1)
        axes = figure.subplots(1, 2 if curve is None else 3, sharey=True, squeeze=False)[0]
        labels = [f"{name} (p {_short(p)})" for name, p in zip(names, p_values, strict=True)]
        rows = len(ranks)
        if curve is None:
            _draw(axes[0], grid, [(differences[0], None)], rows, level)
            axes[0].set(title=f"PIT (p {_short(p_values[0])})", xlabel=f"cumulative probability of {names[0]}")
        else:
            _draw(axes[0], grid, zip(differences, labels, strict=True), rows, level)
            axes[0].set(title="ranks", xlabel="rank / number of samples")
        axes[0].set_ylabel("observed minus expected")
        of_levels, level_grid = ecdf_differences(levels, None)
        _draw(axes[1], level_grid, [(of_levels, None)], rows, level)
        axes[1].set(title=f"coverage (p {_short(uniformity_test(levels))})", xlabel="level of the region")
        if curve is not None:
            credibility, expected = curve
            _draw(axes[2], credibility[1:-1], [((expected - credibility)[1:-1], None)], rows, level)
            axes[2].set(title="TARP", xlabel="credibility of the ball")
        if title is not None:
            figure.suptitle(title)
    return figure


def _draw(
    ax: Axes, grid: np.ndarray, curves: Iterable[tuple[np.ndarray, str | None]], num_rows: int, level: float
) -> None:
    """Draws curves with their labels, and the band of a calibrated flow."""
    band = simultaneous_band(num_rows, grid, level)
    ax.fill_between(grid, -band, band, color=DATA, alpha=0.2, linewidth=0)
    ax.axhline(0, color=DATA, linewidth=0.7)
    curves = list(curves)
    few = len(curves) <= len(COLOURS)
    for index, (curve, label) in enumerate(curves):
        ax.plot(grid, curve, color=COLOURS[index] if few else MODEL, linewidth=1.3 if few else 0.8, label=label)
    ax.set_xlim(0, 1)
    if few and any(label for _, label in curves):
        ax.legend(fontsize=8)


def _short(p: Any) -> str:
    return "< 0.001" if p < 0.001 else f"= {float(p):.2g}"
