"""The losses of a training."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfp_realnvp.plots.style import DATA, MODEL, axes_for, figure_of, style

__all__ = ["history"]


def history(history: Any, *, ax: Axes | None = None) -> Figure:
    """Draws the losses of training and validation, and marks the best epoch.

    Args:
        history: what `fit` returns, or its dictionary `history.history`. If it has "bits_per_dim", as that of an
            `ImageRealNVP`, this is drawn in place of the loss in nats.
        ax: where to draw; None for a new figure.

    Raises:
        ValueError: if there is no loss in the history.
    """
    found = getattr(history, "history", history)
    if not isinstance(found, dict) or not len(found.get("loss", ())):
        raise ValueError(f"history must be from fit with at least one epoch, got {found!r:.100}")
    key, unit = ("bits_per_dim", "bits/dim") if "bits_per_dim" in found else ("loss", "nats")
    epochs = getattr(history, "epoch", None) or range(len(found[key]))
    with style():
        ax = axes_for(ax, 5.6, 3.6)
        kinds = [(key, DATA, "training"), (f"val_{key}", MODEL, "validation")]
        shown = [np.asarray(found[name], np.float64) for name, _, _ in kinds if name in found]
        # The first epochs may be far above all others. The legend then says where the curve starts.
        late = np.concatenate([losses[len(losses) // 10 :] for losses in shown])
        late = late[np.isfinite(late)]
        margin = 0.08 * np.ptp(late) if late.size else 0.0
        top = late.max() + 3 * margin if margin > 0 else np.inf
        for losses, (_, colour, label) in zip(shown, kinds, strict=False):
            start = f", from {losses[0]:.4g}" if top < losses[0] < np.inf else ""
            line = np.asarray(epochs[: len(losses)]) + 1, losses
            ax.plot(*line, color=colour, linewidth=1.4, label=f"{label}{start}")
        if np.any(np.isfinite(shown[-1])):
            best = int(np.nanargmin(shown[-1]))
            label = f"best: {shown[-1][best]:.3f} at epoch {epochs[best] + 1}"
            ax.plot(epochs[best] + 1, shown[-1][best], "o", color=MODEL if len(shown) > 1 else DATA, label=label)
        if margin > 0:
            ax.set_ylim(late.min() - margin, top)
        ax.set(xlabel="epoch", ylabel=f"negative log-likelihood ({unit})")
        ax.legend()
    return figure_of(ax)
