"""The local adapter with a real Chromium: its start and its end, its options, its folders, its cookies."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import logging
import os
import random
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser_rig import Rig, RigHost, Session
from playwright.sync_api import sync_playwright
from waiting import until

from lifecycle.config import parse_options
from lifecycle.cookies import Cookie
from lifecycle.errors import BackendError, ConfigError, ConnectionLost, ReleaseFailed, StartFailed, UnsupportedOperation
from lifecycle.ports import Adapter, Backend
from lifecycle.states import CloseReason, State
from lifecycle_adapters.local import LocalAdapter, find_browser, forks, launch, procs
from lifecycle_adapters.local.profiles import Profile, Profiles, profiles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the local adapter needs Linux or macOS"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def rig():
    rig = Rig()
    yield rig
    rig.stop()


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as playwright:
        yield playwright


@contextlib.contextmanager
def page_of(playwright, session: Session):
    """The browser's first page, as Playwright sees it."""
    browser = playwright.chromium.connect_over_cdp(session.url)
    try:
        yield browser.contexts[0].pages[0]
    finally:
        browser.close()


def naming(text: str) -> list[str]:
    """Processes, zombies aside, whose command line holds `text`."""
    out = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line for line in out.splitlines() if text in line]
    return [line for line in lines if not line.split(None, 2)[1].startswith("Z")]


def roots() -> list[Path]:
    # Not the folder of control sockets: those are the owner's, not the browser's.
    return [p for base in Path(tempfile.gettempdir()).glob("lifecycle-[0-9]*") for p in base.iterdir()]


# --- start and end ------------------------------------------------------------------------------------------------


def test_a_browser_comes_and_goes(rig):
    with rig.browser() as session:
        assert isinstance(LocalAdapter(), Adapter)
        assert isinstance(session.backend, Backend)
        pid, folder = session.backend.pid, Path(session.host.facts["profile"])
        assert session.host.facts["pid"] == str(pid)
        assert os.getpgid(pid) == os.getsid(pid) == pid  # so a Ctrl-C in our terminal is not for it
        assert folder.stat().st_mode & 0o777 == 0o700
        assert "Chrom" in str(session.call("Browser.getVersion")["product"])
        assert not session.backend.can_live_on
        pages = [t for t in session.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        assert [page["url"] for page in pages] == ["about:blank"]
        assert naming(str(folder))
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert naming(str(folder)) == []
    assert not folder.exists()
    with pytest.raises(ChildProcessError):  # it was reaped
        os.waitpid(pid, os.WNOHANG)
    assert session.host.ends.empty()
    rig.run(session.backend.release())  # again, and nothing happens
    with pytest.raises(ConnectionLost):
        session.call("Browser.getVersion")


@pytest.mark.parametrize("room", [0, 200])
def test_a_killed_browser_leaves_no_temporary_files(rig, monkeypatch, room):
    """Chromium puts a socket into the temporary folder; into the session's own, where that path is not too long."""
    monkeypatch.setattr("lifecycle_adapters.local.profiles._SOCKET_ROOM", room)
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    with rig.browser() as session:
        folder = Path(session.host.facts["profile"])
        link = folder / "profile" / "SingletonSocket"
        until(link.is_symlink)
        home = link.readlink().parent
        assert home.is_dir()
        assert home.is_relative_to(folder) == (room > 0)
        os.kill(session.backend.pid, signal.SIGKILL)
        session.host.ends.get(timeout=2)
    assert not home.exists()


@linux
def test_it_listens_to_no_port(rig):
    with rig.browser() as session:
        assert not list(Path(session.host.facts["profile"]).rglob("DevToolsActivePort"))
        sockets = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == session.backend.pid:
                    sockets |= {os.readlink(fd) for fd in (stat.parent / "fd").iterdir()}
        listening = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path("/proc/net", name).read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        ]
        assert sockets
        assert [line for line in listening if f"socket:[{line[9]}]" in sockets] == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_its_end_is_told_within_a_second(rig, signum):
    with rig.browser() as session:
        os.kill(session.backend.pid, signum)
        with contextlib.suppress(ChildProcessError):  # reaped already
            # From its end on: on SIGSEGV its crash handler writes a dump first, which takes as long as it takes.
            os.waitid(os.P_PID, session.backend.pid, os.WEXITED | os.WNOWAIT)
        began = time.monotonic()
        end = session.host.ends.get(timeout=3)
        assert time.monotonic() - began < 1
        assert (end.state, end.reason) == (State.ERROR, CloseReason.CRASH)
        if signum == signal.SIGTERM:
            assert end.detail.startswith("Chromium ")
        else:
            assert end.detail == f"Chromium ended by signal {int(signum)} ({signum.name})"
        with pytest.raises(ConnectionLost):
            rig.run(session.backend.get_cookies())
    assert naming(session.host.facts["profile"]) == []


