"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""

import csv
from pathlib import Path

import skal
from skal.query import STRATEGIES

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

# The table of docs/strategies.md and the list in docs/api.md are made from the registry, so that they cannot drift.
generated = Path(__file__).parent / "generated"
generated.mkdir(exist_ok=True)
(generated / "strategies.txt").write_text(
    "\n\n".join(f".. autofunction:: skal.query.{s.function.__name__}" for s in STRATEGIES.values())
)
with open(generated / "strategies.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["", "without labels", "labels", "gradients", "source", "batch", "time grows with"])
    for s in STRATEGIES.values():
        needs = ["yes" if need else "" for need in (s.needs_labels, s.needs_gradients, s.needs_source)]
        rows.writerow([f"`{s.function.__name__}`", s.without_labels, *needs, s.batch, s.cost])
