"""A fork of a process with sessions: the child has nothing of them and can harm nothing, and it can begin anew."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import children
import pytest
from test_exit import BEGIN, ends

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

FORK = (
    BEGIN
    + """
import signal, traceback, warnings
# Python 3.12 warns of every fork in a process with threads; that is what is tried here.
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)

def fork(work, bound=20):
    '''Run `work` in a forked child and pass on what it prints; its exit code.'''
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(bound)
            work()
        except SystemExit as e:
            sys.stdout.flush()
            os._exit(e.code)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def refused(call, *args, **options):
    begun = time.monotonic()
    try:
        call(*args, **options)
    except UsageError as e:
        assert "fork" in str(e), e
        assert time.monotonic() - begun < 1
        return
    raise AssertionError(f"{call} was not refused")

def goes_on():
    '''The parent's session is as it was.'''
    assert session.state == "active"
    assert [c["name"] for c in session.get_cookies()] == ["mine"]

session = begin()
"""
)


def run(code: str, folder: Path) -> str:
    done = children.run(FORK + textwrap.dedent(code), folder, forks=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_what_the_child_inherits_is_refused_at_once(tmp_path):
    run(
        """
        fresh = client.Session()
        events = client.events()

        def work():
            assert session.state == "active"  # a plain read, of how it was
            assert session.session_id
            for call in (session.status, session.get_cookies, session.stop, session.history, session.cdp_url,
                         session.wait_ended, session.start, fresh.start, fresh.stop):
                refused(call)
            refused(session.extend, minutes=1)
            refused(session.set_cookies, cookies=[COOKIE])
            refused(lambda: session.page)
            refused(session.__exit__, None, None, None)

        assert fork(work) == 0
        goes_on()
        session.stop()
        client.close()
        """,
        tmp_path,
    )
    assert [end["close_reason"] for end in ends(tmp_path)] == ["manual"]


def test_a_client_of_the_child_s_own_works(tmp_path):
    run(
        """
        from lifecycle.engine import supervisor

        def work():
            with Client(adapter="memory", store=f"sqlite:///{folder}/log.db") as own:
                with own.Session(cookie_file=f"{folder}/child.json") as s:
                    s.set_cookies(cookies=[COOKIE])
                    assert s.get_cookies()
                assert [r.kind for r in s.history() if r.terminal] == ["commit"]
                assert {r.pid for r in s.history()} == {os.getpid()}
            assert supervisor().pid == os.getpid()

        for _ in range(5):
            assert fork(work) == 0
            goes_on()
        """,
        tmp_path,
    )
    assert sorted(end["close_reason"] for end in ends(tmp_path)) == ["abandoned", *["manual"] * 5]


def test_a_client_that_was_made_before_works_in_the_child_anew(tmp_path):
    run(
        """
        seen = []
        client.hook(after="start")(lambda s: seen.append(s.session_id))

        def work():
            with client.Session() as s:
                assert s.status().status == "active"
                assert seen == [s.session_id]
            listed = {one.session_id: one.status for one in client.sessions.list()}
            assert listed[s.session_id] == "closed"
            assert listed[session.session_id] == "active"  # the parent's, as the child sees it from outside
            client.close()

        assert fork(work) == 0
        assert seen == []
        goes_on()
        """,
        tmp_path,
    )


def test_the_child_stops_the_parent_s_session_as_any_other_process_may(tmp_path):
    run(
        """
        def work():
            with Client(adapter="memory", store=f"sqlite:///{folder}/log.db") as own:
                assert own.sessions.stop(session.session_id).status == "closed"

        assert fork(work) == 0
        assert session.state == "closed"
        """,
        tmp_path,
    )


@pytest.mark.parametrize("how", ["sys.exit(0)", "os._exit(0)", "raise SystemExit(0)", "pass"])
def test_the_end_of_the_child_is_not_the_end_of_the_parent_s_session(how, tmp_path):
    """Even when it ends as an interpreter does, with atexit and finalizers, in the middle of a with block."""
    out = run(
        f"""
        with client:
            with client.Session() as inner:
                pid = os.fork()
                if pid == 0:
                    signal.alarm(20)
                    client = session = inner = None
                    import gc
                    gc.collect()
                    {how}
                    sys.exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                goes_on()
                assert inner.state == "active"
        print("parent")
        """,
        tmp_path,
    )
    assert out == "parent\n"
    assert len(ends(tmp_path)) == 2


def test_a_with_block_that_the_child_leaves_too(tmp_path):
    """The child runs the same code to its end: it is told, and the parent's session is not touched."""
    out = run(
        """
        pid = None
        try:
            with client.Session() as inner:
                pid = os.fork()
        except UsageError as e:
            assert pid == 0 and "fork" in str(e)
            sys.stdout.write("child\\n")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert inner.state == "closed"
        goes_on()
        print("parent")
        """,
        tmp_path,
    )
    assert out == "child\nparent\n"
    assert len(ends(tmp_path)) == 2