def test_a_broken_pipe_is_an_end_though_the_process_may_live(rig):
    with rig.browser() as session:
        os.kill(session.backend.pid, signal.SIGSTOP)
        hub = session.host.endpoint._hub
        rig.gateway._thread.post(hub._pipe._lose, "it broke")
        assert session.host.ends.get(timeout=1).detail == "it broke"


def test_a_stopped_process_is_released_in_time(rig):
    with rig.browser() as session:
        os.kill(session.backend.pid, signal.SIGSTOP)
        began = time.monotonic()
        rig.run(session.backend.release())
        assert time.monotonic() - began < 8
        assert not Path(session.host.facts["profile"]).exists()
    assert session.host.ends.empty()


def test_a_release_that_is_cut_short_has_ended_the_process(rig):
    with rig.browser() as session:
        os.kill(session.backend.pid, signal.SIGSTOP)

        async def cut_short():
            async with asyncio.timeout(0.1):
                await session.backend.release()

        with pytest.raises(TimeoutError):
            rig.run(cut_short())
        until(lambda: not naming(session.host.facts["profile"]))  # the browser's children end by themselves


def test_without_pidfds_a_thread_waits(rig, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with rig.browser() as session:
        names = [t.name for t in threading.enumerate()]
        assert f"lifecycle-wait-{session.backend.pid}" in names
        os.kill(session.backend.pid, signal.SIGKILL)
        assert "signal 9" in session.host.ends.get(timeout=1).detail
    with rig.browser() as session:
        pass
    assert session.host.ends.empty()


def test_a_process_that_cannot_be_ended_is_reported(rig, monkeypatch):
    with rig.browser() as session:
        with monkeypatch.context() as patch:
            patch.setattr(procs, "kill_group", lambda *_: None)
            patch.setattr("lifecycle_adapters.local.process._KILL_BUDGET", 0.05)
            os.kill(session.backend.pid, signal.SIGSTOP)
            with pytest.raises(ReleaseFailed, match=str(session.backend.pid)) as caught:
                rig.run(session.backend.release(grace=0.01))
            assert caught.value.session_id == session.backend.session_id
            assert Path(session.host.facts["profile"]).exists()
        rig.run(session.backend.release())
        assert not Path(session.host.facts["profile"]).exists()


def test_a_client_cannot_close_it(rig, playwright):
    with rig.browser() as session:
        with page_of(playwright, session) as page:
            cdp = page.context.browser.new_browser_cdp_session()
            cdp.send("Browser.close")
        assert "Chrom" in str(session.call("Browser.getVersion")["product"])


# --- a start that fails -------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path):
    """Makes an executable of a shell script."""

    def make(text: str) -> str:
        path = tmp_path / f"browser-{len(list(tmp_path.iterdir()))}"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    return make


def failing(rig, **options) -> str:
    with pytest.raises(StartFailed) as caught, rig.browser(**options):
        pass
    assert caught.value.adapter == "local"
    assert roots() == []
    return str(caught.value)


def test_a_browser_that_exits_at_once_is_quoted(rig, script):
    message = failing(rig, executable_path=script("echo first >&2\necho 'it broke' >&2\nexit 3\n"))
    assert "exited with code 3" in message
    assert "first | it broke" in message
    loading = script("echo 'x: error while loading shared libraries: libnss3.so' >&2; exit 127\n")
    assert "lifecycle install-browser" in failing(rig, executable_path=loading)
    child = f"sleep 96.{os.getpid()}"
    assert "signal 9" in failing(rig, executable_path=script(f"{child} &\nkill -9 $$\n"))
    assert naming(child) == []  # its children went with it


def test_a_browser_that_closes_its_pipe_and_lives_is_ended(rig, script):
    began = time.monotonic()
    child = f"sleep 97.{os.getpid()}"
    message = failing(rig, executable_path=script(f"exec 3<&- 4>&-\n{child}\n"))
    assert "does not answer on its pipe" in message
    assert time.monotonic() - began < 5
    assert naming(child) == []


def test_what_is_named_has_to_run(rig, tmp_path, monkeypatch):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "no such file" in failing(rig, executable_path=tmp_path / "none")
    assert "may not be executed" in failing(rig, executable_path=plain)
    assert "is a folder" in failing(rig, executable_path=tmp_path)
    monkeypatch.setenv("CHROMIUM_PATH", str(plain))
    assert "CHROMIUM_PATH" in failing(rig)
    plain.chmod(0o755)
    plain.write_bytes(b"\x7fELFnonsense")
    assert str(plain) in failing(rig)


def test_a_folder_that_cannot_be_made(rig, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert "TMPDIR" in failing(rig)


STAGES = ("run_blocking", "journal", "serve_cdp")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["raises", "cancelled"])
def test_open_is_atomic_at_each_of_its_stages(rig, stage, how):
    class Host(RigHost):
        pass

    host = Host(rig)
    reached = asyncio.Event()
    original = getattr(host, stage)

    async def stuck(*args):
        if stage == "run_blocking" and reached.is_set():
            return await original(*args)
        if stage == "serve_cdp":
            await original(*args)
        reached.set()
        if how == "raises":
            raise BackendError("no")
        return await asyncio.Event().wait()

    setattr(host, stage, stuck)

    async def go():
        task = asyncio.ensure_future(LocalAdapter().open("s", parse_options(None, {}), host))
        await reached.wait()
        if how == "raises":
            with pytest.raises(BackendError, match="no"):
                await task
        else:
            for _ in range(3):  # more than once: the clean-up is not to be cut short
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task

    rig.run(go())
    assert roots() == []
    assert not naming(f"lifecycle-{os.geteuid()}/{os.getpid()}-")


@pytest.mark.parametrize("seed", range(6))
def test_open_is_atomic_at_any_moment(rig, seed):
    delay = random.Random(seed).uniform(0, 0.4)

    async def go():
        task = asyncio.ensure_future(LocalAdapter().open("s", parse_options(None, {}), RigHost(rig)))
        await asyncio.sleep(delay)
        if not task.cancel():
            await (await task).release()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).release()

    rig.run(go())
    assert roots() == []
    assert not naming(f"lifecycle-{os.geteuid()}/{os.getpid()}-")


