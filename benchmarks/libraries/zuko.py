"""zuko. Its class `NICE` has affine couplings by default, and its class `NSF` spline couplings if `passes` is 2."""

from collections.abc import Callable

import zuko

from libraries import BINS, Size
from libraries.torch_tasks import torch_tasks


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    options = {"transforms": size.couplings, "hidden_features": 2 * (size.hidden,)}
    if size.splines:
        flow = zuko.flows.NSF(size.features, bins=BINS, passes=2, randperm=True, residual=True, **options)
    else:
        flow = zuko.flows.NICE(size.features, **options)
    return torch_tasks(size, lambda x: flow().log_prob(x), lambda number: flow().sample((number,)), flow.parameters())
