"""FrEIA, with its own reversal, because FrEIA's `AllInOneBlock` permutes by a matrix product."""

from collections.abc import Callable

import FrEIA.framework as framework
import FrEIA.modules as modules
import torch

from libraries import Size
from libraries.torch_tasks import network, torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    inn = framework.SequenceINN(size.features)
    for index in range(size.couplings):
        if index:
            inn.append(_Reverse)
        inn.append(modules.AffineCouplingOneSided, subnet_constructor=lambda *sizes: network(*sizes, size.hidden))
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(size.features), 1.0), 1)

    def log_prob(x):
        z, log_det = inn(x)
        return base.log_prob(z) + log_det

    def sample(number):
        return inn(torch.randn(number, size.features), rev=True)[0]

    return torch_tasks(size, log_prob, sample, inn.parameters())


class _Reverse(modules.InvertibleModule):
    def forward(self, x_or_z, c=None, rev=False, jac=True):
        return (x_or_z[0].flip(-1),), 0.0

    def output_dims(self, input_dims):
        return input_dims
