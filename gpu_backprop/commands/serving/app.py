"""The addresses of a served network, and what a request may be: who sends it, how large it is, how long it takes."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_backprop.backend.errors import GpuBackpropError, InputError, one_line
from gpu_backprop.commands.serving.model import ServedModel
from gpu_backprop.data import DataError
from gpu_backprop.data.messages import shown
from gpu_backprop.html_report.page import page_style

AT_ONCE = 32
"""Requests for predictions that are received, or wait for their turn, at one time."""

PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
"""The files of the page, by their addresses."""

JSON, CSV = "application/json", "text/csv"

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "x-frame-options": "DENY",
    "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin", "cache-control": "no-store",
}  # fmt: skip
"""Of every answer: the page runs no script but its own, no other page shows it in a frame, and nothing is kept."""

WARNINGS = "prediction-warnings"
"""The header of an answer in CSV that has the warnings: a list in JSON, %-encoded."""

App = Callable[[Any, Any, Any], Awaitable[None]]


class Refusal(Exception):
    """A request that is not answered, with the HTTP status that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def make_app(
    model: ServedModel, most_bytes: int, seconds: float, host: str, names: Collection[str] = (), debug: bool = False
) -> App:
    """Make the application (ASGI) that answers requests.

    Args:
        most_bytes: of a request.
        seconds: that it may take to arrive, and that it may then wait for its turn.
        host: that it listens at.
        names: further names by which it is reached, beside addresses, localhost and the name of this machine.
        debug: whether to show where an unforeseen error came from, on standard error.
    """
    turn, pending = asyncio.Semaphore(1), set[Request]()  # a network predicts for one at a time
    described = {**model.describe(), "most_bytes": most_bytes}

    @asynccontextmanager
    async def received(request: Request, accepted: str) -> AsyncIterator[bytes]:
        """Receive the body of a request, and wait for its turn."""
        check_origin(request, names)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != accepted:
            raise Refusal(415, f"the Content-Type is {shown(kind)}; send {accepted}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "the request is packed (Content-Encoding); send it as it is")
        if len(pending) >= AT_ONCE:
            raise Refusal(503, f"{AT_ONCE} requests are being answered; try again in a moment")
        pending.add(request)
        try:
            async with limited(seconds, 408, "the request took more than {:g} s to arrive; send less at a time"):
                body = await receive_body(request, most_bytes)
            async with limited(seconds, 503, "others were answered for {:g} s; try again in a moment"):
                await turn.acquire()
            try:
                yield body
            finally:
                turn.release()
        finally:
            pending.discard(request)

    async def predict_json(request: Request) -> Response:
        async with received(request, JSON) as body:
            return answer(await asyncio.to_thread(model.predict_json, body))

    async def predict_csv(request: Request) -> Response:
        async with received(request, CSV) as body:
            written, warnings = await asyncio.to_thread(model.predict_csv, body)
        headers = {"content-disposition": 'attachment; filename="predictions.csv"'}
        if warnings:
            headers[WARNINGS] = quote(json.dumps(warnings))
        return Response(written, media_type=CSV, headers=headers)

    async def tell_model(request: Request) -> Response:
        return answer(described)

    async def tell_health(request: Request) -> Response:
        return answer({"status": "ok"})

    routes = [
        Route("/model", tell_model), Route("/health", tell_health),
        Route("/predict", explaining(predict_json, debug), methods=["POST"]),
        Route("/predict.csv", explaining(predict_csv, debug), methods=["POST"]),
        *(Route(f"/{name}", partial(send_page, name)) for name in PAGE),
    ]  # fmt: skip
    return guarded(Starlette(routes=routes, exception_handlers={HTTPException: refuse_address}), {host, *names})


def answer(content: object, status: int = 200) -> Response:
    """Answer in JSON, in ASCII: half of a surrogate pair, as in a damaged name, has no UTF-8."""
    return Response(json.dumps(content, allow_nan=False), status, media_type=JSON)


def explaining(endpoint: Callable[[Request], Awaitable[Response]], debug: bool) -> Callable[..., Awaitable[Response]]:
    """Wrap what answers a request: where it raises, the answer says why in words."""

    async def answer_or_explain(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as error:
            return answer({"error": str(error)}, error.status)
        except (InputError, DataError) as error:
            return answer({"error": one_line(error)}, 400)
        except GpuBackpropError as error:
            return answer({"error": one_line(error)}, 500)
        except ClientDisconnect:
            return answer({"error": "the request has no end"}, 400)
        except Exception as error:
            if debug:
                traceback.print_exc()
            print(f"unexpected {type(error).__name__}: {one_line(error)}", file=sys.stderr)
            return answer({"error": "an unforeseen error; where the server runs, it is said which"}, 500)

    return answer_or_explain


async def refuse_address(request: Request, error: Exception) -> Response:
    """Answer where there is no such address, or it does not take such a method."""
    status = getattr(error, "status_code", 500)
    if status == 405:
        allowed = dict(getattr(error, "headers", None) or {})
        why = f"{request.url.path} takes {allowed.get('Allow', 'other methods')}, not {request.method}"
        response = answer({"error": why}, status)
        response.headers.update(allowed)
        return response
    known = "/, /model, /health, /predict and /predict.csv"
    return answer({"error": f"there is no {shown(request.url.path)}; there are {known}"}, status)


async def send_page(name: str, request: Request) -> Response:
    """Answer with a file of the page."""
    return Response(read_page(name), media_type=PAGE[name])


@cache
def read_page(name: str) -> str:
    """Read a file of the page; the style sheet begins with that of reports."""
    text = Path(__file__).with_name("page").joinpath(name or "page.html").read_text(encoding="utf-8")
    return page_style() + text if name == "page.css" else text


def guarded(app: App, names: Collection[str]) -> App:
    """Wrap an application: it answers only under names that are its own, and its answers have HEADERS. So no page of
    others reads them by a name of its own that it has pointed here (DNS rebinding)."""
    known = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if scope["type"] != "http":  # a server that asks whether there is more to start
            await app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if is_address(name := host_name(given)) or name in known:
            await app(scope, receive, send_guarded)
            return
        why = f"the Host {shown(given)} is not known here; use the address, or start the server with --allow-host NAME"
        await answer({"error": why}, 400)(scope, receive, send_guarded)

    return guard


def check_origin(request: Request, names: Collection[str]) -> None:
    """Refuse what a page from elsewhere sends; programs say no Origin."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    sender, host = origin.partition("://")[2].lower(), request.headers.get("host", "").lower()
    if sender != host and host_name(sender) not in {name.lower() for name in names}:
        raise Refusal(403, f"a page of {shown(origin)} sent this, and only those of this server may")


def host_name(given: str) -> str:
    """Return the name of a host without its port; "" where it is none."""
    found = re.fullmatch(r"\[([0-9a-f:.]+)\](?::[0-9]{1,5})?|([^\[\]:/@]+)(?::[0-9]{1,5})?", given.lower())
    return "" if found is None else found[1] or found[2]


def is_address(host: str) -> bool:
    """Tell whether it is an address, such as 127.0.0.1."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


async def receive_body(request: Request, most: int) -> bytes:
    """Receive the body of a request, and refuse it as soon as it is known to be too large."""
    parts, size = list[bytes](), 0
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20:
        size = int(length)
    if size <= most:
        size = 0
        async for part in request.stream():
            parts.append(part)
            if (size := size + len(part)) > most:
                break
    if size > most:
        raise Refusal(413, f"more than the {most:,} bytes of one request; send it in parts, or raise --max-bytes")
    return b"".join(parts)


@asynccontextmanager
async def limited(seconds: float, status: int, why: str) -> AsyncIterator[None]:
    """Refuse a request for which what is awaited within takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Refusal(status, why.format(seconds)) from None
