"""How the pages in this folder are built, by ``make docs``: offline, with every warning an error."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
for place in (ROOT, ROOT / "plugins", ROOT / "integrations", ROOT / "docs"):
    sys.path.insert(0, str(place))

project = "torch-probes"
author = "The torch-probes authors"
project_copyright = author
html_title = "torch-probes"
language = "en"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "public_names", "mathml", "repository"]
exclude_patterns = ["_build"]

# Pages in Markdown, with anchors that GitHub gives them too.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Reference: from docstrings in the style of Google, and from annotations.
autoclass_content = "class"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference"]
add_module_names = False
autodoc_mock_imports = ["lightning", "pytorch_lightning", "transformers", "ignite", "keras", "wandb", "mlflow", "ray"]

# Every reference must lead somewhere. Without a network, names of other projects have no pages to lead to.
nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|nn|np|numpy|xarray|pluggy|matplotlib|rich|lightning|ignite|keras|transformers|wandb|mlflow)\..*",
    ),
    (r"py:.*", r"(collections|concurrent|functools|os|pathlib)\..*"),  # of Python's own
    (r"py:.*", r"Tensor|Array|NDArray|Figure|Path|Trainer|LightningModule|RichTable|WandbRun"),  # without their module
    (r"py:class", r"(probes_ntk\.plan\.)?Plan|probes\.summary\.Run|[\w.]+\.(T|Bounds|ExampleAxis)"),  # not public
    (r"py:exc", r"\w+(, \w+)+"),  # several errors for one reason
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
