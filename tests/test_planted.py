"""The search for secrets in what a run writes: that it finds them, whatever they come into."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys

import planted
import pytest

from lifecycle.errors import StoreError, UsageError
from lifecycle.logs import get_logger
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing.store_suite import a_record

SECRETS = (planted.API_KEY, planted.COOKIE, planted.FORM, planted.QUERY, planted.TOKEN)


@pytest.fixture
def told():
    planted.found.clear()
    yield planted.found
    planted.found.clear()  # else the test itself would fail


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_a_record_is_found(told, secret):
    a_record(cause=f"said {secret}").to_json()
    assert len(told) == 1
    assert "a record (" in told[0]
    a_record(cause="said nothing").to_json()
    assert len(told) == 1


def test_a_secret_in_an_error_or_its_attributes_is_found(told):
    UsageError(f"refused {planted.TOKEN}")
    StoreError("refused", store=f"postgresql://u:{planted.TOKEN}@db.test/x")
    UsageError("refused")
    assert [text.split()[3] for text in told] == ["UsageError:", "StoreError:"]


def test_a_secret_in_the_log_is_found(told, caplog):
    caplog.set_level(logging.DEBUG, "lifecycle")
    get_logger("lifecycle.gateway").debug("%s came", planted.QUERY)
    logging.getLogger("lifecycle").info("nothing came")
    try:
        raise ValueError(planted.COOKIE)
    except ValueError:
        get_logger("lifecycle").exception("it went wrong")
    assert len(told) == 2


def test_a_secret_in_a_file_of_ours_is_found(told, tmp_path):
    store = SQLiteStore(tmp_path / "log.db")
    store.open()
    store.write([a_record(note=planted.FORM)], [])
    left = planted.in_files(tmp_path)  # while it is in the write-ahead log
    store.close()
    assert left == [str(tmp_path / "log.db-wal")]
    assert planted.in_files(tmp_path) == [str(tmp_path / "log.db")]
    os.rename(tmp_path / "log.db", tmp_path / "kept")
    (tmp_path / "report.html").write_text(f"<p>{planted.TOKEN}")
    (tmp_path / "proof.json").write_text(planted.TOKEN)
    (tmp_path / "cookies.json").write_text(planted.COOKIE)  # where it belongs
    with sqlite3.connect(tmp_path / "Cookies") as foreign:
        foreign.execute("CREATE TABLE cookies (value)")
        foreign.execute("INSERT INTO cookies VALUES (?)", (planted.COOKIE,))
    foreign.close()
    assert sorted(planted.in_files(tmp_path)) == [
        str(tmp_path / name) for name in ("kept", "proof.json", "report.html")
    ]
    for path in tmp_path.iterdir():
        path.unlink()  # else the run itself would fail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("telling", "outcomes", "why"),
    [
        ("UsageError(TOKEN)", "1 passed, 1 error", "a secret was told"),
        ("(tmp_path / 'r.html').write_text(TOKEN)", "1 passed, 1 error", "secrets were written into"),
        ("UsageError('nothing')", "1 passed", ""),
    ],
)
def test_a_test_that_tells_a_secret_fails(tmp_path, telling, outcomes, why):
    (tmp_path / "test_it.py").write_text(
        f"from planted import TOKEN\nfrom lifecycle import UsageError, Record\ndef test_it(tmp_path):\n    {telling}\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--basetemp", tmp_path / "t"]
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run(
        [*command, "test_it.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    shutil.rmtree(tmp_path / "t")  # else the run itself would fail
    assert f"= {outcomes} in " in done.stdout, done.stdout + done.stderr
    assert why in done.stdout
