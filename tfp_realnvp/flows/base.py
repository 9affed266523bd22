"""The base distributions of `RealNVP`."""

from typing import Any

import numpy as np
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors.softplus import Softplus
from tfp_realnvp.checks import check_option

__all__ = ["as_base"]


def as_base(base: Any, size: int, dtype: str) -> tfd.Distribution:
    """The distribution of the argument `base_distribution` of `RealNVP`. Raises a ValueError if it is wrong."""
    if base is None:
        return tfd.Independent(tfd.Normal(*np.array([[0.0] * size, [1.0] * size], dtype)), 1)
    if isinstance(base, str):
        check_option("base_distribution", base, ("student_t",), "; None and a tfd.Distribution are allowed too")
        zeros = np.zeros(size, dtype)
        degrees_of_freedom = tfp.util.TransformedVariable(zeros + 10, Softplus(), name="degrees_of_freedom")
        return tfd.Independent(tfd.StudentT(degrees_of_freedom, zeros, zeros + 1), 1)
    if not isinstance(base, tfd.Distribution):
        raise ValueError(f"base_distribution must be a tfd.Distribution, got {base!r}")
    if base.event_shape != [size] or base.batch_shape != [] or base.dtype != dtype:
        raise ValueError(
            f"base_distribution must have event shape [{size}], batch shape [] and dtype {dtype}, "
            f"got {base.event_shape}, {base.batch_shape} and {getattr(base.dtype, 'name', base.dtype)}"
        )
    return base
