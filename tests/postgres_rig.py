"""A real PostgreSQL server for tests: found or got, made anew in a folder of its own, ended with the run.

Run as a program, it gets the server's programs where there are none, from the packages of the system.
"""

from __future__ import annotations

import functools
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packages import APT_INSTALL, APT_UPDATE, get

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACES = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")


@functools.cache
def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None where there is none."""
    found = [Path(name).resolve().parent for name in (shutil.which("initdb"), shutil.which("pg_ctl")) if name]
    for place in _PLACES:
        found += sorted(Path(place).glob("*/bin"), key=_version, reverse=True)
    return next((bin_ for bin_ in found if (bin_ / "postgres").exists() and (bin_ / "initdb").exists()), None)


def _version(bin_: Path) -> tuple[int, str]:
    digits = "".join(c for c in bin_.parent.name if c.isdigit())
    return (int(digits or 0), bin_.parent.name)


class Server:
    """A server on a socket in its folder and on a port of loopback; a superuser `postgres` comes in without a word."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = settings
        self.port = 0
        self._numbers = itertools.count(1)
        # It does not run as root, so as root it is somebody else's.
        self.user = next((u for u in ("postgres", "nobody") if _exists(u)), None) if os.geteuid() == 0 else None

    def make(self) -> None:
        """Make its folder."""
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")

    def make_after(self, primary: Server) -> None:
        """Make its folder as that of a replica of another server."""
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        place = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        self._run("pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast", *place)

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.port = self.port or _free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "shared_buffers": "64MB",
            "fsync": "off",  # what a loss of power does beneath it is not tested, and it takes most of the time
        }
        options = " ".join(f"-c {name}={value}" for name, value in {**settings, **self.settings}.items())
        self._run("pg_ctl", "start", "-w", "-t", "60", "-D", self.data, "-l", str(self.folder / "log"), "-o", options)

    def stop(self, how: str = "fast") -> None:
        """End it: `fast` breaks off what is under way, `immediate` leaves all as it is, as a loss of power does."""
        if self.pid is not None:
            self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", how, "-D", self.data)

    @property
    def pid(self) -> int | None:
        """Its process, None while it does not run."""
        try:
            return int((Path(self.data) / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            return None

    def url(self, database: str = "postgres", *, user: str = "postgres", tcp: bool = False) -> str:
        """The URL of a database."""
        if tcp:
            return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"
        return f"postgresql:///{database}?host={self.folder}&port={self.port}&user={user}"

    def fresh(self) -> str:
        """The name of a new database, made after `made`."""
        name = f"log{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE made")
        return name

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new database, made after `made`, which goes with the block."""
        name = self.fresh()
        try:
            yield name
        finally:
            self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    def ask(self, *statements: str, database: str = "postgres", user: str = "postgres") -> list[tuple[Any, ...]]:
        """Carry statements out, and give the rows of the last."""
        import psycopg

        with psycopg.connect(self.url(database, user=user), autocommit=True) as db:
            done = None
            for statement in statements:
                done = db.execute(statement.encode())
            return done.fetchall() if done is not None and done.description else []

    def _run(self, program: str, *args: str) -> None:
        bin_ = programs()
        assert bin_ is not None, "no PostgreSQL server is installed: make postgres"
        # Not to a pipe: the server goes on, and would hold it open.
        with (self.folder / "told").open("wb+") as told:
            done = subprocess.run(
                [bin_ / program, *args], user=self.user, stdin=subprocess.DEVNULL, stdout=told, stderr=told, cwd="/",
                check=False,
            )  # fmt: skip
            told.seek(0)
            log = self.folder / "log"
            assert done.returncode == 0, told.read().decode() + (log.read_text() if log.exists() else "")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


_NO_SERVER = "s/^#?create_main_cluster.*/create_main_cluster = false/"
_PACKAGES = {
    # Left to itself, Debian's package makes and starts a server of its own, which nobody asked for here.
    "apt-get": (
        APT_UPDATE,
        (*APT_INSTALL, "postgresql-common"),
        ("sed", "-i", "-E", _NO_SERVER, "/etc/postgresql-common/createcluster.conf"),
        (*APT_INSTALL, "postgresql"),
    ),
    "dnf": (("dnf", "install", "-y", "postgresql-server"),),
    "brew": (("brew", "install", "postgresql"),),
}


def main() -> int:
    """Find the programs, or install them."""
    if programs() is not None:
        return 0

    def found() -> Path | None:
        programs.cache_clear()
        return programs()

    if get("PostgreSQL server", found, _PACKAGES):
        return 0
    print("no PostgreSQL server could be installed; install one, the tests need its initdb and pg_ctl", file=sys.stderr)
    return 1


@contextmanager
def server(primary: Server | None = None, **settings: object) -> Iterator[Server]:
    """A server that runs until the block ends, with settings of `postgresql.conf`; or a replica of another."""
    # Not in pytest's folder: who runs the server may not enter that, and the path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="lifecycle-pg-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        made = Server(Path(folder), **settings)
        if primary is None:
            made.make()
        else:
            made.make_after(primary)
        made.start()
        try:
            yield made
        finally:
            made.stop()


if __name__ == "__main__":
    sys.exit(main())
