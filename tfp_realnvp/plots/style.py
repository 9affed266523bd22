"""Colours, text sizes and names of axes that all pictures share."""

import contextlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfp_realnvp.flows.arrays import is_array
from tfp_realnvp.flows.frames import column_names, in_features, listed, non_numeric_columns, quoted, with_numpy_dtypes

__all__ = [
    "ACCENT",
    "COLOURS",
    "DATA",
    "MODEL",
    "STYLE",
    "as_names",
    "as_table",
    "axes_for",
    "figure_of",
    "new_figure",
    "style",
    "wrapped",
]

# The colours of Okabe & Ito, which colour-blind readers can tell apart, and a grey.
DATA, MODEL, ACCENT = "#4c566a", "#0072b2", "#d55e00"
COLOURS = (MODEL, ACCENT, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.cmap": "viridis",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Context manager: new figures of matplotlib have the style of this package."""
    before = {name: matplotlib.rcParams[name] for name in STYLE}
    matplotlib.rcParams.update(STYLE)
    try:
        yield
    finally:  # `rc_context` would undo other settings too: in a notebook, the first figure makes pyplot interactive.
        matplotlib.rcParams.update(before)


def new_figure(width: float, height: float) -> Figure:
    return plt.figure(figsize=(width, height), layout="constrained")


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the axes of a new figure of this size, in inches."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure of axes, which may be in a subfigure."""
    figure: Any = ax.figure
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def as_table(array: Any, argument: str, like: Any = None) -> np.ndarray:
    """An array, a tensor or a DataFrame `[N, D]` as numbers.

    Raises a ValueError if it is another or not finite, or if it has other column names than the DataFrame `like`.
    """
    array = with_numpy_dtypes(array)
    names, known = column_names(array), column_names(like)
    if names is not None and known is not None and names != known:
        raise ValueError(f"{argument} must have the columns {quoted(known)}, got {quoted(names)}")
    try:
        found = np.asarray(array if is_array(array) else np.asarray(array), np.float64)
    except (TypeError, ValueError) as error:
        got = non_numeric_columns(array) or f", got {array!r:.100}"
        raise ValueError(f"{argument} must be an array of numbers{got}") from error
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{argument} must have shape [N, D] with at least one row, got {list(found.shape)}")
    finite = np.isfinite(found)
    bad = np.flatnonzero(~finite.all(axis=1))
    if bad.size:
        where = in_features(array, np.asarray(~finite.all(axis=0)))
        raise ValueError(
            f"{argument} has a NaN or infinity in {bad.size} of its {len(found)} rows: {listed(bad)}{where}"
        )
    return found


def wrapped(name: str, width: int) -> str:
    """A name in lines of about `width` characters. A formula between dollar signs counts as one."""
    formulas = iter(re.findall(r"\$[^$]*\$", name))
    lines = textwrap.fill(re.sub(r"\$[^$]*\$", "\0", name), width, break_on_hyphens=False)
    return re.sub("\0", lambda _: next(formulas), lines)


def as_names(names: Sequence[str] | None, size: int, *arrays: Any) -> list[str]:
    """The names of `size` features: those given, or the columns of the first DataFrame, or x1, x2, ..."""
    if names is not None:
        if isinstance(names, str) or len(names) != size:
            raise ValueError(f"names must be {size} names, got {names!r:.100}")
        return [str(name) for name in names]
    for array in arrays:
        found = column_names(array)
        if found is not None and len(found) == size:
            return [str(name) for name in found]
    return [f"$x_{{{index + 1}}}$" for index in range(size)]
