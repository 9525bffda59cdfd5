"""Serves the page: the address and who may use it, the socket, the web application, and its end."""

from __future__ import annotations

import argparse
import asyncio
import errno
import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from app import paths
from app.gate import LOOPBACK_NAMES, Gate, name_of
from app.login import Account
from trainer.workspace import VARIABLE, workspace

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

PORT = 7860
CANNOT_START, WRONG_USE = 1, 2
SHORT_PASSWORD = 8


class CannotServe(Exception):
    """Why the page cannot be opened, in a sentence with the way out."""


@dataclass(frozen=True)
class Options:
    """What the command line decides about the page."""

    listen: str = "127.0.0.1"
    server_port: int = PORT
    username: str = ""
    password: str = field(default="", repr=False)
    share: bool = False
    inbrowser: bool = False
    allow: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_loopback(self.listen) and not self.share


def parser() -> argparse.ArgumentParser:
    """The command line of the page."""
    root = argparse.ArgumentParser(
        prog="python -m app",
        description="Opens the page. Without options only this machine can reach it.",
        allow_abbrev=False,
    )
    add = root.add_argument
    add("--listen", nargs="?", const="0.0.0.0", default="127.0.0.1", metavar="ADDR",
        help="address to listen on; any but 127.0.0.1 needs --username and --password")  # fmt: skip
    add("--server_port", type=_port, default=PORT, metavar="N", help=f"port, {PORT} by default; 0 takes a free one")
    add("--username", default=os.environ.get("LOOM_USERNAME", ""), help="or the environment variable LOOM_USERNAME")
    add("--password", default=os.environ.get("LOOM_PASSWORD", ""),
        help="or the environment variable LOOM_PASSWORD, which other users of this machine do not see")  # fmt: skip
    add("--share", action="store_true", help="also make a public link, through gradio's servers")
    add("--inbrowser", action="store_true", help="open the page in a browser")
    add("--workspace", metavar="DIR", help="where runs, presets and caches are kept")
    add("--allow", action="append", default=[], metavar="DIR",
        help="a folder, beside the workspace, for a page that other machines can reach; repeatable")  # fmt: skip
    return root


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535; {text!r} is not")
    return int(text)


def read_options(argv: Sequence[str] | None = None) -> Options:
    """Options from the command line; sets the workspace. Raises `CannotServe` for an address without a login."""
    values = vars(parser().parse_args(argv))
    named = values.pop("workspace")
    if named:
        os.environ[VARIABLE] = str(Path(named).expanduser().absolute())
    options = Options(**{**values, "allow": tuple(values["allow"])})
    check(options)
    return options


def check(options: Options) -> None:
    """Raise `CannotServe` when `options` would open this machine to others, or name folders that are not there."""
    if not options.local and not (options.username and options.password):
        what = "A public link" if options.share else f"Listening on {options.listen}, where other machines can connect,"
        raise CannotServe(f"{what} needs --username and --password (or LOOM_USERNAME and LOOM_PASSWORD).")
    if bool(options.username) != bool(options.password):
        raise CannotServe("A login needs both --username and --password.")
    for folder in options.allow:
        if not Path(folder).expanduser().is_dir():
            raise CannotServe(f"--allow {folder}: there is no such folder.")


def is_loopback(address: str) -> bool:
    """Whether every address that this name stands for belongs to this machine alone."""
    if address == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    return False


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; connections wait in it while the page is built. Raises `CannotServe` with the way out."""
    address = address.strip("[]")
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise CannotServe(f"--listen {address}: this is not an address of this machine.") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CannotServe(_why_not(error, address, port)) from None
    return listener


def _why_not(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--listen {address}: this is not an address of this machine."
    if error.errno == errno.EACCES and port < 1024 and sys.platform != "win32":
        return f"Port {port} is reserved for the system. Choose one above 1023, such as --server_port {PORT}."
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        free = _free_port(address, port)
        other = f"--server_port {free}" if free else "--server_port with another number"
        if _is_loom(address, port):
            return f"LoRA Loom is open already at {url(address, port)}. To open a second page, add {other}."
        return f"Port {port} is used by {_user_of(port) or 'another program'}. End it, or choose another port: {other}."
    return f"Cannot listen on {address}, port {port}: {error.strerror or error}."


def _is_loom(address: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"{url(address, port)}/loom/alive", timeout=1.0) as answer:
            said = json.loads(answer.read(200))
            return isinstance(said, dict) and said.get("name") == "LoRA Loom"
    except (OSError, ValueError):
        return False


def _user_of(port: int) -> str:
    """The program that listens on a port, as far as the system tells."""
    with suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
                return f"{psutil.Process(found.pid).name()} (process {found.pid})"
    return ""


def _free_port(address: str, port: int) -> int:
    """The first free port after `port`; 0 when none of the next twenty is."""
    for other in range(port + 1, min(port + 21, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe, suppress(OSError):
            probe.bind((address, other))
            return other
    return 0


def url(address: str, port: int) -> str:
    """What to type into a browser on this machine."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(address, address)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def known_hosts(options: Options) -> set[str]:
    """The names this page answers to: this machine's own, as far as others can use them, and those in LOOM_HOSTS."""
    names = set(LOOPBACK_NAMES) | {name_of(options.listen)}
    if not is_loopback(options.listen):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower(), f"{socket.gethostname().lower()}.local"}
        for addresses in psutil.net_if_addrs().values():
            names |= {name_of(_bracketed(item.address.partition("%")[0])) for item in addresses if item.address}
    names |= {name_of(_bracketed(word)) for word in os.environ.get("LOOM_HOSTS", "").replace(",", " ").split()}
    return names - {"", "0.0.0.0", "::"}


