"""Sphinx builds the site from this folder: `make docs`. Nothing is fetched, warnings are errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "tests"), str(HERE.parent)]

import mltrigger  # noqa: E402

project = "mltrigger"
release = version = mltrigger.__version__
html_title = "mltrigger"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None  # the same sources give the same pages
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "furo"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7ab8ff", "color-brand-content": "#7ab8ff"},
}
pygments_dark_style = "github-dark"
templates_path: list[str] = []
exclude_patterns = ["_build", "_ext"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "repository",  # notebooks and pages of the repository, and links into it
    "reference",  # a page for each public module and class
]

# The saved outputs are shown. `make test` runs the notebooks and compares.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),
    ("html", "text/html", 0),
]
myst_heading_anchors = 4
myst_enable_extensions: list[str] = []
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # notebooks go from the first heading to the third

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
autodoc_preserve_defaults = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = (
    True  # names of our own that are misspelt; types of others, and rooms inside, have no page
)
nitpick_ignore_regex = [
    (r"py:class", r"(?!mltrigger\.[A-Z]).*"),
    (r"py:(mod|func)", r"mltrigger\.(aws\.admin|event|versions)\..*"),
]

linkcheck_timeout = 20
linkcheck_workers = 4
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)"]
