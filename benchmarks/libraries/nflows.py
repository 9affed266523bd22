"""nflows. With splines, the flow is RQ-NSF (C) of Durkan et al., "Neural spline flows", 2019, arXiv 1906.04032."""

from collections.abc import Callable

import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    AffineCouplingTransform,
    CompositeTransform,
    LULinear,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
    ReversePermutation,
)

from libraries import BINS, BOUND, Size
from libraries.torch_tasks import network, torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    moves = (torch.arange(size.features) >= size.kept).int()

    def residual_network(inputs: int, outputs: int) -> torch.nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=size.hidden, num_blocks=2)

    layers = []
    for _ in range(size.couplings):
        if size.splines:
            options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
            layers += [RandomPermutation(size.features), LULinear(size.features, identity_init=True)]
            layers.append(PiecewiseRationalQuadraticCouplingTransform(moves, residual_network, **options))
        else:
            layers += [ReversePermutation(size.features)] if layers else []
            layers.append(AffineCouplingTransform(moves, lambda *sizes: _Network(*sizes, size.hidden)))
    flow = Flow(CompositeTransform(layers), StandardNormal([size.features]))
    return torch_tasks(size, flow.log_prob, flow.sample, flow.parameters())


class _Network(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        self.layers = network(inputs, outputs, hidden)

    def forward(self, kept, context=None):
        return self.layers(kept)
