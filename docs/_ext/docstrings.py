"""Docstrings are Google style with formulas as indented blocks. Sphinx would take such a block for a quotation."""

from typing import Any

_SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:", "Example:", "Examples:")


def with_literal_blocks(lines: list[str]) -> list[str]:
    """The lines of a docstring, in which indented blocks of the description are literal blocks."""
    found: list[str] = []
    in_section = False
    for line in lines:
        text = line.strip()
        if text in _SECTIONS:
            in_section = True
        elif text and not line.startswith(" "):
            in_section = False
        starts = line.startswith("    ") and (not found or not found[-1].strip())
        before = next((other for other in reversed(found) if other.strip()), "")
        if starts and not in_section and not before.startswith("    "):
            found += ["::", ""]
        found.append(line)
    return found


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = with_literal_blocks(lines)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
