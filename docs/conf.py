"""Sphinx: how the pages in this folder become a site (`pip install -e .[docs]`, then `make docs`)."""

from __future__ import annotations

import tessella

project = "tessella"
author = "the tessella contributors"
copyright = "the tessella contributors, Apache License 2.0"
release = version = tessella.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
html_title = "tessella"
