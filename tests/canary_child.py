"""A program whose sessions handle secrets of many kinds, with all logs on; the test looks for them in what it wrote.

    python tests/canary_child.py FOLDER URL-OF-THE-SITE

Reads ``secrets.json`` in the folder; adds those that it learns to ``learnt.json``. Prints every error with its notes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from lifecycle import Client
from lifecycle.audit import Checkpoints
from lifecycle.otel import instrument
from lifecycle_adapters.memory import MemoryAdapter
from lifecycle_adapters.remote import RemoteAdapter

FOLDER, SITE = Path(sys.argv[1]), sys.argv[2]
SECRETS: dict[str, str] = json.loads((FOLDER / "secrets.json").read_text())
STORE = f"sqlite:///{FOLDER / 'log.db'}"


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """An error is printed as a host would: its words, its form, its notes and those that caused it."""
    try:
        yield
    except Exception as e:
        error: BaseException | None = e
        while error is not None and type(error).__module__.startswith("lifecycle"):
            print(what, type(error).__name__, str(error), repr(error), vars(error), getattr(error, "__notes__", ()))
            error = error.__cause__
    else:
        print(what, "went well")


class Failing(MemoryAdapter):
    """Its browser's maker puts a secret into the words of its errors."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    async def open(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        if self._step == "open":
            raise OSError(f"no license for key {SECRETS['foreign error']}")
        return await super().open(*args, **kwargs)  # type: ignore[arg-type]


def pages(client: Client) -> list[str]:
    """Pages, forms, queries and scripts, by Playwright and by operations."""
    with client.Session(cookie_file=FOLDER / "cookies.json", chrome_args=[f"--x={SECRETS['switch']}"]) as session:
        learnt = [session.cdp_url().rsplit("/", 1)[-1], (session.viewer_url or "").rsplit("/", 1)[-1]]
        session.page.goto(f"{SITE}/login?token={SECRETS['query string']}#{SECRETS['fragment']}")
        session.page.fill("input", SECRETS["form value"])
        session.page.click("button")
        session.page.evaluate(f"localStorage.setItem('k', {SECRETS['local storage']!r})")
        session.page.evaluate(f"console.log({SECRETS['console']!r})")
        with contextlib.suppress(Exception):
            session.page.evaluate(f"throw new Error({SECRETS['script error']!r})")
        session.page.set_extra_http_headers({"X-Key": SECRETS["header"]})
        session.set_cookies(cookies=[{"name": "c", "value": SECRETS["set cookie"], "url": SITE}])
        session.execute(type="goto", url=f"{SITE}/login?again={SECRETS['operation query']}")
        session.execute(type="fill", selector="input", value=SECRETS["operation value"])
        for url in (
            f"http://u:{SECRETS['url password']}@127.0.0.1:1/",
            f"http://127.0.0.1:1/?q={SECRETS['failed query']}",
        ):
            with told("goto"):
                session.execute(type="goto", url=url)
        with told("selector"):
            session.execute(type="fill", selector="#nothing", value=SECRETS["form value"], timeout=300)
        session.observe()
        session.scrape()
    return learnt


def main() -> None:
    """All of it, one after the other."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    logging.basicConfig(level=logging.DEBUG)
    kept = Checkpoints(to=FOLDER / "notes.txt", key=FOLDER / "key.pem")
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=(FOLDER / "spans.txt").open("w"))))
    with Client(adapter="local", store=STORE, checkpoints=kept) as client:
        instrument(client, tracer_provider=spans)
        (FOLDER / "learnt.json").write_text(json.dumps(pages(client)))
        with told("the caller's own"), client.Session():
            raise KeyError(SECRETS["caller's error"])
        session = client.Session()

        @session.hook(before="stop", on_error="log")
        def spill(_: object) -> None:
            raise ValueError(SECRETS["hook error"])

        with session:
            pass
        with told("cookie file"):
            client.Session(cookie_file=FOLDER / "torn.json").start()
        for option, value in (
            ("proxy", f"http://me:{SECRETS['proxy password']}@proxy.test:99999"),
            ("proxy", {"server": "ftp://proxy.test", "username": SECRETS["proxy user"], "password": "p"}),
            ("chrome_args", [f"--remote-debugging-port={SECRETS['refused switch']}"]),
            ("http_credentials", {"username": "u", "password": SECRETS["http password"]}),
        ):
            with told(option):
                client.Session(**{option: value}).start()  # type: ignore[arg-type]
    proxy = f"http://me:{SECRETS['used proxy password']}@proxy.test:80"
    with Client(adapter=MemoryAdapter(), store=STORE) as client, client.Session(proxy=proxy):
        pass
    with told("foreign"), Client(adapter=Failing("open"), store=STORE) as client:
        client.Session().start()
    with (
        told("remote"),
        Client(adapter=RemoteAdapter(api_key=SECRETS["api key"], base_url=SITE), store=STORE) as client,
    ):
        client.Session().start()
    with told("store"):
        Client(adapter="memory", store=f"postgresql://u:{SECRETS['store password']}@db.test/x")


if __name__ == "__main__":
    main()