# --- options ------------------------------------------------------------------------------------------------------

SIZE = "[innerWidth, innerHeight]"


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (375, 667), (2600, 1500)])
def test_the_viewport_is_exact_for_every_client_and_page(rig, playwright, width, height):
    with rig.browser(viewport_width=width, viewport_height=height) as session, page_of(playwright, session) as page:
        assert page.evaluate(SIZE) == [width, height]
        assert page.context.new_page().evaluate(SIZE) == [width, height]
        with page.expect_popup() as opened:
            page.evaluate("void open('about:blank')")
        assert opened.value.evaluate(SIZE) == [width, height]
        with page.expect_popup() as opened:
            page.evaluate("void open('about:blank', '_blank', 'width=410,height=300')")
        assert opened.value.evaluate("innerWidth") == 410
        assert page.evaluate("[screen.width >= innerWidth, screen.height >= innerHeight]") == [True, True]
        other = playwright.chromium.connect_over_cdp(session.url)
        sizes = [p.evaluate(SIZE) for p in other.contexts[0].pages]
        assert sizes.count([width, height]) == 3  # all but the small popup
        other.close()


def test_a_window_that_was_placed_wrongly_is_resized(rig, playwright, monkeypatch):
    from lifecycle_adapters.local import window

    monkeypatch.setitem(window._frame_height, False, 5)  # as a Chromium with another frame would have it
    with rig.browser(viewport_width=910, viewport_height=610) as session, page_of(playwright, session) as page:
        assert page.evaluate(SIZE) == [910, 610]
        assert window._frame_height[False] == page.evaluate("outerHeight - innerHeight") != 5


