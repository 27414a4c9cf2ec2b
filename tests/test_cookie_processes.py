"""The cookie file under many processes, kills, full disks and folders that can't be written to: real ones, all of them.

How the faults are made: a full disk is a tmpfs of 64 KiB in a user and mount namespace of its own where the system
lets us have one, and everywhere the limit on the size of a file (RLIMIT_FSIZE: the write itself fails). A folder that
can't be written to is one without the write bit, and, since that binds everybody but root, root becomes nobody first.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lifecycle.cookies import Cookie, read_cookie_file, save_cookie_file

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals, limits and users")]

NOW = 1_790_000_000.0

PRELUDE = """
import json, os, sys
from lifecycle.cookies import Cookie, read_cookie_file, save_cookie_file
from lifecycle.errors import CookieSaveError
NOW = 1_790_000_000.0

def a_cookie(name, value="v"):
    return Cookie(name=name, value=value, domain="example.com")

def add(path, *cookies):
    loaded = read_cookie_file(path, now=NOW)
    return save_cookie_file(loaded, [*loaded.cookies, *cookies], now=NOW)

def failed(path, *cookies):
    try:
        add(path, *cookies)
    except CookieSaveError as e:
        return {"reason": e.reason, "rescue": e.rescue_path}
    return None
"""


def script(code, *args, before=()):
    """The command that runs `code` after the prelude."""
    return [*before, sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, args)]


def outcome(code, *args, before=(), **options):
    """What `code` prints, as JSON, from a process of its own."""
    done = subprocess.run(
        script(code, *args, before=before), capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def a_cookie(name, value="v"):
    return Cookie(name=name, value=value, domain="example.com")


def names(path):
    return {c.name for c in read_cookie_file(path, now=NOW).cookies}


# --- many at once -------------------------------------------------------------------------------------------------


def test_eight_processes_save_forty_times_each_and_nothing_is_lost(tmp_path):
    path = tmp_path / "c.json"
    code = """
        path, me = sys.argv[1:]
        import filelock  # what it costs to import is not what is measured
        print("ready", flush=True)
        sys.stdin.readline()
        kept = sum(add(path, a_cookie(f"{me}-{n}")).kept_from_others for n in range(40))
        print(kept)
    """
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(script(code, path, me), stdin=pipe, stdout=pipe, text=True) for me in range(8)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        began = time.monotonic()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        kept = [int(worker.communicate(timeout=60)[0] or -1) for worker in workers]
        took = time.monotonic() - began
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    print(f"320 saves by 8 processes: {took:.2f} s; {sum(kept)} cookies of others kept on the way")
    assert [worker.returncode for worker in workers] == [0] * 8
    assert names(path) == {f"{me}-{n}" for me in range(8) for n in range(40)}
    assert sum(kept) > 0  # they did meet
    assert took < 60  # most of it is the disk: two fsyncs for each save


def test_threads_of_one_process_save_to_one_file(tmp_path):
    path = tmp_path / "c.json"

    def work(me):
        for n in range(10):
            loaded = read_cookie_file(path, now=NOW)
            save_cookie_file(loaded, [*loaded.cookies, a_cookie(f"{me}-{n}")], now=NOW)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(path) == {f"{me}-{n}" for me in range(4) for n in range(10)}


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "c.json"
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie(f"n{i}", "0") for i in range(200)], now=NOW)
    code = """
        for k in range(1, 41):
            loaded = read_cookie_file(sys.argv[1], now=NOW)
            save_cookie_file(loaded, [a_cookie(f"n{i}", str(k)) for i in range(200)], now=NOW)
    """
    seen = set()
    with subprocess.Popen(script(code, path)) as worker:
        while worker.poll() is None:
            jar = read_cookie_file(path, now=NOW).cookies
            seen.add((len(jar), *{c.value for c in jar}))
    assert worker.returncode == 0
    assert seen <= {(200, str(k)) for k in range(41)}
    assert len(seen) > 3


# --- kills --------------------------------------------------------------------------------------------------------


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "c.json"
    # Each child saves version after version and says on its pipe which one it has begun and which one is done.
    code = """
        import signal
        path, moments = sys.argv[1], json.loads(sys.argv[2])
        import time

        def save(version):
            loaded = read_cookie_file(path, now=NOW)
            save_cookie_file(loaded, [a_cookie(f"n{i}", str(version)) for i in range(300)], now=NOW)

        began = time.monotonic()
        for _ in range(3):
            save(0)
        usual = (time.monotonic() - began) / 3
        results, done = [], 0
        for moment in moments:
            inlet, outlet = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(inlet)
                version = done
                while True:
                    version += 1
                    save(version)
                    os.write(outlet, b"%d\\n" % version)
            os.close(outlet)
            with os.fdopen(inlet) as told:
                done = int(told.readline())
                time.sleep(moment * usual)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                for line in told:
                    done = int(line)
            jar = read_cookie_file(path, now=NOW).cookies
            (found,) = {int(c.value) for c in jar}
            parts = sum(n.endswith(".part") for n in os.listdir(os.path.dirname(path)))
            results.append([len(jar), done, found, parts])
            done = found
        save(done + 1)
        print(json.dumps(results))
    """
    seeded = random.Random(2)  # the same moments each time
    results = outcome(code, path, json.dumps([seeded.uniform(0, 1.5) for _ in range(20)]))
    assert len(results) == 20
    for count, done, found, _ in results:
        assert count == 300
        assert found in {done, done + 1}
    struck = sum(parts > 0 for *_, parts in results)
    print(f"20 kills, {struck} of them while the new file was being written")
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []  # the next save removed what they left


# --- disks and folders --------------------------------------------------------------------------------------------


def test_file_that_grows_beyond_the_limit_goes_to_the_rescue_file(tmp_path):
    path = tmp_path / "c.json"
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie(f"n{i}") for i in range(100)], now=NOW)
    before = path.read_bytes()
    code = """
        import resource
        limit = int(sys.argv[2])
        loaded = read_cookie_file(sys.argv[1], now=NOW)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_cookie_file(loaded, [a_cookie("new")], now=NOW, refused=loaded.cookies[:99])
        except CookieSaveError as e:
            result = {"reason": e.reason, "rescue": e.rescue_path}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(json.dumps(result))
    """
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path / "temp")}
    (tmp_path / "temp").mkdir()
    # Nothing fits: no rescue file, and it says so.
    result = outcome(code, path, 4096, env=env)
    assert result == {"reason": "File too large", "rescue": None}
    assert path.read_bytes() == before
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"c.json", ".c.json.lock"}


def test_only_the_rescue_file_fits(tmp_path):
    path = tmp_path / "c.json"
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie(f"n{i}") for i in range(100)], now=NOW)
    before = path.read_bytes()
    code = """
        import resource
        path = sys.argv[1]
        empty = read_cookie_file(path + ".missing", now=NOW)
        import dataclasses
        loaded = dataclasses.replace(empty, path=path)  # a session that began before the file was there
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            save_cookie_file(loaded, [a_cookie("new")], now=NOW)
        except CookieSaveError as e:
            result = {"reason": e.reason, "rescue": e.rescue_path}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(json.dumps(result))
    """
    result = outcome(code, path, env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")})
    assert result["reason"] == "File too large"
    assert path.read_bytes() == before
    assert Path(result["rescue"]).parent == tmp_path / "state" / "lifecycle" / "rescue"
    assert names(result["rescue"]) == {"new"}


def namespace():
    """The command that gives a process mounts of its own, or None where the system does not allow it."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--user", "--map-root-user", "--mount"]
    tried = unshare and subprocess.run(
        [*command, "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, check=False
    )
    return command if tried and tried.returncode == 0 else None


def test_full_disk(tmp_path):
    command = namespace()
    if command is None:
        pytest.skip("no user namespaces here; the limit on the size of files stands in for a full disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["sh", "-c", f'mount -t tmpfs -o size=64k tmpfs "{disk}" && exec "$@"', "sh"]
    code = """
        folder = sys.argv[1]
        path = folder + "/c.json"
        add(path, *(a_cookie(f"n{i}") for i in range(20)))
        before = open(path, "rb").read()
        filler = os.open(folder + "/filler", os.O_CREAT | os.O_WRONLY)
        size = 4096
        while size:
            try:
                os.write(filler, b"x" * size)
            except OSError:
                size //= 2
        result = failed(path, a_cookie("new"))
        result["same"] = open(path, "rb").read() == before
        result["left"] = sorted(os.listdir(folder))
        os.close(filler)
        os.unlink(folder + "/filler")
        result["after"] = add(path, a_cookie("new")).saved
        print(json.dumps(result))
    """
    result = outcome(code, disk, before=[*command, *mount], env={**os.environ, "XDG_STATE_HOME": str(tmp_path)})
    assert result["reason"] == "No space left on device"
    assert result["same"]
    assert result["left"] == [".c.json.lock", "c.json", "filler"]
    assert result["after"] == 21
    assert names(result["rescue"]) == {*(f"n{i}" for i in range(20)), "new"}
    assert Path(result["rescue"]).is_relative_to(tmp_path)


@pytest.fixture
def public_folder(run_folder):
    """A folder that another user can reach, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="lc-public-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_folder_that_cannot_be_written_to(public_folder):
    folder = public_folder / "read-only"
    folder.mkdir()
    path = folder / "c.json"
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie("old")], now=NOW)
    path.chmod(0o644)
    before = path.read_bytes()
    state = public_folder / "state"
    state.mkdir()
    if os.geteuid() == 0:
        for own in (state, path, folder / ".c.json.lock"):  # theirs, as usual: it is the folder that says no
            os.chown(own, 65534, 65534)
    folder.chmod(0o555)
    code = """
        path, state = sys.argv[1:]
        # What is needed is imported while everything can still be read.
        import filelock, platformdirs
        add(state + "/warm/c.json", a_cookie("new"))
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.environ["XDG_STATE_HOME"] = state
        results = [failed(path, a_cookie("new"))]
        results.append(failed(os.path.dirname(path) + "/deeper/c.json", a_cookie("new")))
        print(json.dumps(results), flush=True)
        os._exit(0)  # as nobody, there is nothing that the interpreter could still write down
    """
    try:
        results = outcome(code, path, state)
    finally:
        folder.chmod(0o755)
    assert [r["reason"] for r in results] == ["Permission denied"] * 2
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir() if p.name not in {"c.json", ".c.json.lock"}] == []
    assert names(results[0]["rescue"]) == {"old", "new"}
    assert names(results[1]["rescue"]) == {"new"}
    for result in results:
        assert Path(result["rescue"]).is_relative_to(state)
        assert stat.S_IMODE(Path(result["rescue"]).stat().st_mode) == 0o600


def test_file_that_cannot_be_read_is_refused(public_folder):
    path = public_folder / "c.json"
    path.write_text("[]")
    path.chmod(0)
    code = """
        from lifecycle.errors import CookieFileError
        try:
            read_cookie_file("/dev/null/c.json", now=NOW)
        except CookieFileError:
            pass
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            read_cookie_file(sys.argv[1], now=NOW)
        except CookieFileError as e:
            print(json.dumps([e.path, e.line, e.reason]), flush=True)
        os._exit(0)
    """
    assert outcome(code, path) == [str(path), None, "Permission denied"]


# --- the end of the process ---------------------------------------------------------------------------------------


def test_a_save_works_while_the_interpreter_ends(tmp_path):
    code = """
        import atexit, threading
        loaded = read_cookie_file(sys.argv[1], now=NOW)
        go = threading.Event()
        gone = threading.Event()

        def work():
            go.wait()
            save_cookie_file(loaded, [a_cookie("late")], now=NOW)  # the first one: all it needs is imported now
            gone.set()

        threading.Thread(target=work, daemon=True).start()

        @atexit.register
        def last():
            go.set()
            print(json.dumps(gone.wait(20)), flush=True)
    """
    assert outcome(code, tmp_path / "c.json") is True
    assert names(tmp_path / "c.json") == {"late"}
