"""Docstrings are Google style with formulas as indented blocks. Sphinx would take such a block for a quotation."""

import inspect
from typing import Any

from sphinx.util.inspect import stringify_signature

_SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:", "Example:", "Examples:")


def with_literal_blocks(lines: list[str]) -> list[str]:
    """The lines of a docstring, in which indented blocks of the description are literal blocks."""
    found: list[str] = []
    in_section = in_block = False
    for line, previous in zip(lines, ["", *lines], strict=False):
        is_indented = line.startswith("    ")
        if line.strip() in _SECTIONS:
            in_section = True
        elif line and not is_indented:
            in_section = in_block = False
        if is_indented and not previous and not in_section and not in_block:
            found += ["::", ""]
            in_block = True
        found.append(line if in_block or line.startswith(">>> ") else _escaped(line))
    return found


def _escaped(line: str) -> str:
    """A line in which "|a|" is an absolute value, and ", **kwargs" an argument, but no mark of reStructuredText."""
    parts = line.split("`")
    parts[::2] = [part.replace("|", r"\|").replace(", **", r", \*\*") for part in parts[::2]]
    return "`".join(parts)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = with_literal_blocks(lines)


def _signature(app: Any, what: str, name: str, obj: Any, options: Any, *given: Any) -> tuple[str | None, str] | None:
    """The arguments of the constructor, since Sphinx would show those of `__new__` in Keras."""
    if what != "class":
        return None
    signature = inspect.signature(obj.__init__)
    arguments = [value for key, value in signature.parameters.items() if key != "self"]
    return stringify_signature(signature.replace(parameters=arguments), False, False), ""


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
