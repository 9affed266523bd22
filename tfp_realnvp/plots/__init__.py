"""Pictures of flows, data and calibration, with matplotlib: `pip install 'tfp_realnvp[plot]'`.

Each function returns the figure that it has drawn. `ax` or `figure` is what to draw into; without it, the figure is
new, with the style of this package: colours that colour-blind readers can tell apart, readable at 700 pixels.
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
from tfp_realnvp.plots.style import ACCENT, DATA, MODEL, style

__all__ = ["ACCENT", "DATA", "MODEL", "calibration", "corner", "density", "history", "images", "style"]


def __dir__() -> list[str]:
    return list(__all__)
