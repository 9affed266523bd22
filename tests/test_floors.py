"""Each file of the package imports only files of lower floors, or files before it on its own floor."""

import ast
from pathlib import Path

import tfp_realnvp

# The lowest floor comes first.
FLOORS = """
    startup
    checks keras_internals tfp_internals replicas random_numbers

    masks variables
    conditioners.layers conditioners.base conditioners.dense conditioners.constant conditioners.mlp conditioners.resnet
    conditioners.weight_norm conditioners.conv_resnet conditioners

    bijectors.rebuild bijectors.context bijectors.conditioning bijectors.base bijectors.bounds bijectors.permutation
    bijectors.chain bijectors.split bijectors.coupling bijectors.affine bijectors.spline
    bijectors.linear bijectors.normalization bijectors.standardization bijectors.softplus
    bijectors.squeeze bijectors.factor_out bijectors.pixels bijectors

    distributions

    flows.arrays flows.frames flows.columns flows.inputs flows.batches flows.arguments
    flows.files flows.resume flows.callbacks flows.optimizers flows.snapshots flows.non_finite flows.auto
    flows.contexts flows.support flows.moments flows.standardizer flows.ranges
    flows.dequantization
    flows.compiled flows.summary flows.serialization
    flows.base flows.noise flows.recipe flows.stack
    flows.saving flows.steps flows.predictions flows.executions flows.likelihood flows.training flows.density flows.flow
    flows.ensemble flows.real_nvp flows.image_real_nvp flows

    diagnostics.draws diagnostics.uniformity diagnostics.calibration diagnostics.importance diagnostics

    plots.style plots.corner plots.density plots.history plots.images plots.calibration plots

    sklearn

    command_line command_line.arguments command_line.errors command_line.progress command_line.likelihoods
    command_line.tables command_line.baselines command_line.anomalies command_line.saved_model command_line.fit
    __main__
"""

PACKAGE = Path(tfp_realnvp.__file__).parent


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def imports(path):
    """Yields the files of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == tfp_realnvp.__name__:
                is_module = PACKAGE.joinpath(*rest.split(".")).with_suffix(".py").is_file()
                is_package = PACKAGE.joinpath(*rest.split("."), "__init__.py").is_file()
                yield rest if is_module or is_package else rest.rpartition(".")[0]


def test_imports_go_downwards():
    order = FLOORS.split()
    files = {module_name(path): path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
    assert sorted(order) == sorted(files)
    pairs = {(name, other) for name, path in files.items() for other in imports(path)}
    assert {(name, other) for name, other in pairs if order.index(other) >= order.index(name)} == set()


def test_files_are_short():
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(lengths.values()) <= 300, max(lengths, key=lengths.get)
