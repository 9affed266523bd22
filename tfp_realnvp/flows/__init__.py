"""Keras models that assemble bijectors into densities, train, save and serve them."""

from tfp_realnvp.flows.ensemble import Ensemble
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.flows.image_real_nvp import ImageRealNVP
from tfp_realnvp.flows.real_nvp import RealNVP

__all__ = ["Ensemble", "Flow", "ImageRealNVP", "RealNVP"]
