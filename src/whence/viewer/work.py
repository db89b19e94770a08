"""One computation at a time, in a thread of its own, which can be stopped."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from whence.errors import WhenceError
from whence.viewer.live import Told

__all__ = ["Job", "Work"]

_LOG = logging.getLogger(__name__)


class StoppedError(Exception):
    """The work was stopped on request."""


@final
@dataclass(kw_only=True, eq=False)
class Job:
    """A computation that runs, or has run.

    Args:
        title: What it does, for a person.
        back: Where the form is from which it was asked for.
        id: Its name in addresses.
        state: ``running``, ``done``, ``failed`` or ``stopped``.
        stage: What it is at.
        done: How many units of that are finished.
        total: Of how many.
        address: Where its result is, once it is done.
        error: What went wrong, if something did.
    """

    title: str
    back: str
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: str = "running"
    stage: str = "starting"
    done: int = 0
    total: int = 0
    address: str = ""
    error: str = ""
    started: float = field(default_factory=time.monotonic)
    stopping: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def report(self, stage: str, done: int, total: int) -> None:
        """Note how far the work is, or end it here if it is to stop."""
        if self.stopping.is_set():
            raise StoppedError
        self.stage, self.done, self.total = stage, done, total


@final
class Work:
    """At most one job at a time; the last one can still be asked about."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.job: Job | None = None

    def start(self, title: str, back: str, run: Callable[[Told], str]) -> Job | None:
        """Start a job, and return it; None if one is running.

        Args:
            title: What it does.
            back: Where the form is.
            run: Does it, and returns the address of the result.
        """
        with self.lock:
            if self.job is not None and not self.job.ended.is_set():
                return None
            job = self.job = Job(title=title, back=back)
        threading.Thread(target=carry_out, args=(job, run), daemon=True, name="whence").start()
        return job

    def find(self, name: str) -> Job | None:
        """Return a job by its name, if it is the last one."""
        job = self.job
        return job if job is not None and job.id == name else None

    def stop(self, wait: float = 0.0) -> None:
        """Ask what is running to stop, and wait for it for so many seconds."""
        job = self.job
        if job is not None:
            job.stopping.set()
            job.ended.wait(wait)


def carry_out(job: Job, run: Callable[[Told], str]) -> None:
    """Run a job to its end, whatever that is."""
    try:
        job.address = run(job.report)
        job.state = "done"
    except StoppedError:
        job.state = "stopped"
    except WhenceError as error:
        job.state, job.error = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - a page must say so; the log has the whole
        _LOG.exception("a computation of the viewer failed")
        job.state, job.error = "failed", f"{type(error).__name__}: {error}"
    finally:
        job.ended.set()
