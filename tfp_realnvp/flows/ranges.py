"""Finds rows outside the range of a distribution, where the density is 0."""

import itertools
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors import Coupling, OnePassChain
from tfp_realnvp.bijectors.chain import inverse_and_log_det, is_outside, may_have_bounds
from tfp_realnvp.bijectors.rebuild import parts_of
from tfp_realnvp.flows.arrays import chunks, is_array
from tfp_realnvp.flows.frames import listed
from tfp_realnvp.flows.inputs import events_of
from tfp_realnvp.flows.support import bounds_of, check_support

__all__ = ["check_range"]


def check_range(data: Any, chain: OnePassChain, event_ndims: int, dtype: str, argument: str) -> None:
    """Raises a ValueError if rows of arrays lie outside the range of `chain` for all weights and contexts.

    Starting from the data, this checks the bijectors before the first one that training or a context can change.
    """
    support = bounds_of(chain.bijectors, dtype)
    check_support(data, support, argument)
    x = events_of(data)
    fixed = list(itertools.takewhile(_is_fixed, chain.bijectors))
    if not is_array(x) or not any(map(may_have_bounds, fixed if support is None else fixed[1:])):
        return
    bounds = OnePassChain(fixed, inference=True)

    def outside(rows: np.ndarray) -> np.ndarray:
        _, log_det = inverse_and_log_det(bounds, tf.cast(rows, dtype), event_ndims)
        return np.broadcast_to(is_outside(log_det), len(rows))

    bad = [start + row for start, chunk in chunks(x) for row in np.flatnonzero(outside(chunk)).tolist()]
    if bad:
        raise ValueError(
            f"{argument} must lie within the range of the distribution, where it has a density; {len(bad)} of the "
            f"{len(x)} rows do not: {listed(bad)}"
        )


def _is_fixed(bijector: tfb.Bijector) -> bool:
    return not bijector.trainable_variables and not any(isinstance(part, Coupling) for part in parts_of(bijector))
