"""The docs site, made of the pages that the repository has: `sphinx-build -W -c docs . SITE`."""

project = "jointrt"
author = "The authors of jointrt"
root_doc = "README"
pages = {
    "Pages": ("benchmarks/README", "benchmarks/fleet", "examples/README", "CONTRIBUTING", "CHANGELOG"),
    "Models": ("engines/lite/MODEL_CARD", "engines/clicks/MODEL_CARD"),
}
include_patterns = [f"{page}.md" for page in (root_doc, *(page for group in pages.values() for page in group))]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jointrt"
html_additional_pages = {"index": "redirect.html"}
templates_path = ["."]


def add_contents(app, page, source):
    """The side bar's contents, which README would show as code elsewhere."""
    if page == root_doc:
        for caption, group in pages.items():
            lines = "\n".join(group)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
