"""zuko. Its class `NICE` has affine couplings by default."""

from collections.abc import Callable

import zuko

from libraries import Size
from libraries.torch_tasks import torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    flow = zuko.flows.NICE(size.features, transforms=size.couplings, hidden_features=2 * (size.hidden,))
    return torch_tasks(size, lambda x: flow().log_prob(x), lambda number: flow().sample((number,)), flow.parameters())
