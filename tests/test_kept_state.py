"""What outlives a session beside its cookies: a profile that is kept, and what else a storage_state file holds."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap

import children
import pytest

from lifecycle import Client, ConfigError, RecordKind, StartFailed, State
from lifecycle_adapters.local.profiles import LOCK_NAME, profiles

local = pytest.mark.skipif(os.name == "nt", reason="there is no local browser on Windows")


pytestmark = pytest.mark.slow


@pytest.fixture
def client():
    with Client(adapter="local", store="memory:") as client:
        yield client


def remember(session, url, word):
    session.execute(type="goto", url=url)
    session.execute(type="evaluate_js", code=f"localStorage.setItem('word', '{word}')")


def remembered(session, url):
    session.execute(type="goto", url=url)
    return session.execute(type="evaluate_js", code="localStorage.getItem('word')").data


@local
def test_a_profile_is_kept_between_sessions(client, site, tmp_path):
    profile = tmp_path / "made" / "profile"
    with client.Session(profile=profile) as session:
        remember(session, site.url, "one")
        session.set_cookies(
            cookies=[{"name": "kept", "value": "1", "domain": "127.0.0.1", "path": "/", "expires": 4102444800}]
        )
    assert oct(profile.stat().st_mode)[-3:] == "700"
    with client.Session(profile=profile, viewport_width=700, viewport_height=500) as session:
        assert remembered(session, site.url) == "one"
        assert [c["name"] for c in session.get_cookies()] == ["kept"]
        size = session.execute(type="evaluate_js", code="[innerWidth, innerHeight]").data
        assert size == [700, 500]
    with client.Session() as session:
        assert remembered(session, site.url) is None


@local
def test_a_profile_has_one_session_at_a_time(client, tmp_path):
    with client.Session(profile=tmp_path / "profile") as session:
        other = client.Session(profile=tmp_path / "profile")
        with pytest.raises(StartFailed, match=r"another session uses profile='.*/profile'; wait for its end"):
            other.start()
        assert (other.state, session.state) == (State.ERROR, State.ACTIVE)
    with client.Session(profile=tmp_path / "profile") as session:
        assert session.state is State.ACTIVE


@local
def test_a_start_that_fails_gives_the_profile_back(client, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StartFailed):
        client.Session(profile=tmp_path / "profile", executable_path=broken).start()
    with client.Session(profile=tmp_path / "profile") as session:
        assert session.state is State.ACTIVE


@local
def test_the_profile_of_a_killed_process_is_free(client, site, tmp_path):
    code = (
        children.WATCHDOG
        + children.PRELUDE
        + textwrap.dedent("""
        with Client(adapter="local", store="memory:") as client:
            client.Session(profile=sys.argv[1]).start()
            print("started", flush=True)
            sys.stdin.read()
    """)
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "profile")],
        env=children.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGKILL)
    assert children.left_running(str(tmp_path / "profile")) == []  # the browser went with its owner
    with client.Session(profile=tmp_path / "profile") as session:
        remember(session, site.url, "two")
    profiles.sweep()


@local
@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no symbolic links")
def test_a_lock_that_leads_elsewhere_is_not_followed(client, tmp_path):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartFailed, match="choose another profile="):
        client.Session(profile=tmp_path / "profile").start()
    assert not (tmp_path / "elsewhere").exists()


def test_a_guest_has_no_profile_of_its_own(tmp_path):
    with Client(adapter="memory", store="memory:") as client, pytest.raises(ConfigError, match="profile"):
        client.Session("an-id", profile=tmp_path)


# --- localStorage in a storage_state file --------------------------------------------------------------------------


def test_storage_that_is_not_loaded_is_named_and_kept(tmp_path, caplog):
    origins = [{"origin": f"https://{n}.test", "localStorage": [{"name": "k", "value": "secret"}]} for n in range(7)]
    file = tmp_path / "state.json"
    file.write_text(json.dumps({"cookies": [], "origins": origins}))
    with caplog.at_level(logging.WARNING), Client(adapter="memory", store="memory:") as client:
        with client.Session(cookie_file=file) as session:
            session.set_cookies(
                cookies=[{"name": "a", "value": "1", "domain": "a.test", "path": "/", "expires": 4102444800}]
            )
        records = session.history()
    assert json.loads(file.read_text())["origins"] == origins
    (start,) = (r for r in records if r.kind is RecordKind.COMMIT and r.dest is State.ACTIVE)
    note = next(s.note for s in start.steps if s.step == "read_cookies")
    assert note == (
        "localStorage that stays in the file and is not loaded: https://0.test, https://1.test, https://2.test, "
        "https://3.test, https://4.test, ..."
    )
    assert start.counts["origins_not_loaded"] == 7
    (warned,) = (r for r in caplog.records if "storage_not_loaded" in r.getMessage())
    assert "https://0.test" in warned.getMessage() and "secret" not in warned.getMessage()
