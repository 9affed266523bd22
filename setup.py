"""Metadata of the package; build system and tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = ROOT / "tfp_realnvp" / "__init__.py"
# Placeholders, until the repository has an address: see CONTRIBUTING.md.
REPOSITORY = "https://github.com/OWNER/tfp_realnvp"
SITE = "https://OWNER.github.io/tfp_realnvp"


def readme() -> str:
    """The README, whose relative links lead to the repository, so that pictures show on PyPI too."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\])\((?!https?:)", rf"\1({REPOSITORY}/raw/main/", text)
    return re.sub(r"(?<!\!)(\[[^]]*\])\((?!https?:|#)", rf"\1({REPOSITORY}/blob/main/", text)


setup(
    name="tfp-realnvp",
    version=re.search(r'__version__ = "(.*)"', INIT.read_text(encoding="utf-8"))[1],
    description="Real NVP normalizing flows for TensorFlow Probability and Keras 3",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The authors of tfp_realnvp",
    url=REPOSITORY,
    project_urls={
        "Documentation": SITE,
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    keywords="normalizing-flows real-nvp density-estimation tensorflow-probability keras",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["tfp_realnvp", "tfp_realnvp.*"]),
    package_data={"tfp_realnvp": ["py.typed"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.18,<2.22",
        # The upper bound is the newest tested version, because the package uses private names of Keras: see
        # tests/test_private_names.py.
        "keras>=3.6,<3.16",
        "tensorflow-probability==0.25.*",
        # TensorFlow Probability also needs tf-keras of TensorFlow's minor version, and distutils.
        "tf-keras>=2.18,<2.22",
        "setuptools; python_version >= '3.12'",
        "h5py",
        "numpy",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]"],
        "examples": ["matplotlib", "pandas", "scikit-learn"],
        "cli": ["matplotlib", "pandas", "pyarrow", "scikit-learn"],
        "plot": ["matplotlib"],
        "sklearn": ["scikit-learn>=1.6"],
        "docs": [
            *("furo", "myst-nb", "sphinx", "sphinx-copybutton", "sphinx-design", "ipykernel"),
            *("matplotlib", "pandas", "scikit-learn"),
        ],
        "bench": ["distrax", "dm-haiku", "optax", "flowjax", "FrEIA", "nflows", "normflows", "zuko"],
        "test": [
            *("pytest", "pytest-xdist", "hypothesis", "mypy", "ruff"),
            *("scikit-learn>=1.6", "matplotlib", "pandas", "polars", "pyarrow"),
        ],
    },
)
