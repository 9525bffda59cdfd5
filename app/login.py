"""The login of a page that other machines can reach: one account, a form, a signed cookie, fewer and fewer tries."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from html import escape
from http.cookies import CookieError, SimpleCookie

DAYS = 30
FREE_TRIES, LONGEST_WAIT = 5, 60.0
"""Wrong passwords before waiting begins, and the longest wait in seconds."""


class Account:
    """The user name and password of the page.

    Sessions are cookies signed with a key that is derived from the password: they outlive a restart of the page, end
    with a change of the password, and nothing is stored.
    """

    def __init__(self, username: str, password: str, port: int = 0) -> None:
        self._name, self._word = _digest(username), _digest(password)
        salt = b"lora-loom session:" + username.encode()
        self._key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
        self.cookie = f"loom_session_{port}"
        self.tries = Tries()

    def accepts(self, username: str, password: str) -> bool:
        """Whether this is the account; takes as long for a wrong name as for a wrong password."""
        right_name = hmac.compare_digest(self._name, _digest(username))
        right_word = hmac.compare_digest(self._word, _digest(password))
        return right_name and right_word

    def session(self) -> str:
        """The value of a new session's cookie."""
        content = f"{int(time.time()) + DAYS * 86400}.{secrets.token_urlsafe(12)}"
        return f"{content}.{self._sign(content)}"

    def knows(self, cookies: str) -> bool:
        """Whether a Cookie header holds a session that was signed here and has not run out."""
        content, _, signature = _cookie(cookies, self.cookie).rpartition(".")
        until = content.partition(".")[0]
        right = hmac.compare_digest(signature.encode(), self._sign(content).encode())
        return right and until.isdigit() and int(until) > time.time()

    def _sign(self, content: str) -> str:
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


class Tries:
    """Failed logins of each address. After a few, every further one doubles the wait."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 = now."""
        with self._lock:
            count, last = self._failed.get(address, (0, 0.0))
        if count < FREE_TRIES:
            return 0.0
        return max(0.0, last + min(2.0 ** (count - FREE_TRIES), LONGEST_WAIT) - time.monotonic())

    def failed(self, address: str) -> None:
        """Count a failure."""
        with self._lock:
            if len(self._failed) > 10_000:
                self._failed.clear()
            self._failed[address] = self._failed.get(address, (0, 0.0))[0] + 1, time.monotonic()

    def succeeded(self, address: str) -> None:
        """Forget the failures."""
        with self._lock:
            self._failed.pop(address, None)


def form(message: str = "", then: str = "/") -> str:
    """The login page; `then` is the address that is opened afterwards."""
    return FORM.replace("MESSAGE", escape(message)).replace("THEN", escape(then))


def safe_target(fields: Mapping[str, list[str]]) -> str:
    """Where to go after the login: a path of this page, never another machine."""
    then = (fields.get("then") or ["/"])[0]
    plain = then.startswith("/") and not then.startswith(("//", "/\\")) and then.isprintable()
    return then if plain and then.isascii() else "/"


FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>LoRA Loom: log in</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0; }
  form { width: min(20rem, 90vw); display: grid; gap: .75rem; }
  h1 { font-size: 1.3rem; margin: 0; }
  label { display: grid; gap: .25rem; font-size: .9rem; }
  input, button { font: inherit; padding: .5rem .6rem; border-radius: 6px; border: 1px solid #8888; }
  button { background: #0f766e; border-color: #0f766e; color: white; cursor: pointer; }
  p { margin: 0; min-height: 1.5em; color: #b91c1c; }
  @media (prefers-color-scheme: dark) { p { color: #fca5a5; } }
</style></head>
<body><form method="post" action="/loom/login">
<h1>LoRA Loom</h1>
<label>User name <input name="username" autocomplete="username" autofocus required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<input type="hidden" name="then" value="THEN">
<button>Log in</button>
<p role="alert">MESSAGE</p>
</form></body></html>
"""
