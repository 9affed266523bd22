"""Every private name of Keras, tf_keras, TensorFlow and TFP that the package uses is there, and does what we need.

Any release may change a private name. Such a release fails here first, at the name and what the package needs of it.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

import tfp_realnvp as nvp
from helpers import keras_names, tfp_names

# The rows by the only file that may use their names.
ROWS = {
    "tfp_realnvp.keras_internals": keras_names.ROWS,
    "tfp_realnvp.tfp_internals": tfp_names.ROWS,
    "anywhere": tfp_names.METHODS,
}


@pytest.mark.parametrize("holds", [row[0] for rows in ROWS.values() for row in rows], ids=lambda holds: holds.__name__)
def test_private_names_do_what_the_package_needs(holds):
    holds()


PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tensorflow_probability.python", "tf_keras.src")


def sources():
    """(module, syntax tree) of each file of the package."""
    package = Path(nvp.__file__).parent
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        yield importlib.import_module(name), ast.parse(path.read_text())


def is_private(name):
    is_name = isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*[A-Za-z0-9]", name)
    return is_name and "tfp_realnvp" not in name and name != "_fields"  # which is public, of a named tuple


def defined(tree):
    """The private names that the classes of a file define: methods, variables, and attributes of self."""
    in_classes = [part for top in ast.walk(tree) if isinstance(top, ast.ClassDef) for part in ast.walk(top)]
    for part in in_classes:
        if isinstance(part, ast.FunctionDef):
            name = part.name
        elif isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store):
            name = ast.unparse(part).removeprefix("self.")
        else:
            continue
        if is_private(name):
            yield name


def looked_up(tree):
    """The private names that a file looks up in any object or holds as a string, and the private modules' names."""
    modules = {}
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            modules |= {alias.name: alias.name for alias in part.names if alias.name.startswith(PRIVATE_MODULES)}
        elif isinstance(part, ast.ImportFrom) and (part.module or "").startswith(PRIVATE_MODULES):
            modules |= {alias.asname or alias.name: f"{part.module}.{alias.name}" for alias in part.names}
        elif isinstance(part, ast.Attribute) and is_private(part.attr):
            yield part.attr
        elif isinstance(part, ast.Constant) and is_private(part.value):
            yield part.value
    used = {ast.unparse(part) for part in ast.walk(tree) if isinstance(part, ast.Attribute)}
    for name, full_name in modules.items():
        inner = [each.removeprefix(f"{name}.") for each in used if re.fullmatch(rf"{name}\.\w+", each)]
        yield from (f"{full_name}.{each}" for each in inner) if inner else [full_name]


def overridden(module, tree, ours):
    """(file, name) of those of the names `ours` by which a class of a file overrides a method of a foreign class."""
    for part in tree.body:
        if isinstance(part, ast.ClassDef):
            bases = getattr(module, part.name).__mro__
            foreign = [base for base in bases if not base.__module__.startswith(nvp.__name__)]
            for base in bases:
                if base not in foreign:
                    names = vars(base).keys() & ours
                    yield from (
                        (base.__module__, name) for name in names if any(name in vars(each) for each in foreign)
                    )


def test_private_names_are_used_where_the_rows_say():
    files = list(sources())
    ours = {name for _, tree in files for name in defined(tree)}
    found = {}
    for module, tree in files:
        used = {(module.__name__, name) for name in {*looked_up(tree)} - ours}
        for file, name in {*used, *overridden(module, tree, ours)}:
            found.setdefault(name, set()).add(file)
    doors = {name: door for door, rows in ROWS.items() for _, _, *names in rows for name in names}
    not_listed = {name: sorted(where) for name, where in found.items() if name not in doors}
    assert not not_listed, f"private names that ROWS lacks, and where they are used: {not_listed}"
    assert doors.keys() <= found.keys(), f"ROWS lists names that are not used: {sorted(doors.keys() - found.keys())}"
    elsewhere = {name: found[name] - {door} for name, door in doors.items() if door != "anywhere"}
    assert not any(elsewhere.values()), f"private names used outside their file: {elsewhere}"
