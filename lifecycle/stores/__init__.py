"""Where records and ledger rows are kept, and how a store is chosen.

Rule: a store that somebody chose is opened or refused, never replaced. Only the default may fall back to memory, with
one warning, because a session that was asked for without a word about stores should not fail for want of a folder.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.config import nearest
from lifecycle.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from lifecycle.ports import Store

__all__ = ["StoreFallbackWarning", "choose_store", "default_path", "open_store"]

ENVIRONMENT: Final = "LIFECYCLE_STORE"
"""The environment variable that names the store where the code does not."""

_FORMS: Final = ("memory:", "sqlite:///PATH", "postgresql://...")
_METHODS: Final = (
    "open", "write", "records", "stored", "register", "last_entry", "enter", "session", "sessions", "close",
)  # fmt: skip


class StoreFallbackWarning(RuntimeWarning):
    """The default store can't be used, so records are kept in memory and end with this process."""


def default_path() -> Path:
    """The file of the default store, in the user's state folder."""
    import platformdirs  # noqa: PLC0415 - not needed when a store is chosen

    return Path(platformdirs.user_state_dir("lifecycle")) / "lifecycle.db"


def choose_store(spec: str | Store | None) -> Store:
    """The store that `spec` means, not opened yet. Reads and writes nothing.

    Args:
        spec: As for `open_store`.

    Raises:
        ConfigError: There is no such store.
    """
    if spec is None:
        spec = os.environ.get(ENVIRONMENT) or None
    if spec is None:
        from lifecycle.stores.sqlite import SQLiteStore  # noqa: PLC0415 - load only the store that is used

        return SQLiteStore(default_path())
    if isinstance(spec, str):
        return _parse(spec)
    if not all(callable(getattr(spec, name, None)) for name in _METHODS):
        allowed = f"{', '.join(_FORMS)}, or an object with the methods {', '.join(_METHODS)}"
        raise ConfigError(option="store", value=spec, allowed=allowed)
    return spec


def open_store(spec: str | Store | None) -> Store:
    """Open a store. Blocks: it reads and writes files.

    Args:
        spec: ``"memory:"``; ``"sqlite:///records.db"`` for a path relative to the working folder,
            ``"sqlite:////var/lib/records.db"`` for an absolute one; a store object, which is opened; or None for
            what the environment variable LIFECYCLE_STORE says, else SQLite in the user's state folder.

    Returns:
        The open store. When the default one can't be used: a store in memory, with a `StoreFallbackWarning`.

    Raises:
        ConfigError: The store that was chosen is not known or can't be opened.
    """
    store = choose_store(spec)
    chosen = os.environ.get(ENVIRONMENT) if spec is None else None
    if spec is None and not chosen:
        return _open_default(store)
    try:
        store.open()
    except StoreError as e:
        named = spec if isinstance(spec, str) else chosen
        shown = named if named and named == _without_secrets(named) else store.url
        shown = f"{shown} (from {ENVIRONMENT})" if chosen else shown
        raise ConfigError(option="store", value=shown, allowed=f"a store that can be opened: {e}") from e
    return store


def _open_default(store: Store) -> Store:
    folder = default_path().parent
    try:
        _private_folder(folder)
        store.open()
    except (OSError, StoreError) as e:
        from lifecycle.stores.memory import MemoryStore  # noqa: PLC0415 - load only the store that is used

        why = e if isinstance(e, StoreError) else f"{folder}: {e.strerror or e}"
        warnings.warn(
            f"the default store can't be used, so records end with this process ({why}); "
            f"choose one with store= or {ENVIRONMENT}, or say 'memory:' to mean it",
            StoreFallbackWarning,
            stacklevel=3,
        )
        store = MemoryStore()
        store.open()
    return store


def _parse(spec: str) -> Store:
    scheme, colon, rest = spec.partition(":")
    if scheme in ("postgresql", "postgres") and rest.startswith("//"):
        return _postgres(spec)
    if spec == "memory:":
        from lifecycle.stores.memory import MemoryStore  # noqa: PLC0415 - load only the store that is used

        return MemoryStore()
    if scheme == "sqlite" and colon:
        from lifecycle.stores.sqlite import SQLiteStore  # noqa: PLC0415 - load only the store that is used

        return SQLiteStore(_sqlite_path(spec, rest))
    if not colon and ("/" in spec or spec.endswith(".db")):
        hint = f"did you mean 'sqlite:///{spec}'? "
    else:
        hint = nearest(f"{scheme}:", ("memory:", "sqlite:", "postgresql:")).partition("known:")[0]
    raise ConfigError(option="store", value=_without_secrets(spec), allowed=f"{hint}known: {', '.join(_FORMS)}")


def _postgres(spec: str) -> Store:
    try:
        from lifecycle.stores.postgres import PostgresStore  # noqa: PLC0415 - load only the store that is used
    except ModuleNotFoundError as e:
        if e.name != "psycopg":
            raise
        allowed = "PostgreSQL with its extra: pip install 'session-lifecycle[postgres]'"
        raise ConfigError(option="store", value=_without_secrets(spec), allowed=allowed) from None
    return PostgresStore(spec)


def _sqlite_path(spec: str, rest: str) -> Path:
    path = rest.removeprefix("///")
    problem = ""
    if not rest.startswith("///"):
        problem = f"three slashes before the path: sqlite:///{rest.lstrip('/') or 'PATH'}; four for an absolute one"
    elif not path:
        problem = "a path after sqlite:///"
    elif path == ":memory:":
        problem = "memory: for a store in memory"
    elif "?" in path or "\0" in path:
        problem = "a plain path after sqlite:///, without parameters"
    if problem:
        raise ConfigError(option="store", value=_without_secrets(spec), allowed=problem)
    return Path(path).expanduser()


def _private_folder(folder: Path) -> None:
    """Make the folder, readable by its user alone; take rights of others away where it was made with them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if os.name == "posix" and status.st_uid == os.geteuid() and status.st_mode & 0o077:
        folder.chmod(0o700)


def _without_secrets(spec: str) -> str:
    """`spec`, or only its scheme where more of it may be a user, a password or a parameter."""
    if not set("@?=") & set(spec):
        return spec
    scheme, mark, _ = spec.partition("://")
    return f"{scheme}://..." if mark else "..."
