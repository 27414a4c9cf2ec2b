"""No secret that sessions handle is in anything that is written: records, logs, errors, proofs, checkpoints."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from lifecycle.audit.notes import new_key
from lifecycle.cli import main
from lifecycle.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.slow

KINDS = (
    "cookie in the file", "torn cookie file", "set cookie", "form value", "query string", "fragment", "local storage",
    "console", "script error", "header", "operation query", "operation value", "url password", "failed query",
    "switch", "refused switch", "proxy password", "proxy user", "used proxy password", "http password",
    "caller's error", "hook error", "foreign error", "api key", "store password",
)  # fmt: skip


def forms(secret: str) -> list[bytes]:
    """What a secret may look like when it was written down."""
    raw = secret.encode()
    whole = [base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)]  # wherever it begins in what was encoded
    return [raw, urllib.parse.quote(secret, safe="").encode(), raw.hex().encode(), *whole]


def test_no_secret_is_written(tmp_path, site, monkeypatch, capfd):
    planted = {kind: f"canary-{n}-{secrets.token_hex(16)}" for n, kind in enumerate(KINDS)}
    assert len(planted) > 20
    (tmp_path / "secrets.json").write_text(json.dumps(planted))
    cookie = {"name": "n", "value": planted["cookie in the file"], "domain": "127.0.0.1", "path": "/"}
    (tmp_path / "cookies.json").write_text(json.dumps([cookie]))
    (tmp_path / "torn.json").write_text('[{"name": "n", "value": "' + planted["torn cookie file"])
    new_key(tmp_path / "key.pem")
    (tmp_path / "state").mkdir()
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    child = [sys.executable, Path(__file__).with_name("canary_child.py"), tmp_path, site.url]
    done = subprocess.run(child, env=env, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = done.stdout.decode()
    for what in (
        "goto",
        "selector",
        "cookie file",
        "proxy",
        "chrome_args",
        "http_credentials",
        "foreign",
        "remote",
        "store",
    ):
        assert f"{what} " in told
        assert f"{what} went well" not in told, told
    assert b"lifecycle.commit" in done.stderr + done.stdout

    monkeypatch.setenv("LIFECYCLE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    store = SQLiteStore(tmp_path / "log.db")
    store.open()
    sessions = [row.session_id for row in store.sessions()]
    store.close()
    assert len(sessions) > 4
    written = {"stdout": done.stdout, "stderr": done.stderr}
    for command in COMMANDS:
        capfd.readouterr()
        assert main([arg.format(session=sessions[-1], folder=tmp_path) for arg in command]) == 0
        printed = capfd.readouterr()
        assert printed.out
        written[" ".join(command)] = f"{printed.out}{printed.err}".encode()
    own = {"secrets.json", "learnt.json", "cookies.json", "torn.json", "key.pem"}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in own:
            written[str(path.relative_to(tmp_path))] = path.read_bytes()
    assert {"log.db", "notes.txt", "spans.txt"} <= written.keys()
    assert written["spans.txt"].count(b'"name": "lifecycle.session"') == 4

    learnt = json.loads((tmp_path / "learnt.json").read_text())
    assert all(len(token) > 20 for token in learnt)
    planted |= {"path of the gateway": learnt[0], "path of the live view": learnt[1]}
    (_, *key, _) = (tmp_path / "key.pem").read_text().splitlines()
    planted["private key"] = "".join(key)[-40:-4]
    found = [
        f"{kind} is in {where}"
        for where, content in written.items()
        for kind, secret in planted.items()
        if any(form in content for form in forms(secret))
    ]
    assert found == [], "\n".join(found)


COMMANDS = (
    ("audit", "log", "--json"),
    ("audit", "log"),
    ("audit", "verify"),
    ("audit", "stats", "--json"),
    ("audit", "export", "--format", "csv"),
    ("audit", "export", "--format", "jsonl"),
    ("audit", "report", "-o", "-"),
    ("audit", "prove", "{session}", "--sign-with", "{folder}/key.pem"),
    ("sessions", "list"),
    ("sessions", "show", "{session}", "--json"),
)
