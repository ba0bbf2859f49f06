"""gpu-backprop serve: a page, and an address for programs, that answers with a network's predictions."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import numpy as np

from gpu_backprop.backend.errors import InputError, MissingExtraError, install
from gpu_backprop.commands.datasets import warn
from gpu_backprop.commands.interrupt import interrupt
from gpu_backprop.commands.predict import half_widths
from gpu_backprop.commands.runs import MODEL, load_prepared
from gpu_backprop.starting import caught

CONNECTIONS = 200
"""That may be open at one time."""


def serve(options: argparse.Namespace) -> int:
    """Run the command until a signal ends it."""
    try:
        import uvicorn

        from gpu_backprop.commands.serving.app import make_app
        from gpu_backprop.commands.serving.model import ServedModel
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise MissingExtraError(f"serve needs starlette and uvicorn: {install('serve')}") from error
    net = load_prepared(options.run, options.device)
    if options.interval is not None:
        half_widths(net, options.run, options.interval)  # which says why there are none
    net.predict(np.zeros((1, net.inputs), np.float32))  # what is to be compiled is, before anybody waits
    model = ServedModel(net, run_title(options.run), options.interval, options.max_rows)
    with listen(options.host, options.port) as listening:
        host, port = listening.getsockname()[:2]
        app = make_app(model, options.max_bytes, options.wait, options.host, options.allow_host, options.debug)
        if not ipaddress.ip_address(host).is_loopback:
            warn(
                f"--host {options.host}: anybody who reaches this machine can ask the network; there are neither "
                "passwords nor encryption"
            )
        config = uvicorn.Config(
            app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
            access_log=False, server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=0,
        )  # fmt: skip
        server, signals = uvicorn.Server(config), list[int]()

        def end(number: int, frame: FrameType | None) -> None:  # an exception would be taken for one of a request
            signals.append(number)
            server.should_exit = True

        vars(server)["capture_signals"] = nullcontext  # which would heed signals that are ignored
        address = f"[{options.host}]" if ":" in options.host else options.host
        with caught(end):
            print(f"serving {options.run} at http://{address}:{port} (Ctrl-C ends it)", flush=True)
            server.run(sockets=[listening])
    if signals:
        interrupt(signals[0], None)
    return 0


def run_title(run: Path) -> str:
    """Return what a page calls a run: its folder, or the name of a model file."""
    path = run.resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name == MODEL else path.stem


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens; raise InputError where that cannot be."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(
            f"--host {host} is no address of this machine ({error}); 127.0.0.1 is for this one alone"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = "is in use, maybe by another gpu-backprop serve; choose another with --port, or --port 0 for any"
        elif error.errno == errno.EACCES:
            what = "is not for this user; choose one above 1023 with --port"
        else:
            what = f"cannot be opened ({error.strerror}); choose another --host or --port"
        raise InputError(f"port {port} of {host} {what}") from None
