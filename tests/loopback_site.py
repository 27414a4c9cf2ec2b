"""A small site on loopback: a page with a title, a login form that sets a cookie, a page that tells who is logged in.

Rule: what the server holds (threads, sockets) is named, so that the leak check can tell it from a leak.
"""

from __future__ import annotations

import html
import threading
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    import socket

COOKIE = "login"
TITLE = "A small site"


class Site(ThreadingHTTPServer):
    """The server; `url` has no slash at its end, `requests` lists what was asked for, such as ``GET /account``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}  # a test's own: status, headers, body by path
        self.open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="site", daemon=True)
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self.open.add(request)
        args = (request, client_address)
        threading.Thread(target=self.process_request_thread, args=args, name="site-request", daemon=True).start()

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self.open.discard(request)
        super().shutdown_request(request)

    def fds(self) -> set[int]:
        """Descriptors of the connections that a browser keeps open, even unused ones."""
        return {connection.fileno() for connection in list(self.open)}

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        path = self.path.split("?")[0]
        if path in self.server.pages:
            status, headers, body = self.server.pages[path]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        elif path == "/":
            self._page(f"<h1>{TITLE}</h1><p><a href='/account'>account</a></p>")
        elif path == "/login":
            self._page("<form method=post><input name=user><button>Log in</button></form>")
        elif path == "/account":
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
            who = f"logged in as <b id=user>{html.escape(cookie.value)}</b>" if cookie else "not logged in"
            self._page(f"<p id=who>{who}</p>")
        elif path == "/logout":
            self._go("/account", f"{COOKIE}=; Path=/; Max-Age=0")
        else:
            self._page("<h1>Not found</h1>", status=404)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        self._go("/account", f"{COOKIE}={form['user'][0]}; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")

    def _page(self, body: str, *, status: int = 200) -> None:
        text = f"<!doctype html><html lang=en><title>{TITLE}</title><link rel=icon href='data:,'>{body}".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _go(self, where: str, cookie: str) -> None:
        self.send_response(303)
        self.send_header("Location", where)
        self.send_header("Set-Cookie", cookie)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing."""
