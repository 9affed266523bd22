"""Real NVP normalizing flows for TensorFlow Probability and Keras."""

from tfp_realnvp import masks
from tfp_realnvp.bijectors import AffineCoupling
from tfp_realnvp.conditioners import MLP
from tfp_realnvp.flows import Flow, RealNVP

__all__ = ["MLP", "AffineCoupling", "Flow", "RealNVP", "masks"]
