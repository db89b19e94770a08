"""What all pages share: templates, style and script inside, and what a page may do."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from whence.display import data_uri, scale_png
from whence.report import words

__all__ = ["TEMPLATES", "Bar", "page_policy", "render"]

TEMPLATES = Path(__file__).parent / "templates"


@final
@dataclass(frozen=True, kw_only=True)
class Bar:
    """The links of the viewer, on a page that it shows live.

    Args:
        links: Address and text of each.
        here: The address of the page itself.
        explains: Whether a network is at hand, so that images can be explained.
    """

    links: tuple[tuple[str, str], ...]
    here: str
    explains: bool = False


def render(
    template: str,
    values: Mapping[str, Any],
    *,
    bar: Bar | None = None,
    folder: Path = TEMPLATES,
) -> str:
    """Return a page: a template filled in.

    Args:
        template: Its file name.
        values: What it shows.
        bar: The viewer's links; None for a page that stands alone, offline.
        folder: Where templates are looked for besides those of the report.
    """
    return _environment(folder).get_template(template).render({**values, "bar": bar})


def page_policy(*, live: bool) -> str:
    """What a page may do: show pictures and run this very style and script.

    Args:
        live: Whether it is shown by the viewer, and may ask that for more; otherwise it loads
            nothing and sends nothing.
    """
    style, script = _texts()
    own = " 'self'" if live else ""
    forms = "'self'" if live else "'none'"
    frames = "; frame-ancestors 'none'" if live else ""
    return (
        f"default-src 'none'; img-src{own} data:; style-src 'sha256-{_digest(style)}'; "
        f"script-src 'sha256-{_digest(script)}'; base-uri 'none'; form-action {forms}{frames}"
    )


@cache
def _texts() -> tuple[str, str]:
    """The style and the script that stand in every page."""
    style = (TEMPLATES / "style.css").read_text("utf-8")
    return style, (TEMPLATES / "script.js").read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, folder]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _texts()
    environment.globals |= {
        "style": style,
        "script": script,
        "policy": page_policy(live=False),
        "scale": data_uri(scale_png()),
        "number": words.number,
        "percent": words.percent,
        "thousands": words.thousands,
        "counted": words.counted,
        "duration": words.duration,
        "moment": words.moment,
        "brief_name": words.brief_name,
        "short": words.short,
        "shortened": words.shortened,
        "setting": words.setting,
    }
    return environment
