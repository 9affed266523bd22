"""nflows."""

from collections.abc import Callable

import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms import AffineCouplingTransform, CompositeTransform, ReversePermutation

from libraries import Size
from libraries.torch_tasks import network, torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    moves = (torch.arange(size.features) >= size.kept).int()
    layers = []
    for _ in range(size.couplings):
        layers.append(AffineCouplingTransform(moves, lambda inputs, outputs: _Network(inputs, outputs, size.hidden)))
        layers.append(ReversePermutation(size.features))
    flow = Flow(CompositeTransform(layers[:-1]), StandardNormal([size.features]))
    return torch_tasks(size, flow.log_prob, flow.sample, flow.parameters())


class _Network(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        self.layers = network(inputs, outputs, hidden)

    def forward(self, kept, context=None):
        return self.layers(kept)
