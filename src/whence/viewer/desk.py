"""The live pages: a form, the work, a result, and the training images behind it."""

import secrets
from collections import OrderedDict
from dataclasses import replace
from typing import final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from whence.errors import SettingError
from whence.results import ExplanationRecord
from whence.viewer.asking import Panel, Question, read_form, read_question
from whence.viewer.found import Found
from whence.viewer.live import Live, Told
from whence.viewer.sheets import Sheets
from whence.viewer.work import Job, Work

__all__ = ["Desk"]

KEPT = 24
"""Results that are kept in memory; older ones go."""

PATIENCE = 1.5
"""Seconds that a form waits for its result before it shows the progress instead."""

SHOWN = 60
"""Images of a page to choose from."""


@final
class Desk:
    """Takes questions, has them computed one at a time, and keeps the last results."""

    def __init__(self, live: Live, sheets: Sheets) -> None:
        self.live = live
        self.sheets = sheets
        self.work = Work()
        self.found: OrderedDict[str, Found] = OrderedDict()

    @property
    def routes(self) -> list[Route]:
        """The addresses of the live pages."""
        return [
            Route("/explain", self.form),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/pick", self.pick),
            Route("/job/{id}", self.working),
            Route("/job/{id}/stop", self.stop, methods=["POST"]),
            Route("/result/{id}", self.result),
            Route("/result/{id}/training", self.trace, methods=["POST"]),
        ]

    def form(self, request: Request) -> Response:
        """Show the form, with a picture of the data or of an earlier result if one is named."""
        asked = request.query_params
        kept = self.found.get(asked.get("again", ""))
        source, place = asked.get("from", ""), asked.get("place", "")
        chosen = None
        if source in dict(self.live.sources) and place.isdecimal():
            chosen = next(iter(self.live.pictures(source, [int(place)])), None)
        recent = list(reversed(self.found.values()))[:8]
        return self.sheets.form(self.live, kept=kept, source=source, chosen=chosen, recent=recent)

    def pick(self, request: Request) -> Response:
        """Show images of the data to choose from."""
        counts = dict(self.live.sources)
        source = request.query_params.get("from", next(iter(counts), ""))
        if source not in counts:
            raise HTTPException(404, "There are no such images.")
        start = request.query_params.get("start", "0")
        first = int(start) if start.isdecimal() else 0
        shown = self.live.pictures(source, range(first, min(first + SHOWN, counts[source])))
        return self.sheets.pick(
            shown, source=source, counts=counts, start=first, step=SHOWN, total=counts[source]
        )

    async def explain(self, request: Request) -> Response:
        """Take a question and start to answer it."""
        form = await read_form(request)
        try:
            kept = self.found.get(str(form.get("again", "")))
            question = await read_question(form, self.live, kept.question if kept else None)
        finally:
            await form.close()

        def run(progress: Told) -> str:
            maps = tuple(self.panel(question, one, progress) for one in question.panels)
            found = Found(id=secrets.token_hex(6), question=question, maps=maps)
            self.keep(found)
            return f"/result/{found.id}"

        return await self.answer(self.work.start(f"Explaining {question.name}", "/explain", run))

    async def answer(self, job: Job | None) -> Response:
        """Return where the result will be: soon, or on the page of the work."""
        if job is None:
            raise HTTPException(409, "Something is being computed already; stop it or wait for it.")
        await run_in_threadpool(job.ended.wait, PATIENCE)
        where = job.address if job.state == "done" else f"/job/{job.id}"
        return RedirectResponse(where, status_code=303)

    def working(self, request: Request) -> Response:
        """Show how far the work is, or go to its result."""
        job = self.work.find(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "This computation is over, and its result is not kept.")
        if job.state == "done":
            return RedirectResponse(job.address, status_code=303)
        return self.sheets.work(job)

    def stop(self, request: Request) -> Response:
        """Stop the work."""
        job = self.work.find(request.path_params["id"])
        if job is not None:
            job.stopping.set()
            job.ended.wait(PATIENCE)
        return RedirectResponse(f"/job/{request.path_params['id']}", status_code=303)

    def result(self, request: Request) -> Response:
        """Show a result."""
        return self.sheets.result(self.kept(request), self.live)

    async def trace(self, request: Request) -> Response:
        """Start to look for the training images behind a result."""
        found = self.kept(request)
        if not self.live.traces:
            msg = "Training images are needed; start the viewer with --train."
            raise SettingError(msg)

        def run(progress: Told) -> str:
            question = found.question
            trace = self.live.trace(
                question.image,
                found.maps[0],
                target=question.target,
                versus=question.versus,
                progress=progress,
            )
            self.keep(replace(found, trace=trace))
            return f"/result/{found.id}#training"

        return await self.answer(
            self.work.start("Looking for training images", f"/result/{found.id}", run)
        )

    def kept(self, request: Request) -> Found:
        """Return the result of an address."""
        found = self.found.get(request.path_params["id"])
        if found is None:
            raise HTTPException(404, f"Only the last {KEPT} results are kept; ask again.")
        return found

    def keep(self, found: Found) -> None:
        """Keep a result, and let the oldest go."""
        self.found[found.id] = found
        while len(self.found) > KEPT:
            self.found.popitem(last=False)

    def panel(self, question: Question, panel: Panel, progress: Told) -> ExplanationRecord:
        """Return one map."""
        return self.live.explain(
            question.image,
            question.name,
            network=panel.network,
            method=panel.method,
            settings=panel.settings,
            target=question.target,
            versus=question.versus,
            progress=progress,
        )
