"""Pictures of flows, data and calibration, with matplotlib: `pip install 'tfp_realnvp[plot]'`.

Each function returns the figure that it has drawn. `ax` or `figure` is what to draw into, which may be a subfigure;
without it, the figure is new. Colour-blind readers can tell the colours apart. For pictures of your own in the same
style: `matplotlib.rcParams.update(tfp_realnvp.plots.STYLE)`.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("tfp_realnvp.plots needs matplotlib: pip install matplotlib") from error

from tfp_realnvp.plots.calibration import calibration
from tfp_realnvp.plots.corner import corner
from tfp_realnvp.plots.density import density
from tfp_realnvp.plots.history import history
from tfp_realnvp.plots.images import images
from tfp_realnvp.plots.style import ACCENT, DATA, MODEL, STYLE

__all__ = ["ACCENT", "DATA", "MODEL", "STYLE", "calibration", "corner", "density", "history", "images"]


def __dir__() -> list[str]:
    return list(__all__)