def test_an_older_chromium_gets_its_window_resized(rig, playwright, monkeypatch, caplog):
    from lifecycle_adapters.local import window

    with rig.browser() as session, page_of(playwright, session) as page:
        endpoint = session.host.endpoint
        call = endpoint.call

        async def without(method, params=None, *, session_id=None):
            if method == "Browser.setContentsSize":
                raise BackendError("'Browser.setContentsSize' wasn't found")
            return await call(method, params, session_id=session_id)

        monkeypatch.setattr(endpoint, "call", without)
        target = rig.run(window.wait_for_page(endpoint))
        rig.run(window.set_viewport(endpoint, target, 901, 555, headed=False))
        assert page.evaluate(SIZE) == [901, 555]
        assert caplog.text == ""
        monkeypatch.setattr(window, "_SETTLE", 0.1)
        monkeypatch.setattr(window, "_resize_window", lambda *_: asyncio.sleep(0))
        rig.run(window.set_viewport(endpoint, target, 700, 400, headed=False))
        assert "did not take 700 x 400" in caplog.text


def test_the_user_agent_is_seen_everywhere(rig, playwright, site):
    with rig.browser(user_agent="Mine/1.0 (a b)") as session, page_of(playwright, session) as page:
        page.goto(site.url)
        assert page.evaluate("navigator.userAgent") == "Mine/1.0 (a b)"
        worker = """new Promise(done => {
            const code = new Blob(["postMessage(navigator.userAgent)"]);
            new Worker(URL.createObjectURL(code)).onmessage = event => done(event.data);
        })"""
        assert page.evaluate(worker) == "Mine/1.0 (a b)"
        with page.expect_request(f"{site.url}/account") as asked:
            page.goto(f"{site.url}/account")
        assert asked.value.header_value("user-agent") == "Mine/1.0 (a b)"


