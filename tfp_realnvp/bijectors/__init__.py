"""Bijectors: the mathematics of a flow. This package contains no code for training or files."""

from tfp_realnvp.bijectors.affine import AffineCoupling
from tfp_realnvp.bijectors.base import OnePassBijector
from tfp_realnvp.bijectors.bounds import Bounds
from tfp_realnvp.bijectors.chain import OnePassChain
from tfp_realnvp.bijectors.coupling import Coupling
from tfp_realnvp.bijectors.factor_out import FactorOut
from tfp_realnvp.bijectors.linear import LULinear
from tfp_realnvp.bijectors.normalization import ActNorm, BatchNorm
from tfp_realnvp.bijectors.pixels import Pixels
from tfp_realnvp.bijectors.spline import SplineCoupling
from tfp_realnvp.bijectors.squeeze import Squeeze
from tfp_realnvp.bijectors.standardization import Standardization

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "BatchNorm",
    "Bounds",
    "Coupling",
    "FactorOut",
    "LULinear",
    "OnePassBijector",
    "OnePassChain",
    "Pixels",
    "SplineCoupling",
    "Squeeze",
    "Standardization",
]
