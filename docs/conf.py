"""Sphinx configuration. `make docs` builds the site into docs/_build/html."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
INIT = (DOCS.parent / "tfp_realnvp" / "__init__.py").read_text(encoding="utf-8")

project = "tfp_realnvp"
author = "The authors of tfp_realnvp"
copyright = f"2026, {author}"
release = version = re.search(r'__version__ = "(.*)"', INIT)[1]

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "llms",
]
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = "tfp_realnvp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
pygments_style, pygments_dark_style = "friendly", "monokai"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Pages of tutorials run when the site is built; an error fails the build. A test runs the code of all other pages.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Signatures in the source have them; docstrings give shapes.
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
highlight_language = "none"
default_role = "py:obj"  # Docstrings have names of this package and code in single backticks.
