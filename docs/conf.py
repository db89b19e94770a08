"""Sphinx builds the manual from these pages, the docstrings and the commands' own help."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))

from constants import constants_of
from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from whence import __version__

project = "whence"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
html_theme = "alabaster"
html_title = f"whence {version}"
html_theme_options = {
    "description": "Where does a prediction come from?",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_math_renderer = "mathml"
html_copy_source = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("References", "notes_style")]
suppress_warnings = ["ref.python"]  # a name that a room and its file both hold is the same thing


class CommandHelp(SphinxDirective):
    """Show what ``whence COMMAND --help`` prints, by asking it."""

    required_arguments: ClassVar[int] = 0
    optional_arguments: ClassVar[int] = 2

    def run(self) -> list[nodes.Node]:
        """Run the command and return its help as literal text."""
        words = [*self.arguments, "--help"]
        plain = {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
        program = Path(sys.executable).with_name("whence")
        shown = subprocess.run(  # noqa: S603 - our own program
            [program, *words],
            capture_output=True,
            check=True,
            encoding="utf-8",
            env={**os.environ, **plain},
        )
        lines = "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
        text = f"$ whence {' '.join(words)}\n\n{lines}\n"
        return [nodes.literal_block(text, text, language="text")]


class RoomConstants(SphinxDirective):
    """Show a room's public constants and types with the text below their definitions."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Write them as the Python domain does."""
        room = self.arguments[0]
        lines = [f".. py:module:: whence.{room}", "   :no-index:", ""]
        for name, text in constants_of(room).items():
            if not text:
                logging.getLogger("whence").warning("whence.%s.%s says nothing", room, name)
            lines += [f".. py:data:: {name}", ""]
            lines += [f"   {line}" for line in text.splitlines()] + [""]
        place = nodes.section()
        self.state.nested_parse(StringList(lines, source=f"constants of {room}"), 0, place)
        return place.children


def mathml(node: nodes.Element, *, block: bool) -> str:
    """Return a formula as MathML, whose brackets grow by themselves; warn where it cannot be."""
    formula = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", node.astext())
    try:
        return str(tex2mathml(formula, as_block=block))
    except MathError as error:
        logging.getLogger("whence").warning("%s in %s", error, formula, location=node)
        return ""


def inline_math(translator: Any, node: nodes.math) -> None:  # noqa: ANN401 - Sphinx's visitor
    """Write a formula inside a line as MathML, which needs no script and no network."""
    translator.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def block_math(translator: Any, node: nodes.math_block) -> None:  # noqa: ANN401 - as above
    """Write a formula of its own as MathML."""
    translator.body.append(f"<div class='math'>{mathml(node, block=True)}</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the formula renderer and the directive."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_directive("command-help", CommandHelp)
    app.add_directive("room-constants", RoomConstants)
