"""How much one PostgreSQL takes from many processes, beside bare INSERTs into the same server.

Rule: as in `bench`: no number here is a test, and both sides are taken in turn, in one run, on one server that keeps
what it acknowledges on disk.

    make bench-many
    python tests/bench_many.py --processes 1 4 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from postgres_rig import Server
from postgres_rig import server as run_server

from lifecycle import AsyncClient
from lifecycle.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

AT_ONCE = 16
"""Sessions at once in each process."""

BODY = os.urandom(900)
"""As many bytes as a record has, about."""


def ours(url: str, seconds: float, start: Barrier, told: Any) -> None:
    """Start and stop sessions, so many at once, for so long."""
    told.put(asyncio.run(_sessions(url, seconds, start)))


async def _sessions(url: str, seconds: float, start: Barrier) -> int:
    async with AsyncClient(adapter="memory", store=url, reap_on_start=False) as client:
        async with client.Session(labels={"team": "crawl"}):
            pass
        await asyncio.to_thread(start.wait)
        end, done = time.monotonic() + seconds, 0

        async def one_after_another() -> None:
            nonlocal done
            while time.monotonic() < end:
                async with client.Session(labels={"team": "crawl"}):
                    pass
                done += 1

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return done


def bare(url: str, seconds: float, start: Barrier, told: Any) -> None:
    """Insert rows of the size of a record, each in a transaction of its own, for so long."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("INSERT INTO bare (body) VALUES (%s)", (BODY,))
        start.wait()
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            db.execute("INSERT INTO bare (body) VALUES (%s)", (BODY,))
            done += 1
    told.put(done)


def together(work: Callable[..., None], url: str, processes: int, seconds: float) -> float:
    """What so many processes do in a second, all of them together."""
    context = multiprocessing.get_context("spawn")
    start, told = context.Barrier(processes), context.Queue()
    running = [context.Process(target=work, args=(url, seconds, start, told)) for _ in range(processes)]
    for process in running:
        process.start()
    done = sum(told.get() for _ in running)
    for process in running:
        process.join()
    return done / seconds


def asked(url: str, statement: str) -> int:
    with psycopg.connect(url, autocommit=True) as db:
        ((number,),) = db.execute(statement.encode()).fetchall()
        return int(number)


SIZE = "SELECT pg_database_size(current_database())"
RECORDS = "SELECT count(*) FROM lifecycle.records"
SESSIONS = "SELECT count(*) FROM lifecycle.sessions"
COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


def compare(server: Server, processes: int, *, seconds: float, rounds: int) -> None:
    """Both in turn, on one server."""
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE many{processes}".encode())
    url = server.url(f"many{processes}", tcp=True)
    PostgresStore(url).make()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)")
    rates: list[float] = []
    inserts: list[float] = []
    for _ in range(rounds):
        inserts.append(together(bare, url, processes, seconds))
        rates.append(together(ours, url, processes, seconds))
    bare_bytes = asked(url, "SELECT pg_total_relation_size('bare')")
    sessions, records = asked(url, SESSIONS), asked(url, RECORDS)
    size = asked(url, SIZE) - bare_bytes
    each = records / sessions
    rate, insert = statistics.median(rates), statistics.median(inserts)
    print(
        f"{processes:>3} {rate:>10.0f} {rate * each:>10.0f} {insert:>12.0f} {rate * each / insert:>7.2f} "
        f"{size / sessions:>10.0f} {sessions:>9}   {_spread(rates)}  {_spread(inserts)}",
        flush=True,
    )


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each side is measured")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with run_server(fsync="on") as server:
        version = asked(server.url(), "SHOW server_version_num")
        print(
            f"PostgreSQL {version // 10000}, its log on disk at each commit; Python {platform.python_version()}, "
            f"{os.cpu_count()} cores for server and clients; {AT_ONCE} sessions at once in each process"
        )
        print("processes sessions/s records/s bare inserts/s  ratio bytes a session  sessions   least and most of each")
        for processes in given.processes:
            compare(server, processes, seconds=given.seconds, rounds=given.rounds)


if __name__ == "__main__":
    main()
