"""What every request passes before it reaches the page: Host, Origin and login are checked, and answers get armour.

A web site that a user visits can make the browser send requests to this machine. It cannot forge the Host and Origin
headers, though: a Host that is not ours means a name was pointed at this machine (DNS rebinding), an Origin that is not
the Host means another site is asking. Both are refused, for every route there is, gradio's and ours.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Iterable
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import login
from app.login import Account

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = frozenset({"/loom/alive"})
"""Answered without a login."""

CLOSED = (
    "/gradio_api/proxy=", "/gradio_api/file=http", "/gradio_api/vibe", "/gradio_api/undo-vibe", "/gradio_api/dev/",
    "/gradio_api/process_recording", "/gradio_api/profiling", "/gradio_api/run-history", "/gradio_api/runs",
    "/gradio_api/deep_link", "/gradio_api/openapi.json", "/gradio_api/mcp", "/gradio_api/component_server_stream",
    "/monitoring", "/svelte", "/login", "/logout",
)  # fmt: skip
"""Routes of gradio that this page does not use and nobody should: developing, proxying, recording."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Nothing is fetched from anywhere else, and nobody may frame the page. gradio needs its inline scripts."""
ARMOUR = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LONGEST_FORM = 8192


class Gate:
    """ASGI middleware; `hosts` are the names this page answers to, and may grow while it runs."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = LOOPBACK_NAMES, account: Account | None = None) -> None:
        self.app, self.account = app, account
        self.hosts = hosts if isinstance(hosts, set) else set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, ask for the login, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refusal = self.refusal(scope, headers)
        if refusal:
            await _answer(send, *refusal)
        elif self.account is not None and scope["path"] == "/loom/login" and scope["method"] == "POST":
            await self._log_in(self.account, scope, receive, send)
        elif self.account is not None and scope["path"] == "/loom/logout":
            await _answer(send, 303, "", {"location": "/", "set-cookie": self._cookie(self.account, "", scope, age=0)})
        elif self.account is None or scope["path"] in OPEN or self.account.knows(headers.get("cookie", "")):
            await self.app(scope, receive, _armoured(send, scope["path"]))
        else:
            await _ask_for_login(scope, headers, send)

    def refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """(status, sentence) for a request that nobody of this page can have sent; None for a proper one."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or name_of(host) not in self.hosts:
            return 403, (
                f"This page does not answer to {host[:100]!r}. Use an address it was started for, "
                "or name this one in the environment variable LOOM_HOSTS."
            )
        origins = headers.getlist("origin")
        if any(origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}") for origin in origins):
            return 403, "This request came from another web site, and was refused."
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
        visit = mode == "navigate" and scope["method"] in ("GET", "HEAD")
        if site not in ("none", "same-origin") and not visit:
            return 403, "This request came from another web site, and was refused."
        if _plain(scope["path"]).startswith(CLOSED):
            return 404, "There is nothing here."
        return None

    async def _log_in(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("", 0))[0]
        fields = parse_qs((await _body(receive)).decode("utf-8", errors="replace"), max_num_fields=10)
        then = login.safe_target(fields)
        wait = account.tries.wait(address)
        if wait:
            seconds = math.ceil(wait)
            text = login.form(f"Too many attempts; try again in {seconds} seconds.", then)
            await _answer(send, 429, text, {"retry-after": str(seconds)}, kind="text/html")
        elif account.accepts(*((fields.get(name) or [""])[0] for name in ("username", "password"))):
            account.tries.succeeded(address)
            cookie = self._cookie(account, account.session(), scope)
            await _answer(send, 303, "", {"location": then, "set-cookie": cookie})
        else:
            account.tries.failed(address)
            await _answer(send, 401, login.form("User name or password is wrong.", then), kind="text/html")

    def _cookie(self, account: Account, value: str, scope: Scope, age: int = login.DAYS * 86400) -> str:
        secure = scope.get("scheme") == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"
        parts = [f"{account.cookie}={value}", "Path=/", f"Max-Age={age}", "HttpOnly", "SameSite=Strict"]
        return "; ".join(parts + ["Secure"] * secure)


def name_of(host: str) -> str:
    """The name in a Host header, without port and brackets: "[::1]:7860" -> "::1"; "" when it is not one."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket:
            return ""
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    name = name.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _plain(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)


async def _ask_for_login(scope: Scope, headers: Headers, send: Send) -> None:
    if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        query = scope.get("query_string", b"").decode("latin-1")
        then = quote(scope["path"]) + (f"?{query}" if query else "")
        await _answer(send, 401, login.form("", then), kind="text/html")
    else:
        await _answer(send, 401, json.dumps({"detail": "Log in first."}), kind="application/json")


async def _body(receive: Receive) -> bytes:
    body = b""
    while len(body) <= LONGEST_FORM:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body[:LONGEST_FORM]


async def _answer(
    send: Send, status: int, text: str, headers: dict[str, str] | None = None, kind: str = "text/plain"
) -> None:
    every = {**ARMOUR, "content-type": f"{kind}; charset=utf-8", "cache-control": "no-store", **(headers or {})}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": text.encode()})


def _armoured(send: Send, path: str) -> Send:
    """`send` that adds the protective headers, and lets browsers keep what has a hash in its name."""

    async def armoured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in ARMOUR.items():
                headers[name] = value
            if path.startswith("/assets/") and message["status"] == 200:
                headers["cache-control"] = "private, max-age=31536000, immutable"
        await send(message)

    return armoured
