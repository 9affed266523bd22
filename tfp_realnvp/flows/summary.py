"""Descriptions of a flow: one line for `repr`, and a table for `summary`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import Coupling, FactorOut, LULinear, OnePassChain
from tfp_realnvp.bijectors.chain import flat_bijectors
from tfp_realnvp.bijectors.permutation import is_permutation_of_features
from tfp_realnvp.bijectors.rebuild import parts_of
from tfp_realnvp.flows.contexts import ContextEncoder
from tfp_realnvp.variables import all_variables

__all__ = ["one_line", "table"]

Row = tuple[str, str, str]


def one_line(
    name: str, distribution: tfd.TransformedDistribution, context_shape: Any, parameters: int, is_adapted: bool
) -> str:
    """Describes a flow in one line: `RealNVP(event_shape=(6,), context_shape=None, couplings='8 affine', ...)`."""
    chain = distribution.bijector
    kinds = Counter(_kind_of(part) for part in parts_of(chain) if isinstance(part, Coupling))
    permutations = [_permutation(part) for part in parts_of(chain)]
    told = {
        "event_shape": tuple(distribution.event_shape),
        "context_shape": context_shape,
        "couplings": ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or None,
        "permutation": ", ".join(dict.fromkeys(filter(None, permutations))) or None,
        "base": _base_name(distribution.distribution),
        "parameters": parameters,
        "adapted": is_adapted,
    }
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in told.items())})"


def table(title: str, distribution: tfd.TransformedDistribution, contexts: ContextEncoder, total: str) -> str:
    """A table of the bijectors from data to latent and of the base, with shapes and numbers of parameters."""
    rows = [("From data to latent", "Shape", "Parameters")]
    rows += _rows(distribution.bijector.bijectors, distribution.event_shape, "")
    if contexts.shape is not None:
        rows.append(("standardization of the context", str(list(contexts.shape)), f"{_size(contexts.variables):,}"))
    if contexts.network is not None:
        change = f"{list(contexts.shape or ())} -> {list(contexts.features_shape or ())}"
        rows.append((f"context network: {contexts.network.name}", change, f"{contexts.network.count_params():,}"))
    rows.append(
        (f"base: {_base_name(distribution.distribution)}", "", f"{_size(all_variables(distribution.distribution)):,}")
    )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third:>{widths[2]}}" for first, second, third in rows]
    rule = "-" * len(lines[0])
    context = "no context" if contexts.shape is None else f"context {list(contexts.shape)}"
    head = f"{title}: events {list(distribution.event_shape)}, {context}"
    return "\n".join([head, rule, lines[0], rule, *lines[1:], rule, total])


def _rows(bijectors: Sequence[tfb.Bijector], shape: tf.TensorShape, indent: str) -> Iterator[Row]:
    for bijector in bijectors:
        latent = bijector.inverse_event_shape(shape)
        change = str(list(shape)) if latent == shape else f"{list(shape)} -> {list(latent)}"
        yield f"{indent}{_described(bijector)}", change, f"{_size(all_variables(bijector)):,}"
        if isinstance(bijector, FactorOut):
            height, width, channels = bijector.image_shape
            rest = tf.TensorShape([height, width, channels // 2])
            yield from _rows(flat_bijectors(bijector.rest), rest, f"{indent}  ")
        shape = latent


def _described(bijector: tfb.Bijector) -> str:
    if isinstance(bijector, tfb.Invert):
        return f"Invert({_described(bijector.bijector)})"
    if isinstance(bijector, Coupling):
        return f"{type(bijector).__name__}({type(bijector.conditioner).__name__})"
    if isinstance(bijector, OnePassChain):
        return "Chain"
    permutation = _permutation(bijector)
    name = type(bijector).__name__.lstrip("_").removeprefix("Unbatched")
    return name if permutation is None or isinstance(bijector, LULinear) else f"{name}({permutation})"


def _kind_of(coupling: Coupling) -> str:
    return type(coupling).__name__.removesuffix("Coupling").lower()


def _permutation(bijector: Any) -> str | None:
    """The option `permutation` of `RealNVP` that makes such a bijector; None if it is not a permutation."""
    if isinstance(bijector, LULinear):
        return "lu"
    if not (isinstance(bijector, tfb.Bijector) and is_permutation_of_features(bijector)):
        return None
    if isinstance(bijector.permutation, tf.Variable):
        return "random"
    order = tf.get_static_value(bijector.permutation)
    return "reverse" if np.array_equal(order, np.arange(len(order))[::-1]) else "fixed"


def _base_name(base: tfd.Distribution) -> str:
    inner = getattr(base, "distribution", None)
    return type(base).__name__.lstrip("_") if inner is None else _base_name(inner)


def _size(variables: Sequence[tf.Variable]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)
