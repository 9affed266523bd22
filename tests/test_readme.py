"""The Python code of the README runs from top to bottom."""

import re
from pathlib import Path

import pytest

import tfp_realnvp as nvp
from helpers.flows import smaller

pytestmark = pytest.mark.optimized

README = Path(__file__).parents[1] / "README.md"


def test_readme_code_runs(tmp_path, monkeypatch):
    """Flows are smaller than in the README, because tracing their graphs takes most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvp, "RealNVP", smaller(nvp.RealNVP, num_couplings=2, hidden_units=(8,)))
    monkeypatch.setattr("tfp_realnvp.sklearn.RealNVP", nvp.RealNVP)
    monkeypatch.setattr(nvp, "ImageRealNVP", smaller(nvp.ImageRealNVP, num_scales=1, num_channels=2))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 5
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["samples"].shape == (1000, 2) and (tmp_path / "flow_export").is_dir()
    assert namespace["new_digits"].shape == (5, 10, 8, 8, 1) and namespace["latents"].shape == (2, 64)
