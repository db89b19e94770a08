"""The live pages as HTML."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from whence.display import picture_uri
from whence.report import Bar, compared_views, render, trace_view
from whence.viewer.documents import TEMPLATES
from whence.viewer.found import Found
from whence.viewer.live import Live
from whence.viewer.work import Job

__all__ = ["HTML", "Sheets"]

HTML = "text/html; charset=utf-8"
THUMB = 96

Picture = tuple[int, str, str, NDArray[np.uint8]]


@final
class Sheets:
    """Fills in the templates of the live pages.

    Args:
        bar: Makes the viewer's links for an address.
    """

    def __init__(self, bar: Callable[[str], Bar]) -> None:
        self.bar = bar

    def page(
        self, template: str, here: str, values: Mapping[str, Any], status: int = 200
    ) -> Response:
        """Return a page."""
        text = render(template, values, bar=self.bar(here), folder=TEMPLATES)
        return Response(text.encode("utf-8", "backslashreplace"), status, media_type=HTML)

    def form(
        self,
        live: Live,
        *,
        kept: Found | None,
        source: str,
        chosen: Picture | None,
        recent: Sequence[Found],
    ) -> Response:
        """Return the form."""
        question = kept.question if kept is not None else None
        panels = question.panels if question is not None else ()
        shown = None
        if chosen is not None:
            shown = {"name": chosen[1], "label": chosen[2], "uri": picture_uri(chosen[3], 320)}
        elif kept is not None:
            uri = picture_uri(kept.maps[0].pictures[0], 320)
            shown = {"name": kept.question.name, "label": "", "uri": uri}
        values = {
            "live": live,
            "kept": kept,
            "question": question,
            "first": panels[0] if panels else None,
            "second": panels[1] if len(panels) > 1 else None,
            "source": source,
            "place": None if chosen is None else chosen[0],
            "shown": shown,
            "recent": [
                (
                    one.id,
                    one.question.name,
                    one.question.panels,
                    picture_uri(one.maps[0].pictures[0], THUMB),
                )
                for one in recent
            ],
        }
        return self.page("explain.html.j2", "/explain", values)

    def pick(
        self,
        shown: Sequence[Picture],
        *,
        source: str,
        counts: Mapping[str, int],
        start: int,
        step: int,
        total: int,
    ) -> Response:
        """Return the page of images to choose from."""
        values = {
            "shown": [
                (place, name, label, picture_uri(p, THUMB)) for place, name, label, p in shown
            ],
            "source": source,
            "counts": counts,
            "start": start,
            "step": step,
            "total": total,
        }
        return self.page("pick.html.j2", "/explain", values)

    def work(self, job: Job) -> Response:
        """Return the page of the work."""
        share = job.done / job.total if job.total > 0 else 0.0
        return self.page("work.html.j2", "/explain", {"job": job, "share": min(share, 1.0)})

    def result(self, found: Found, live: Live) -> Response:
        """Return the page of a result."""
        views, agreement = compared_views(found.maps)
        values = {
            "found": found,
            "question": found.question,
            "views": views,
            "panels": found.question.panels,
            "agreement": agreement,
            # Values of different methods have different units: each map keeps its own scale then.
            "same": len({panel.method for panel in found.question.panels}) == 1,
            "trace": None if found.trace is None else trace_view(found.trace),
            "live": live,
            "model": found.maps[0].model,
        }
        return self.page("result.html.j2", "/explain", values)
