"""``lifecycle serve``: the session API, until a signal; and what runs and watches it elsewhere.

Rule: stdout tells where the server is and how to use it, once it listens, and nothing else. A token that was given is
not printed; one that was made is, since nobody could know it else.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from lifecycle.cli.signals import Interrupted
from lifecycle.errors import UnsupportedOperation

if TYPE_CHECKING:
    from lifecycle.server.run import Serving

__all__ = ["extra_server", "print_file", "serve"]

EXTRA: Final = 'pip install "session-lifecycle[server]"'


def serve(
    *,
    host: str,
    port: int,
    adapter: str | None,
    store: str | None,
    token: str | None,
    no_token: bool,
    deny_private: bool,
    allow_chrome_args: bool,
    allow_remote: bool,
    public_url: str | None,
    metrics_without_token: bool,
) -> None:
    """Serve until a signal asks for the end. After SIGTERM, which is how a server is ended, all is well.

    Raises:
        Interrupted: It has ended, as another signal asked.
        UnsupportedOperation: The extra is not installed.
        LifecycleError: It could not begin, or something went wrong as sessions were stopped.
    """
    with extra_server("serving", adapter=adapter or "local"):
        from lifecycle.server import serve as serve_api  # noqa: PLC0415 - comes with an extra
    struck = serve_api(
        host=host, port=port, adapter=adapter, store=store, token=token, no_token=no_token, deny_private=deny_private,
        allow_chrome_args=allow_chrome_args, allow_remote=allow_remote, public_url=public_url,
        metrics_without_token=metrics_without_token, ready=_tell,
    )  # fmt: skip
    if struck not in (None, signal.SIGTERM):
        raise Interrupted(struck)


@contextlib.contextmanager
def extra_server(what: str, *, adapter: str = "local") -> Iterator[None]:
    """For the import of a part of the server: says how to get the extra where that is not installed.

    Raises:
        UnsupportedOperation: It is not.
    """
    try:
        yield
    except ImportError as e:
        raise UnsupportedOperation(
            operation=f"{what} without {e.name}", adapter=adapter, way_out=f"install it: {EXTRA}"
        ) from e


def print_file(which: str) -> None:
    """Print a file of `lifecycle.server.deployment`.

    Raises:
        UnsupportedOperation: The extra is not installed.
    """
    with extra_server(f"the file for {which}"):
        from lifecycle.server.deployment import FILES  # noqa: PLC0415 - comes with an extra
    print(FILES[which](), end="")


def _tell(serving: Serving) -> None:
    key = "any" if serving.token is None else serving.token if serving.made else "..."
    print(f"serving {serving.adapter} sessions on {serving.url}", flush=False)
    print(f"export NOTTE_API_URL={serving.url}")
    print(f"export NOTTE_API_KEY={key}", flush=True)