@pytest.mark.parametrize("adapter", ["memory", "local"])
def test_the_child_holds_no_descriptor_of_the_parent(adapter, tmp_path):
    run(
        f"""
        if {adapter!r} == "local":
            session.stop()
            client = Client(adapter="local", store=f"sqlite:///{{folder}}/log.db")
            session = begin("local")
            assert session.cdp_url()

        def held():
            found = {{}}
            for fd in os.listdir("/proc/self/fd"):
                try:
                    found[int(fd)] = os.readlink(f"/proc/self/fd/{{fd}}")
                except OSError:
                    pass
            return found

        before = {{fd: name for fd, name in held().items() if fd > 2}}
        kinds = {{name.split(":")[0].split("/")[-1] for name in before.values()}}
        assert {{"socket", "anon_inode"}} <= kinds, before  # what there is to be closed

        def work():
            left = {{fd: name for fd, name in held().items() if before.get(fd) == name}}
            assert not left, left

        assert fork(work) == 0
        goes_on()
        """,
        tmp_path,
    )


def test_forks_while_the_store_is_written(tmp_path):
    """Children come and go, and write too, while sessions of the parent begin and end; no record is lost."""
    out = run(
        """
        from queue import SimpleQueue
        done = SimpleQueue()

        def lives():
            for _ in range(20):
                with client.Session() as s:
                    s.get_cookies()
            done.put(None)

        def work():
            with Client(adapter="memory", store=f"sqlite:///{folder}/log.db") as own, own.Session() as s:
                s.get_cookies()

        threading.Thread(target=lives).start()
        forks = 0
        while done.empty() or forks < 10:
            assert fork(work) == 0
            forks += 1
        goes_on()
        print(forks)
        """,
        tmp_path,
    )
    assert len(ends(tmp_path)) == 1 + 20 + int(out)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        children.PRELUDE
        + """
import multiprocessing, warnings
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)

kept = []

def work(folder, number):
    with Client(adapter="memory", store=f"sqlite:///{folder}/log.db") as own:
        with own.Session(cookie_file=f"{folder}/{number}.json") as s:
            s.set_cookies(cookies=[COOKIE])
    left = Client(adapter="memory", store=f"sqlite:///{folder}/log.db")
    left.Session(labels={"left": "yes"}).start()  # multiprocessing ends a child without the end of an interpreter
    kept.append(left)  # else it is warned of where the garbage collector comes by
    return number

if __name__ == "__main__":
    folder = sys.argv[1]
    client = Client(adapter="memory", store=f"sqlite:///{folder}/log.db")
    session = client.Session().start()
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(2) as pool:
        assert sorted(pool.starmap(work, [(folder, n) for n in range(4)])) == [0, 1, 2, 3]
        pool.close()
        pool.join()
    process = context.Process(target=work, args=(folder, 4))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert session.status().status == "active"
"""
    )
    done = children.run_file(script, tmp_path, method)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = Counter((end["close_reason"], end["labels"].get("left")) for end in ends(tmp_path))
    assert told == {("manual", None): 5, ("abandoned", "yes"): 5, ("abandoned", None): 1}
