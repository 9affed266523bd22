"""Bijectors: the mathematics of a flow. They know nothing of training or files."""

from tfp_realnvp.bijectors.affine import AffineCoupling, ElementwiseAffine
from tfp_realnvp.bijectors.coupling import Coupling
from tfp_realnvp.bijectors.one_pass import OnePassBijector, OnePassChain

__all__ = ["AffineCoupling", "Coupling", "ElementwiseAffine", "OnePassBijector", "OnePassChain"]