@contextlib.contextmanager
def a_proxy():
    """An HTTP proxy that answers every request itself and notes what was asked for."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer()

        def do_CONNECT(self):
            self.answer()

        def do_POST(self):
            self.answer()

        def answer(self):
            seen.append(self.path)
            body = b"<title>from the proxy</title><link rel=icon href='data:,'>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="site-proxy", daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", seen=seen)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy():
    with a_proxy() as proxy:
        yield proxy


def test_the_proxy_takes_the_traffic(rig, playwright, proxy, site):
    with rig.browser(proxy=proxy.url) as session, page_of(playwright, session) as page:
        page.goto("http://somewhere.test/a")
        assert page.title() == "from the proxy"
        page.goto(f"{site.url}/b")  # loopback too, unless it is left out by name
        assert page.title() == "from the proxy"
        assert proxy.seen == ["http://somewhere.test/a", f"{site.url}/b"]
    around = {"server": proxy.url, "bypass": "127.0.0.1, .else.test"}
    with rig.browser(proxy=around) as session, page_of(playwright, session) as page:
        page.goto(site.url)
        assert page.title() == "A small site"
        page.goto("http://somewhere.test/c")
        assert proxy.seen[2:] == ["http://somewhere.test/c"]


def test_the_browser_asks_nobody_on_its_own_account(rig, proxy, monkeypatch):
    """Chromium does at each start, with the usual switches: a second one, started later and let do so, shows when."""
    with a_proxy() as other, rig.browser(proxy=proxy.url):
        monkeypatch.setattr(launch, "_ALWAYS", tuple(s for s in launch._ALWAYS if launch._NOWHERE not in s))
        with rig.browser(proxy=other.url):
            until(lambda: {"accounts.google.com:443", "update.googleapis.com:443"} <= set(other.seen), 60)
        assert proxy.seen == []


def test_chrome_args(rig, playwright):
    adapter = LocalAdapter(chrome_args=["--force-device-scale-factor=3", "--accept-lang=de"])
    options = {"chrome_args": ["--force-device-scale-factor=2"]}
    with rig.browser(adapter, **options) as session, page_of(playwright, session) as page:
        assert page.evaluate("[devicePixelRatio, navigator.language]") == [2, "de"]


def test_the_command_line(tmp_path, monkeypatch):
    profile = Profile(folder=tmp_path)

    def line(*, headed=False, **options):
        return launch.switches(parse_options(None, options), profile, headed=headed)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    plain = line()
    assert "--no-sandbox" not in plain
    for switch in (
        "--headless=new",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        "--no-default-browser-check",
        "--use-mock-keychain",
        "--password-store=basic",
        "--remote-debugging-pipe",
    ):
        assert switch in plain
    assert plain[-1] == "about:blank"
    assert not [arg for arg in plain if "debugging-port" in arg]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--no-sandbox" in line()
    assert not [arg for arg in line(headed=True) if "headless" in arg or "screen-info" in arg]
    assert "--screen-info={2020x1120}" in line(viewport_width=2000, viewport_height=1000)
    features = line(chrome_args=["--disable-features=Mine", "--enable-features=MediaRouter,Other"])
    (off,) = [arg for arg in features if arg.startswith("--disable-features=")]
    (on,) = [arg for arg in features if arg.startswith("--enable-features=")]
    assert off.endswith(",Mine")
    assert "MediaRouter" not in off
    assert on.endswith("MediaRouter,Other")
    assert "--disable-extensions" in plain
    assert "--disable-extensions" not in line(chrome_args=["--load-extension=/x"])
    socks = line(proxy="socks5://[::1]:1080")
    assert "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE [::1]" in socks
    assert "--proxy-bypass-list=<-loopback>" in socks


def test_options_that_it_refuses(monkeypatch):
    adapter = LocalAdapter()

    def check(**options):
        adapter.check(parse_options(None, options))

    check(proxy="http://host:1")
    with pytest.raises(UnsupportedOperation, match="new_context") as caught:
        check(proxy="http://me:hush@host:1")
    assert "hush" not in str(caught.value)
    check(cookie_scope="all")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedOperation, match="Windows"):
        check()


def test_sessions_of_others_are_not_known_here(rig):
    with pytest.raises(ConfigError):
        rig.run(LocalAdapter().probe("other", RigHost(rig)))
    with pytest.raises(UnsupportedOperation):
        rig.run(LocalAdapter().connect("other", parse_options("other", {}), RigHost(rig)))


def test_without_a_display_it_runs_headless_and_says_so(rig, monkeypatch, caplog):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(launch, "display_exists", lambda: bool(os.environ.get("DISPLAY")))
    with caplog.at_level(logging.WARNING), rig.browser(headless=False) as session:
        assert not session.backend.headed
        assert session.host.facts["headed"] == "false"
    assert "there is no display" in caplog.text


@pytest.fixture
def display(monkeypatch):
    """A screen of X11, where there is a server for a virtual one."""
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb to open a window on")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1100x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    with open(read) as said:
        monkeypatch.setenv("DISPLAY", f":{said.readline().strip()}")
    yield
    server.terminate()
    server.wait()


def test_a_window_and_its_closing_by_the_user(rig, playwright, display):
    options = {"headless": False, "viewport_width": 1000, "viewport_height": 700}
    with rig.browser(**options) as session:
        assert session.backend.headed
        with page_of(playwright, session) as page:
            assert page.evaluate(SIZE) == [1000, 700]
            assert page.evaluate("outerHeight") > 700
            assert "Headless" not in page.evaluate("navigator.userAgent")
            with contextlib.suppress(Exception):
                page.close()  # the last window, as when the user closes it
        end = session.host.ends.get(timeout=2)
        assert (end.reason, end.detail) == (CloseReason.CRASH, "Chromium was closed")


# --- finding it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with no browser."""
    monkeypatch.delenv("CHROMIUM_PATH", raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "downloads"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "bin").mkdir()

    def add(path: str, *, executable=True) -> str:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        file.chmod(0o755 if executable else 0o644)
        return str(file)

    return add


def test_the_first_browser_in_order_is_taken(machine, monkeypatch):
    with pytest.raises(StartFailed, match="lifecycle install-browser"):
        find_browser(None)
    chrome = machine("bin/google-chrome-stable")
    assert find_browser(None).path == chrome
    chromium = machine("bin/chromium")
    assert find_browser(None).path == chromium
    machine("downloads/chromium-1300/chrome-linux64/chrome")
    assert find_browser(None).path == chromium  # not a complete download
    for revision in ("999", "1200"):
        machine(f"downloads/chromium-{revision}/INSTALLATION_COMPLETE", executable=False)
        machine(f"downloads/chromium-{revision}/chrome-linux/chrome")
    machine("downloads/chromium_headless_shell-1400/chrome-linux/headless_shell")
    found = find_browser(None)
    assert "chromium-1200" in found.path
    assert "1200" in found.source
    named = machine("else/browser")
    monkeypatch.setenv("CHROMIUM_PATH", named)
    assert (find_browser(None).path, find_browser(None).source) == (named, "CHROMIUM_PATH")
    assert find_browser(chrome).source == "executable_path"


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def base_of(temp: Path) -> Path:
    return temp / f"lifecycle-{os.geteuid()}"


