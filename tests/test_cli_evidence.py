"""`lifecycle audit verify`, `prove`, `verify-proof` and `key`, as they are typed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from logs_rig import live
from test_checkpoints import spoil

from lifecycle.audit import read_notes
from lifecycle.cli import main


@pytest.fixture
def lc(capsys, monkeypatch):
    """Runs a command in this process, outside of a terminal: exit code, stdout and stderr."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "LIFECYCLE_DEBUG", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def run(*args):
        code = main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def path(tmp_path, monkeypatch, capsys):
    """The file of a store with three sessions, of which checkpoints are in notes.txt, signed with key.pem."""
    assert main(["audit", "key", str(tmp_path / "key.pem"), "--new", "--origin", "example.com/browsers"]) == 0
    monkeypatch.setenv("LIFECYCLE_CHECKPOINTS", str(tmp_path / "notes.txt"))
    monkeypatch.setenv("LIFECYCLE_CHECKPOINT_KEY", str(tmp_path / "key.pem"))
    monkeypatch.setenv("LIFECYCLE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    live(f"sqlite:///{tmp_path / 'log.db'}", sessions=2)
    live(f"sqlite:///{tmp_path / 'log.db'}")
    capsys.readouterr()
    return tmp_path / "log.db"


def test_a_whole_log(lc, path):
    code, out, err = lc("audit", "verify")
    assert code == 0
    assert out == f"✓ sqlite:///{path} is whole: 12 records of 2 writers, 12 in the register\n"
    assert err.startswith("note: no checkpoint was given: whoever can change the store")


def test_held_against_checkpoints_and_a_key(lc, path, tmp_path):
    _, key, _ = lc("audit", "key", tmp_path / "key.pem")
    code, out, err = lc("audit", "verify", "--checkpoints", tmp_path / "notes.txt", "--key", key.strip())
    assert (code, err) == (0, "")
    assert out.endswith(" 12 in the register; held against 2 checkpoints, signed by each key\n")


def test_a_log_that_is_not_whole(lc, path, tmp_path):
    spoil(path, "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id > 2")
    code, out, _ = lc("audit", "verify", "--checkpoints", tmp_path / "notes.txt")
    assert code == 1
    first, *rest = out.splitlines()
    assert first == "✗ record 3: it has other bytes than were written"
    assert rest[-1].startswith(f"sqlite:///{path} is not whole: 12 records")
    code, out, _ = lc("audit", "verify", "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["records"], told["covered"]) == (1, False, 12, 12)
    assert told["problems"][0] == {"what": "record 3", "why": "it has other bytes than were written", "record": 3}
    assert {problem["record"] for problem in told["problems"]} == set(range(3, 13))


def test_a_long_list_of_problems_is_cut(lc, path):
    live(f"sqlite:///{path}", sessions=6)
    spoil(path, "UPDATE records SET hash = x'00'")
    code, out, _ = lc("audit", "verify")
    assert code == 1
    assert len(out.splitlines()) == 22
    assert "and 16 more; --json tells all" in out


def test_one_session_alone(lc, path, tmp_path):
    first, second = (s["session_id"] for s in json.loads(lc("sessions", "list", "--json")[1])[::2])
    assert lc("audit", "verify", "--session", first[:8])[0] == 0
    spoil(path, "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id = 1")
    assert lc("audit", "verify", "--session", first)[0] == 0
    code, out, _ = lc("audit", "verify", "--session", second)
    assert code == 1
    assert out.startswith("✗ record 1: it has other bytes")
    assert lc("audit", "verify", "--session", "nobody")[0] == 2


def test_a_proof_is_made_and_checked_elsewhere(lc, path, tmp_path, monkeypatch):
    (session, *_) = (s["session_id"] for s in json.loads(lc("sessions", "list", "--json")[1]))
    proof = tmp_path / "proof.json"
    code, out, _ = lc("audit", "prove", session[:8], "-o", proof, "--checkpoints", tmp_path / "notes.txt",
                      "--sign-with", tmp_path / "key.pem")  # fmt: skip
    assert code == 0
    assert out == f"the proof of session {session} is in {proof}; check it with: lifecycle audit verify-proof {proof}\n"
    _, key, _ = lc("audit", "key", tmp_path / "key.pem")
    monkeypatch.setenv("LIFECYCLE_STORE", f"sqlite:///{tmp_path / 'another.db'}")  # whoever checks it has no store
    code, out, err = lc("audit", "verify-proof", proof, "--checkpoints", tmp_path / "notes.txt", "--key", key.strip())
    assert (code, err) == (0, "")
    first, *records = out.splitlines()
    assert first.startswith(f"✓ 4 records of session {session} are in the log ")
    assert first.endswith("; signed by 1 of the keys; it fits a checkpoint that was kept")
    assert [line.split("  ")[-1] for line in records] == [
        "intent start: not_started -> active", "commit start: not_started -> active",
        "intent stop: active -> closed", "commit stop: active -> closed",
    ]  # fmt: skip
    told = json.loads(lc("audit", "verify-proof", proof, "--json")[1])
    assert (told["ok"], told["records"], told["signed"], told["anchored"], told["problems"]) == (True, 4, 0, False, [])
    assert "anybody could have made it" in told["notes"][0]


def test_a_proof_that_does_not_hold(lc, path, tmp_path):
    (session, *_) = (s["session_id"] for s in json.loads(lc("sessions", "list", "--json")[1]))
    code, out, _ = lc("audit", "prove", session)
    assert code == 0
    proof = tmp_path / "proof.json"
    proof.write_text(out.replace("MainThread", "MainThreat"))
    code, out, _ = lc("audit", "verify-proof", proof)
    assert code == 1
    assert "is not among those that the register covers" in out
    proof.write_text("{}")
    code, out, err = lc("audit", "verify-proof", proof)
    assert code == 1
    assert "this is no proof: its format is None" in err


def test_a_torn_file_of_checkpoints_is_read_up_to_there(lc, path, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_bytes(notes.read_bytes()[:-9])
    code, out, err = lc("audit", "verify", "--checkpoints", notes)
    assert code == 0
    assert "held against 1 checkpoint\n" in out
    assert "ends with a checkpoint that was not written to its end; it is left out" in err
    assert len(read_notes(notes)[0]) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("verify", "--checkpoints", "missing.txt"),
            "--checkpoints='missing.txt' is not allowed; allowed: a file that can",
        ),
        (("verify", "--checkpoints", "empty.txt"), "allowed: a file with a checkpoint in it"),
        (("verify", "--key", "a+b+c", "--checkpoints", "notes.txt"), "allowed: name+hash+key"),
        (("verify", "--key", "KEY"), "--checkpoints FILE beside it"),
        (("prove", "nobody"), "no session in"),
        (("prove", "SESSION", "-o", "missing/proof.json"), "a file that can be written (No such file or directory)"),
        (("prove", "SESSION", "--sign-with", "notes.txt"), "a file with an Ed25519 key in PEM"),
        (("verify-proof", "missing.json"), "a file that can be read (No such file or directory)"),
        (("key", "key.pem", "--new"), "a new file that can be made (it is there already)"),
        (("key", "missing.pem"), "a file with an Ed25519 key in PEM"),
    ],
)
def test_what_is_wrong_with_a_command_is_named(lc, path, tmp_path, monkeypatch, args, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    session = json.loads(lc("sessions", "list", "--json")[1])[0]["session_id"]
    key = lc("audit", "key", "key.pem")[1].strip()
    code, out, err = lc("audit", *({"SESSION": session, "KEY": key}.get(arg, arg) for arg in args))
    assert (code, out) == (2, "")
    assert expected in err


def test_a_report_begins_with_what_came_of_the_check(lc, path, tmp_path):
    page = tmp_path / "report.html"
    _, key, _ = lc("audit", "key", tmp_path / "key.pem")
    assert lc("audit", "report", "-o", page, "--checkpoints", tmp_path / "notes.txt", "--key", key.strip())[0] == 0
    assert "The log is whole" in page.read_text()
    assert "held against 2 checkpoints, signed by each key" in page.read_text()
    spoil(path, "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id = 3")
    assert lc("audit", "report", "-o", page)[0] == 0
    assert "The log is not whole" in page.read_text()
    assert "record 3: it has other bytes than were written" in page.read_text()
    assert lc("audit", "report", "-o", page, "--no-verify")[0] == 0
    assert "Not verified" in page.read_text()


def test_the_key_of_a_log_without_records(lc, tmp_path):
    assert lc("audit", "key", tmp_path / "key.pem", "--new", "--origin", "a")[0] == 0
    code, _, err = lc("audit", "key", tmp_path / "key.pem", "--store", f"sqlite:///{tmp_path / 'new.db'}")
    assert code == 2
    assert "has no records yet, so its log has no name; give one with --origin" in err


def test_a_bar_is_for_terminals(path, monkeypatch, capsys):
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM records").fetchone()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["audit", "verify"]) == 0
    printed = capsys.readouterr()
    assert f"{count}/{count}" in printed.err
    assert "12 records" in printed.out
    spoil(path, "UPDATE records SET body = x'00' WHERE id = 12")
    assert main(["audit", "verify"]) == 1
    assert "record 12: it is no record" in capsys.readouterr().out
