"""FrEIA."""

from collections.abc import Callable

import torch
from FrEIA import framework, modules

from libraries import Size
from libraries.torch_tasks import network, torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    inn = framework.SequenceINN(size.features)
    for _ in range(size.couplings):
        inn.append(modules.AllInOneBlock, subnet_constructor=lambda *sizes: network(*sizes, size.hidden))
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(size.features), 1.0), 1)

    def log_prob(x):
        z, log_det = inn(x)
        return base.log_prob(z) + log_det

    def sample(number):
        return inn(torch.randn(number, size.features), rev=True)[0]

    return torch_tasks(size, log_prob, sample, inn.parameters())
