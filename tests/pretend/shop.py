"""A program of somebody who uses the library: it watches the prices of a shop."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lifecycle import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle import Session

LOGIN = {"name": "login", "value": "anna", "domain": "shop.test", "path": "/"}


class Shop:
    """The shop, as one of its customers sees it."""

    def __init__(self, client: Client, folder: Path, *, customer: str = "anna") -> None:
        self._client = client
        self.cookies = folder / f"{customer}.json"
        self.customer = customer
        self.visits: list[str] = []

    @contextmanager
    def visit(self, **options: object) -> Iterator[Session]:
        """A session with the customer's cookies."""
        labels = {"customer": self.customer}
        with self._client.Session(cookie_file=self.cookies, labels=labels, **options) as session:  # type: ignore[arg-type]
            self.visits.append(session.session_id)
            yield session

    def log_in(self) -> None:
        """Log in; the cookie file has the login from then on."""
        with self.visit() as session:
            session.set_cookies(cookies=[{**LOGIN, "value": self.customer}])

    def logged_in_as(self) -> str | None:
        """Who the shop takes the customer for."""
        with self.visit() as session:
            return next((c["value"] for c in session.get_cookies() if c["name"] == "login"), None)

    def saved(self) -> list[str]:
        """The names of the cookies that are kept."""
        told = json.loads(self.cookies.read_text())
        return sorted(c["name"] for c in (told["cookies"] if isinstance(told, dict) else told))

    def price(self, url: str) -> float:
        """The price on a page."""
        with self.visit() as session:
            session.page.goto(url)
            return float(session.page.inner_text("#price"))


def watch(url: str) -> list[str]:
    """Look once, with a client of its own; the states that it went through."""
    seen = []
    with Client(store="memory:") as client:
        with client.Session(name=url) as session:
            seen.append(str(session.state))
        seen.append(str(session.state))
    return seen
