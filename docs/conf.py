"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""

import skal

project = "skal"
author = "The skal developers"
copyright = "2026, the skal developers"
release = skal.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False}
numpydoc_show_class_members = False
autodoc_typehints = "none"