def test_sessions_share_a_root_that_goes_with_the_last(temp):
    mine = Profiles()
    one, two = mine.create(), mine.create()
    root = one.folder.parent
    assert root == two.folder.parent
    assert root.parent == base_of(temp)
    assert root.name.startswith(f"{os.getpid()}-")
    (one.folder / "profile" / "deep").mkdir(parents=True)
    assert mine.remove(one)
    assert mine.remove(one)
    assert root.exists()
    assert Profiles.sweep() == 0
    assert mine.remove(two)
    assert list(base_of(temp).iterdir()) == []


def test_a_foreign_or_open_folder_is_not_used(temp, monkeypatch):
    base_of(temp).mkdir(mode=0o777)
    base_of(temp).chmod(0o777)
    mine = Profiles()
    made = mine.create()
    assert made.folder.parent.parent != base_of(temp)
    assert made.folder.parent.parent.name.startswith(f"lifecycle-{os.geteuid()}-")
    assert list(base_of(temp).iterdir()) == []
    mine.remove(made)
    base_of(temp).rmdir()
    base_of(temp).symlink_to(temp / "elsewhere")
    made = mine.create()
    assert not (temp / "elsewhere").exists()
    mine.remove(made)


def dead_root(temp: Path, name: str = "1-abc") -> Path:
    """What a process that was killed leaves behind."""
    root = base_of(temp) / name
    (root / "session" / "profile").mkdir(parents=True)
    base_of(temp).chmod(0o700)
    root.with_name(name + ".lock").touch()
    return root


def test_dead_roots_are_swept_and_living_ones_are_not(temp):
    mine = Profiles()
    alive = mine.create()
    dead_root(temp)
    dead_root(temp, "2-without-lock").with_name("2-without-lock.lock").unlink()
    (base_of(temp) / "3-lock-only.lock").touch()
    assert Profiles.sweep() == 3
    assert sorted(base_of(temp).iterdir()) == sorted([alive.folder.parent, Path(f"{alive.folder.parent}.lock")])
    mine.remove(alive)


def test_a_browser_that_outlived_its_owner_is_ended_and_nobody_else(temp):
    root = dead_root(temp)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = [*command, f"--user-data-dir={root}/session/profile"]
    noted = root / "session" / "browser.json"

    def run(arguments, started=None):
        dead_root(temp) if not root.exists() else None
        process = subprocess.Popen(arguments, start_new_session=True)
        try:
            until(lambda: procs.command_line(process.pid).count("sleep"))
            noted.write_text(json.dumps({"pid": process.pid, "started": started or procs.start_time(process.pid)}))
            assert Profiles.sweep() == 1
            assert not root.exists()
            return process.poll()
        finally:
            process.kill()
            process.wait()

    assert run(marked) == -signal.SIGKILL
    assert run(command) is None  # a pid that was reused by something else
    assert run(marked, started="12345") is None  # ... and started at another time
    for note in ("", "[]", '{"pid": "x"}'):
        dead_root(temp)
        noted.write_text(note)
        assert Profiles.sweep() == 1


def test_a_folder_that_is_still_written_to_is_removed_in_the_end(temp):
    mine = Profiles()
    made = mine.create()
    stop = threading.Event()

    def write():
        for n in range(100_000):
            if stop.is_set():
                return
            with contextlib.suppress(OSError):
                (made.folder / f"f{n}").write_text("x")

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    threading.Timer(0.2, stop.set).start()
    assert mine.remove(made)
    for thread in threads:
        thread.join()
    assert not made.folder.exists()


