"""normflows."""

from collections.abc import Callable

import normflows as nf

from libraries import Size
from libraries.torch_tasks import torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    layers = []
    for _ in range(size.couplings):
        moved = size.features - size.kept
        network = nf.nets.MLP([size.kept, size.hidden, size.hidden, 2 * moved], init_zeros=True)
        layers += [nf.flows.AffineCouplingBlock(network), nf.flows.Permute(size.features, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(size.features, trainable=False), layers[:-1])
    return torch_tasks(size, flow.log_prob, lambda number: flow.sample(number)[0], flow.parameters())
