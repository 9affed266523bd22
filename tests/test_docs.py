"""The Python code of the README and of each page of the site runs from top to bottom."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

import tfp_realnvp as nvp
from helpers.flows import smaller
from tfp_realnvp.flows.training import TrainingModel

pytestmark = pytest.mark.optimized

ROOT = Path(__file__).parents[1]
# Tutorials run when the site is built.
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if not {"tutorials", "_build"} & set(path.parts)),
]
# A block of Python, and what it prints, if a block of text follows.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)


def blocks(page):
    return [(code, expected or "") for code, expected in BLOCK.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Flows are smaller than on the pages, and trainings shorter, because tracing takes most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvp, "RealNVP", smaller(nvp.RealNVP, num_couplings=2, hidden_units=(8,)))
    monkeypatch.setattr("tfp_realnvp.sklearn.RealNVP", nvp.RealNVP)
    monkeypatch.setattr(nvp, "ImageRealNVP", smaller(nvp.ImageRealNVP, num_scales=1, num_channels=2))
    fit = TrainingModel.fit
    monkeypatch.setattr(
        TrainingModel, "fit", lambda *args, epochs=1, **options: fit(*args, epochs=min(epochs, 2), **options)
    )


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_code_of_a_page_runs(page, short):
    namespace: dict = {}
    for code, expected in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
        if expected:
            same = doctest.OutputChecker().check_output(expected, printed.getvalue(), doctest.ELLIPSIS)
            assert same, f"{code}\nprinted\n{printed.getvalue()}"


def test_pages_have_code():
    assert sum(len(blocks(page)) for page in PAGES) >= 5