def test_a_root_that_is_taken_while_it_is_made_is_made_again(temp, monkeypatch):
    """A sweeper may lock a file between its making and its locking."""
    import fcntl

    flock = fcntl.flock
    struck = []

    def strike(fd, flags):
        if not struck:
            struck.append(os.readlink(f"/dev/fd/{fd}") if sys.platform == "linux" else "")
            raise BlockingIOError
        flock(fd, flags)

    monkeypatch.setattr(fcntl, "flock", strike)
    mine = Profiles()
    made = mine.create()
    assert struck
    assert made.folder.is_dir()
    mine.remove(made)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_folders_of_its_own(temp):
    mine = profiles
    made = mine.create()
    lock = mine._root.lock_fd
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with contextlib.suppress(OSError):
                os.fstat(lock)
                os._exit(3)
            other = mine.create()
            code = 0 if other.folder.parent.name.startswith(f"{os.getpid()}-") else 2
            mine.remove(other)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert Profiles.sweep() == 0
    assert made.folder.exists()
    mine.remove(made)
    assert not forks._kept


# --- owners that die ----------------------------------------------------------------------------------------------

OWNER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from browser_rig import Rig
rig = Rig()
os.register_at_fork(after_in_child=rig.gateway.abandon_in_child)
print("go", flush=True)
with rig.browser() as session:
    print(session.backend.pid, flush=True)
    {body}
