"""Keras layers that compute the parameters of a coupling from the part it keeps."""

from tfp_realnvp.conditioners.constant import Constant
from tfp_realnvp.conditioners.conv_resnet import ConvResNet
from tfp_realnvp.conditioners.layers import activation_config, as_activation
from tfp_realnvp.conditioners.mlp import MLP
from tfp_realnvp.conditioners.resnet import ResNet

__all__ = ["MLP", "Constant", "ConvResNet", "ResNet", "activation_config", "as_activation"]
