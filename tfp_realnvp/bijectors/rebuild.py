"""Functions that find or replace the parts of a TFP object, through its `parameters`."""

from collections.abc import Callable, Iterator
from typing import Any

from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

__all__ = ["parts_of", "rebuild"]


def rebuild(part: Any, replace: Callable[[Any], Any]) -> Any:
    """Calls `replace` on each distribution and bijector in `part`, and on `part` itself, innermost first.

    Returns `part` rebuilt from the replacements. Objects in which nothing changes stay the same objects, and so do
    networks and variables. Objects that a function makes are not replaced, such as a part of a joint distribution that
    is given as a lambda.
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
    """Yields `part` and each distribution and bijector in it.

    The parts are found through `parameters`, since the `submodules` of a copy also include the parts of the original.
    """
    if isinstance(part, tfd.Distribution | tfb.Bijector):
        yield part
        part = part.parameters
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list | tuple):
        for item in part:
            yield from parts_of(item)