"""


@contextlib.contextmanager
def owner(body: str = "time.sleep(60)"):
    """A process that opens a browser; killed at the end of the block if it has not ended."""
    script = textwrap.dedent(OWNER).format(tests=str(Path(__file__).parent), body=body)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def of_owner(pid: int) -> str:
    return f"lifecycle-{os.geteuid()}/{pid}-"


@pytest.mark.parametrize("seed", range(5))
def test_no_browser_outlives_an_owner_that_is_killed(seed):
    with owner() as process:
        if seed:
            time.sleep(random.Random(seed).uniform(0, 0.5))
        else:
            assert process.stdout.readline()
        process.kill()
        process.wait()
        until(lambda: not naming(of_owner(process.pid)), seconds=5)
        assert [p for p in roots() if p.name.startswith(f"{process.pid}-")] or seed
        Profiles.sweep()
        assert not [p for p in roots() if p.name.startswith(f"{process.pid}-")]


def test_a_forked_child_does_not_keep_the_browser_alive():
    body = "pid = os.fork()\n    print(pid, flush=True) if pid else None\n    time.sleep(60)"
    with owner(body) as process:
        assert process.stdout.readline()
        child = int(process.stdout.readline())
        try:
            assert naming(of_owner(process.pid))
            process.kill()
            process.wait()
            until(lambda: not naming(of_owner(process.pid)), seconds=5)
            assert procs.start_time(child) is not None
            Profiles.sweep()
            assert not [p for p in roots() if p.name.startswith(f"{process.pid}-")]
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_stopped_browser_of_a_killed_owner_is_swept_by_the_next_start(rig, monkeypatch):
    import lifecycle_adapters.local as package

    with owner() as process:
        browser = int(process.stdout.readline())
        os.kill(browser, signal.SIGSTOP)
        process.kill()
        process.wait()
        assert naming(of_owner(process.pid))
        monkeypatch.setattr(package, "_swept", [])
        adapter = LocalAdapter()
        with rig.browser(adapter):
            rig.run(adapter.aclose())
        assert not naming(of_owner(process.pid))
        assert not [p for p in roots() if p.name.startswith(f"{process.pid}-")]


# --- cookies ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(rig):
    with rig.browser() as session:
        yield session


@pytest.fixture
def jar(rig, session):
    rig.run(session.backend.clear_cookies())
    return SimpleNamespace(
        set=lambda cookies: rig.run(session.backend.set_cookies(cookies)),
        all=lambda: {c.key: c for c in rig.run(session.backend.get_cookies())},
    )


def test_cookies_come_back_as_they_were_set(jar, rig, session):
    later = float(int(time.time()) + 86_400)
    partition = {"partition_key": "https://top.test", "secure": True, "same_site": "None"}
    cookies = [
        Cookie(name="plain", value="1", domain="a.test"),
        Cookie(name="wide", value="é€", domain=".a.test", path="/x", expires=later, http_only=True, same_site="Lax"),
        Cookie(name="strict", value="", domain="b.test", secure=True, same_site="Strict"),
        Cookie(name="none", value="2", domain="b.test", secure=True, same_site="None"),
        Cookie(name="part", value="3", domain="c.test", partition_cross_site=True, **partition),
        Cookie(name="part", value="4", domain="c.test", partition_cross_site=False, **partition),
        Cookie(name="__Host-h", value="5", domain="d.test", secure=True),
        Cookie(name="local", value="6", domain="127.0.0.1"),
    ]
    assert jar.set(cookies) == []
    assert jar.all() == {c.key: c for c in cookies}
    assert jar.set([]) == []
    rig.run(session.backend.clear_cookies())
    assert jar.all() == {}


def test_bad_cookies_are_named_and_keep_none_of_the_others_out(jar):
    def cookie(name, **fields):
        return Cookie(**({"name": name, "value": "v", "domain": "a.test"} | fields))

    bad = {
        "old": (cookie("old", expires=1.0), "expired"),
        "none": (cookie("none", same_site="None"), "Secure"),
        "__Host-x": (cookie("__Host-x"), "__Host-"),
        "__Host-y": (cookie("__Host-y", secure=True, domain=".a.test"), "__Host-"),
        "__Secure-x": (cookie("__Secure-x"), "__Secure-"),
        "part": (cookie("part", partition_key="https://top.test"), "Secure"),
        "big": (cookie("big", value="x" * 4096), "4096"),
        "ctl": (cookie("ctl", value="a\nb"), "control"),
        "semi": (cookie("semi", value="a;b"), "ends it"),
        " sp": (cookie(" sp"), "spaces"),
        "suffix": (cookie("suffix", domain=".co.uk"), "public suffix"),
        "host": (cookie("host", domain="a b"), ""),
    }
    good = [cookie(f"good{n}") for n in range(100)]
    mixed = list(good)
    for n, (one, _) in enumerate(bad.values()):
        mixed.insert(n * 7, one)
    refused = {c.name: reason for c, reason in jar.set(mixed)}
    assert refused.keys() == bad.keys()
    for name, (_, word) in bad.items():
        assert word in refused[name], name
    there = {c.name for c in jar.all().values()}
    assert {c.name for c in good} <= there


def test_the_last_of_two_with_one_key_wins(jar):
    one, two = (Cookie(name="a", value=v, domain="a.test") for v in "12")
    assert jar.set([one, two]) == []
    assert [c.value for c in jar.all().values()] == ["2"]


def test_many_cookies_are_quick(jar):
    cookies = [Cookie(name=f"n{n}", value=f"v{n}", domain=f"d{n % 50}.test") for n in range(3000)]
    bad = Cookie(name="bad", value="a\nb", domain="a.test")
    began = time.monotonic()
    assert [c.name for c, _ in jar.set([*cookies[:1000], bad, *cookies[1000:]])] == ["bad"]
    took = time.monotonic() - began
    assert len(jar.all()) == 3000
    print(f"3,000 cookies, one of them bad: {took:.2f} s")
    assert took < 10


def test_cookies_of_a_client_are_seen(jar, playwright, session, site):
    with page_of(playwright, session) as page:
        page.goto(f"{site.url}/login")
        page.fill("input", "ada")
        page.click("button")
        kept = jar.all()[("login", "127.0.0.1", "/", None, False)]
        assert (kept.value, kept.http_only, kept.same_site) == ("ada", True, "Lax")


def test_no_process_but_the_browser_holds_the_cookies(rig, playwright, site):
    with rig.browser() as session, page_of(playwright, session) as page:
        # A page that came over the network: whatever process loads and shows it is there now.
        page.goto(f"{site.url}/login")
        kinds = {p["type"] for p in session.call("SystemInfo.getProcessInfo")["processInfo"]}
        assert {"browser", "renderer"} <= kinds
        assert not {kind for kind in kinds if "network" in kind.lower()}
        assert not session.backend.cookies_lost


def test_cookies_of_contexts_that_clients_make_are_counted(rig, playwright):
    with rig.browser() as session:
        browser = playwright.chromium.connect_over_cdp(session.url)
        context = browser.new_context()
        context.add_cookies([{"name": f"n{n}", "value": "1", "url": "http://a.test"} for n in range(4)])
        context.close()
        assert session.backend.foreign_cookies == 4
        context = browser.new_context()
        context.add_cookies([{"name": "n", "value": "1", "url": "http://a.test"}])
        browser.close()
        until(lambda: session.backend.foreign_cookies == 5)
        assert rig.run(session.backend.get_cookies()) == []
