"""Real NVP normalizing flows for TensorFlow Probability and Keras."""

import importlib
from typing import Any

from tfp_realnvp import startup  # noqa: F401    It comes first, since it imports TensorFlow.

# isort: split
from tfp_realnvp import diagnostics, masks
from tfp_realnvp.bijectors import (
    ActNorm,
    AffineCoupling,
    BatchNorm,
    Bounds,
    FactorOut,
    LULinear,
    Pixels,
    SplineCoupling,
    Squeeze,
)
from tfp_realnvp.conditioners import MLP, ConvResNet, ResNet
from tfp_realnvp.flows import Ensemble, Flow, ImageRealNVP, RealNVP

__version__ = "0.2.0"

__all__ = [
    "MLP",
    "ActNorm",
    "AffineCoupling",
    "BatchNorm",
    "Bounds",
    "ConvResNet",
    "Ensemble",
    "FactorOut",
    "Flow",
    "ImageRealNVP",
    "LULinear",
    "Pixels",
    "RealNVP",
    "ResNet",
    "SplineCoupling",
    "Squeeze",
    "diagnostics",
    "masks",
    "plots",
]


def __getattr__(name: str) -> Any:
    if name == "plots":  # It needs matplotlib, which nothing else does.
        return importlib.import_module("tfp_realnvp.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the public names only, so that completion does not show internal modules."""
    return [*__all__, "__version__"]
