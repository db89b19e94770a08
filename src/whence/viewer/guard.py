"""What stands between the viewer and the world: whose requests it answers, and how large."""

from collections.abc import Callable, Mapping
from typing import final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whence.report import page_policy

__all__ = ["HOST", "LARGEST_REQUEST", "STATIC_POLICY", "Guard"]

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")

LARGEST_REQUEST = 24 * 2**20
"""Bytes of a request, an uploaded picture included."""

STATIC_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""For pages whose own policy is stricter, and names their style: no script at all."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
    # A form's origin is only told where the referrer may be; it goes to this machine alone.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@final
class Guard:
    """Lets through what this machine's own pages ask, and adds the headers to every answer.

    A foreign page can point a name of its own at 127.0.0.1 (DNS rebinding): its requests carry
    that name as ``Host`` and are refused. It can also send a form here without reading the
    answer: whatever changes something must carry an ``Origin`` of ours.

    Args:
        app: What answers.
        stop: Ends what it is computing, and waits for that so many seconds.
    """

    def __init__(self, app: ASGIApp, stop: Callable[[float], None]) -> None:
        self.app = app
        self.stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers(message.get("headers", []))
            await send(message)

        reason = refusal(scope, headers)
        if reason:
            await refuse(reason, sent)
            return
        await self.app(scope, bounded(receive), sent)


def refusal(scope: Scope, headers: Mapping[str, str]) -> str:
    """Return why a request is refused; empty if it is not."""
    port = scope["server"][1]
    ours = {f"{name}:{port}" for name in NAMES}
    if headers.get("host", "") not in ours:
        return "This viewer answers this machine only."
    if scope["method"] in ("GET", "HEAD"):
        return ""
    if headers.get("origin", "") not in {f"http://{one}" for one in ours}:
        return "This was not sent by a page of this viewer, so nothing was done."
    return ""


async def refuse(reason: str, send: Send) -> None:
    """Answer with 403."""
    body = f"{reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), length_of(body)]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def length_of(body: bytes) -> tuple[bytes, bytes]:
    """Return the header that tells a body's length."""
    return b"content-length", str(len(body)).encode()


def bounded(receive: Receive) -> Receive:
    """Return the reader of a request's body that stops where it gets too large."""
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST_REQUEST:
            msg = (
                f"What was sent is larger than {LARGEST_REQUEST // 2**20} MB. "
                f"Send a smaller version of the picture."
            )
            raise HTTPException(413, msg)
        return message

    return read


def with_headers(given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with those that every answer has."""
    named: dict[bytes, bytes] = {key.encode(): value.encode() for key, value in HEADERS.items()}
    named[b"content-security-policy"] = page_policy(live=True).encode()
    named |= {name.lower(): value for name, value in given}
    return list(named.items())