def _bracketed(address: str) -> str:
    return f"[{address}]" if address.count(":") > 1 and not address.startswith("[") else address


def build(page: gr.Blocks, options: Options, port: int | None = None, **arguments: Any) -> Gate:
    """The web application: `page` with our file routes, behind the gate. `arguments` go to `mount_gradio_app`."""
    import gradio as gr
    from fastapi import FastAPI

    from app import dataset_routes, files

    port = options.server_port if port is None else port
    application: FastAPI = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.include_router(files.router)
    application.include_router(dataset_routes.router)
    gr.mount_gradio_app(
        application, page, path="/", server_name=options.listen, server_port=port, footer_links=[], run_history=False,
        show_error=True, ssr_mode=False, enable_monitoring=False, mcp_server=False, pwa=False, **arguments,
    )  # fmt: skip
    return Gate(application, known_hosts(options), account_of(options, port))


def account_of(options: Options, port: int) -> Account | None:
    """Who may log in; None when no login was asked for."""
    return Account(options.username, options.password, port) if options.username else None


def serve(options: Options, page: Callable[[Options], tuple[gr.Blocks, dict[str, Any]]] | None = None) -> int:
    """Open the page and stay until it is ended; returns the exit code. `page` draws another page than ours (tests)."""
    from app import quick

    paths.restrict(None if options.local else options.allow)
    with bind(options.listen, options.server_port) as listener:
        quick.prepare()
        os.environ["GRADIO_TEMP_DIR"] = str(workspace() / "cache" / "gradio")
        import uvicorn

        port = listener.getsockname()[1]
        blocks, arguments = (page or _our_page)(options)
        gate = build(blocks, options, port, **arguments)
        config = uvicorn.Config(
            gate, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=1, ws="none",
        )  # fmt: skip
        server = uvicorn.Server(config)
        address = url(options.listen, port)
        print(f"LoRA Loom is open at {address}", flush=True)
        if options.password and len(options.password) < SHORT_PASSWORD and not options.local:
            print(f"The password is short; {SHORT_PASSWORD} characters or more are safer.", flush=True)
        threading.Thread(target=_afterwards, args=(options, address, port, gate), daemon=True).start()
        _end_quietly()
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    print("The page is closed. A run that is going on goes on; open the page again to see it.", flush=True)
    return 0


def _end_quietly() -> None:
    """Ending the page with pages open is no error: no exit by signal, no tracebacks of what was cut off."""
    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), lambda number, frame: None)  # uvicorn has heard it before us

    def worth_saying(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, asyncio.CancelledError) and not record.getMessage().startswith("Cancel ")

    logging.getLogger("uvicorn.error").addFilter(worth_saying)


def _our_page(options: Options) -> tuple[gr.Blocks, dict[str, Any]]:
    from app.page import build_page, mount_arguments

    return build_page(options), mount_arguments()


def _afterwards(options: Options, address: str, port: int, gate: Gate) -> None:
    """What need not be done before the page answers."""
    from app import dataset_uploads, runs, thumbnails

    if options.inbrowser:
        webbrowser.open(address)
    if options.share:
        _share(port, gate)
    with suppress(OSError):
        runs.wake()
        thumbnails.forget_old()
        dataset_uploads.forget_broken(workspace().datasets)


def _share(port: int, gate: Gate) -> None:
    from gradio.networking import setup_tunnel

    try:
        link = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # gradio raises whatever its download and its tunnel raise
        print(f"The public link could not be made: {error} The page works without it.", flush=True)
        return
    gate.hosts.add(name_of(link.partition("://")[2].partition("/")[0]))
    print(f"Public link: {link}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Open the page as the command line says; returns the exit code."""
    try:
        return serve(read_options(argv))
    except CannotServe as reason:
        print(reason, file=sys.stderr)
        return CANNOT_START
