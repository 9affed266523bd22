"""The one walk over the parameters of a TFP object, for whatever replaces a part of it."""

from collections.abc import Callable, Iterator
from typing import Any

from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

__all__ = ["parts_of", "rebuild"]


def rebuild(part: Any, replace: Callable[[Any], Any]) -> Any:
    """`part` with each distribution and bijector in it, itself included, replaced by `replace(it)`, innermost first.

    Objects in which nothing changes stay the same objects; so do networks and variables. What a function makes, such as
    a part of a joint distribution that is given by a lambda, is not seen.
    """
    if isinstance(part, tfd.Distribution | tfb.Bijector):
        new = {name: rebuild(value, replace) for name, value in part.parameters.items()}
        changed = {name: value for name, value in new.items() if value is not part.parameters[name]}
        return replace(part.copy(**changed) if changed else part)
    if isinstance(part, dict):
        values = {key: rebuild(value, replace) for key, value in part.items()}
        return part if all(values[key] is part[key] for key in part) else values
    if isinstance(part, list | tuple):
        items = [rebuild(item, replace) for item in part]
        if all(one is other for one, other in zip(items, part, strict=True)):
            return part
        return type(part)(*items) if hasattr(part, "_fields") else items
    return part


def parts_of(part: Any) -> Iterator[tfd.Distribution | tfb.Bijector]:
    """Each distribution and bijector in `part`, itself included.

    They are found in its `parameters`, since the `submodules` of a copy also include those of its original.
    """
    if isinstance(part, tfd.Distribution | tfb.Bijector):
        yield part
        part = part.parameters
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list | tuple):
        for item in part:
            yield from parts_of(item)
