"""Sphinx configuration; ``nox -s docs`` builds docs/_build.

``SKAL_GALLERY=sample`` runs two examples of the gallery instead of all; ``SKAL_INTERSPHINX=1`` links to the
documentation of other packages, for which their inventories are downloaded.
"""

import csv
import inspect
import os
import tomllib
import warnings
from pathlib import Path

from sphinx_gallery.sorting import ExplicitOrder

import skal
from skal.query import STRATEGIES

HERE = Path(__file__).parent
SOURCE = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]["Source"]

project = "skal"
author = "The skal developers"
copyright = "2026, the skal developers"
release = skal.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "gallery/GALLERY_HEADER.rst", "sg_execution_times.rst", "strategies_list.rst"]
templates_path = ["_templates"]
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_typehints = "none"
#: Needed by the server and the widget of `skal label`, which are not installed with the docs.
autodoc_mock_imports = ["anywidget", "starlette", "uvicorn"]
autosummary_generate = ["api.md", "strategies_list.rst"]
copybutton_exclude = ".linenos, .gp, .go"

# ----------------------------------------------------------------- links to other packages

OTHERS = {
    "python": "https://docs.python.org/3",
    "numpy": "https://numpy.org/doc/stable",
    "sklearn": "https://scikit-learn.org/stable",
    "torch": "https://docs.pytorch.org/docs/stable",
    "scipy": "https://docs.scipy.org/doc/scipy",
    "pandas": "https://pandas.pydata.org/docs",
}
#: Properties that numpydoc links to in the section Attributes, where they are described.
nitpick_ignore = [("py:obj", name) for name in ("classes", "labels", "model")]
if os.environ.get("SKAL_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {name: (url, None) for name, url in OTHERS.items()}
else:  # the build needs no network
    nitpick_ignore_regex = [(r"py:.*", rf"({'|'.join(OTHERS)}|abc|modAL|skorch|matplotlib|joblib)\..*")]

# ----------------------------------------------------------------- gallery

#: In the order of the page.
EXAMPLES = [
    "choose_a_strategy",
    "label_a_folder",
    "pool_teaches",
    "grid_search",
    "new_classes",
    "borrow_from_a_source",
    "adapt_to_a_domain",
    "own_network",
    "own_strategy",
    "own_recipe",
    "many_images",
]
#: Run in CI; the others are then shown without their pictures.
SAMPLE = ["own_network", "adapt_to_a_domain"]
run = SAMPLE if os.environ.get("SKAL_GALLERY") == "sample" else EXAMPLES
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"quickstart|[/\\](studies|data)[/\\]",
    "filename_pattern": rf"plot_({'|'.join(run)})\.py",
    "within_subsection_order": ExplicitOrder([f"plot_{name}.py" for name in EXAMPLES] + ["*"]),
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "abort_on_example_error": True,
}
suppress_warnings = ["config.cache"]  # within_subsection_order is an object
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

# ----------------------------------------------------------------- pages

html_theme = "pydata_sphinx_theme"
html_title = "skal"
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["skal.css"]
html_show_sourcelink = False
html_context = {"edit_page_url_template": f"{SOURCE}/edit/main/docs/{{{{ file_name }}}}", "default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "skal", "alt_text": "skal"},
    "use_edit_page_button": True,
    "show_prev_next": False,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["version", "theme-switcher", "navbar-icon-links"],
    "icon_links": [{"name": "Source", "url": SOURCE, "icon": "fa-solid fa-code-branch"}],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {
        "*": ["page-toc", "edit-this-page"],
        "index": [],
        "gallery/*": ["page-toc"],
        "generated/*": ["page-toc"],
    },
}
#: Pages without pages below them have no sidebar on the left.
html_sidebars = {
    name: [] for name in ("index", "get_started", "results", "changes", "gallery/index", "search", "genindex")
}

# ----------------------------------------------------------------- signatures


def own_signature(app, what, name, obj, options, signature, returns):
    """The parameters of a class whose base is mocked, which autodoc reads from the base."""
    if what == "class" and signature == "(*args, **kwargs)" and "__init__" in vars(obj):
        _, *own = inspect.signature(obj.__init__).parameters.values()
        return str(
            inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in own])
        ), returns
    return None


def setup(app):
    app.connect("autodoc-process-signature", own_signature)


# ----------------------------------------------------------------- made from the registry, so that it cannot drift

generated = HERE / "generated"
generated.mkdir(exist_ok=True)
listing = "\n".join(f"   query.{s.function.__name__}" for s in STRATEGIES.values())
(HERE / "strategies_list.rst").write_text(
    f".. currentmodule:: skal\n\n.. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n{listing}\n"
)
with open(generated / "strategies.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["", "without labels", "labels", "gradients", "source", "batch", "time grows with"])
    for s in STRATEGIES.values():
        needs = ["yes" if need else "" for need in (s.needs_labels, s.needs_gradients, s.needs_source)]
        rows.writerow([f"`{s.function.__name__}`", s.without_labels, *needs, s.batch, s.cost])
