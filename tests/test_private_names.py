"""Every private name of Keras, tf_keras, TensorFlow and TFP that the package uses exists and does what we need.

Any release may change a private name. Then a test fails here, and its name says what the package needs.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

import tfp_realnvp as nvp
from helpers import keras_names, tfp_names

# For each file of the package, the rows of names that only this file may use.
ROWS = {
    "tfp_realnvp.keras_internals": keras_names.ROWS,
    "tfp_realnvp.tfp_internals": tfp_names.ROWS,
    "anywhere": tfp_names.METHODS,
}


@pytest.mark.parametrize("check", [row[0] for rows in ROWS.values() for row in rows], ids=lambda check: check.__name__)
def test_private_names_do_what_the_package_needs(check):
    check()


PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tensorflow_probability.python", "tf_keras.src")


def sources():
    """Yields (module, syntax tree) for each file of the package."""
    package = Path(nvp.__file__).parent
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        yield importlib.import_module(name), ast.parse(path.read_text())


def is_private(name):
    is_name = isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*[A-Za-z0-9]", name)
    return is_name and "tfp_realnvp" not in name and name != "_fields"  # `_fields` of named tuples is public


def defined(tree):
    """Yields the private names that the classes of a file define: methods, variables, and attributes of self."""
    in_classes = [node for top in ast.walk(tree) if isinstance(top, ast.ClassDef) for node in ast.walk(top)]
    for node in in_classes:
        if isinstance(node, ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = ast.unparse(node).removeprefix("self.")
        else:
            continue
        if is_private(name):
            yield name


def looked_up(tree):
    """Yields the private names that a file looks up in an object or holds as a string, and names in private modules."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name: alias.name for alias in node.names if alias.name.startswith(PRIVATE_MODULES)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRIVATE_MODULES):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Constant) and is_private(node.value):
            yield node.value
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for name, full_name in modules.items():
        inner = [each.removeprefix(f"{name}.") for each in used if re.fullmatch(rf"{name}\.\w+", each)]
        yield from (f"{full_name}.{each}" for each in inner) if inner else [full_name]


def overridden(module, tree, ours):
    """Yields (file, name) for each name in `ours` with which a class overrides a method of a foreign class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = getattr(module, node.name).__mro__
            foreign = [base for base in bases if not base.__module__.startswith(nvp.__name__)]
            for base in bases:
                if base not in foreign:
                    names = vars(base).keys() & ours
                    yield from (
                        (base.__module__, name) for name in names if any(name in vars(each) for each in foreign)
                    )


def test_private_names_are_listed_and_used_only_in_their_file():
    files = list(sources())
    ours = {name for _, tree in files for name in defined(tree)}
    found = {}
    for module, tree in files:
        used = {(module.__name__, name) for name in {*looked_up(tree)} - ours}
        for file, name in {*used, *overridden(module, tree, ours)}:
            found.setdefault(name, set()).add(file)
    owners = {name: owner for owner, rows in ROWS.items() for _, _, *names in rows for name in names}
    not_listed = {name: sorted(where) for name, where in found.items() if name not in owners}
    assert not not_listed, f"private names that ROWS lacks, and where they are used: {not_listed}"
    assert owners.keys() <= found.keys(), f"ROWS lists names that are not used: {sorted(owners.keys() - found.keys())}"
    elsewhere = {name: found[name] - {owner} for name, owner in owners.items() if owner != "anywhere"}
    assert not any(elsewhere.values()), f"private names used outside their file: {elsewhere}"
