"""The small site that the demo serves on loopback: a home page, a login form, and an account page.

Rule: who is logged in is in the cookie and nowhere else, so a page that greets somebody proves that the cookie came.
"""

from __future__ import annotations

import html
import threading
from contextlib import contextmanager
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["COOKIE", "TITLE", "serve"]

TITLE: Final = "The demo site"
COOKIE: Final = "demo_login"

_STYLE: Final = (
    "body{font:18px/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.6rem}input,button{font:inherit;padding:.3rem .6rem}"
)
_HOME: Final = "<h1>The demo site</h1><p>It runs on this machine.</p><p><a href=/login>Log in</a></p>"
_LOGIN: Final = (
    "<h1>Log in</h1><form method=post action=/login>"
    "<input name=user placeholder='your name' required> <button>Log in</button></form>"
)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/":
                self._page(_HOME)
            case "/login":
                self._page(_LOGIN)
            case "/account":
                cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
                who = f"logged in as {html.escape(cookie.value)}" if cookie is not None else "not logged in"
                self._page(f"<h1>Your account</h1><p id=who>{who}</p>")
            case _:
                self._page("<h1>Not found</h1>", status=404)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        cookie = SimpleCookie({COOKIE: form.get("user", ["nobody"])[0]})
        cookie[COOKIE].update({"path": "/", "max-age": "3600", "httponly": "True", "samesite": "Lax"})
        self.send_response(303)
        self.send_header("Location", "/account")
        self.send_header("Set-Cookie", cookie[COOKIE].OutputString())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, body: str, *, status: int = 200) -> None:
        text = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{TITLE}</title>"
            f"<link rel=icon href='data:,'><style>{_STYLE}</style>{body}"
        ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - a name of http.server
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a connection that a browser keeps open must not hold up the end

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a browser that ends breaks off what it was loading."""


@contextmanager
def serve() -> Iterator[str]:
    """Serve the site on a free port of 127.0.0.1 for as long as the block lasts; gives its URL without a slash."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="demo-site", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
