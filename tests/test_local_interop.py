"""What clients see through the gateway is what they see on a debugging port.

One browser has both, and each scenario is run over each: Playwright, Puppeteer (where Node.js and npm are there) and
a plain CDP client. What they observed has to be the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser_rig import Rig, RigHost, Session
from cdp_client import Ws
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright
from server_rig import running

from lifecycle.config import parse_options
from lifecycle.errors import BackendError
from lifecycle_adapters.local import LocalAdapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the local adapter needs Linux or macOS"),
]


# --- a browser with both ways in ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig():
    rig = Rig()
    yield rig
    rig.stop()


@pytest.fixture(scope="module")
def both(rig):
    """A browser behind the gateway that also, as no session of the library does, listens to a port."""
    options = dataclasses.replace(parse_options(None, {}), chrome_args=("--remote-debugging-port=0",))
    host = RigHost(rig)
    backend = rig.run(LocalAdapter().open(uuid.uuid4().hex, options, host))
    session = Session(rig, host, backend)
    noted = Path(host.facts["profile"], "profile", "DevToolsActivePort")
    until(lambda: noted.exists() and "\n" in noted.read_text())
    port, path = noted.read_text().split()
    yield SimpleNamespace(
        session=session,
        urls={"port": f"ws://127.0.0.1:{port}{path}", "gateway": session.url},
        http={"port": f"http://127.0.0.1:{port}", "gateway": session.http_url},
    )
    rig.run(backend.release())


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result


PAGES = {
    "/": ("text/html", "<title>home</title><link rel=icon href='data:,'><p id=p>hello</p>"),
    "/popup": ("text/html", "<title>popup</title><script>opener && opener.postMessage('hi', '*')</script>"),
    "/upload": ("text/html", "<title>up</title><input type=file multiple>"),
    "/down": ("application/octet-stream", "downloaded text"),
    "/worker.js": ("text/javascript", "onmessage = e => postMessage(e.data * 2); console.log('worker up')"),
    "/sw.js": ("text/javascript", "self.addEventListener('install', () => self.skipWaiting())"),
    "/sw": ("text/html", "<title>sw</title><script>navigator.serviceWorker.register('/sw.js')</script>"),
    "/data": ("application/json", '{"n": 1}'),
}


@pytest.fixture(scope="module")
def pages():
    """A site whose pages do what scenarios need."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 1  # seconds that a connection may be idle: the browser keeps some open without need

        def do_GET(self):
            kind, text = PAGES.get(self.path, ("text/html", "<title>none</title>"))
            if self.path == "/frames":
                other = f"http://localhost:{self.server.server_port}/"
                kind, text = "text/html", f"<title>frames</title><iframe name=far src='{other}'></iframe>"
            self.send_response(200 if self.path in PAGES or self.path == "/frames" else 404)
            self.send_header("Content-Type", kind)
            if self.path == "/down":
                self.send_header("Content-Disposition", "attachment; filename=some.txt")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def process_request(self, request, client_address):
            args = (request, client_address)
            threading.Thread(target=self.process_request_thread, args=args, name="site-request", daemon=True).start()

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="site-pages", daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


# --- Playwright ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as playwright:
        yield playwright


def contexts(browser, page, url, tmp):
    context = browser.new_context(user_agent="Other/1", viewport={"width": 640, "height": 480})
    other = context.new_page()
    other.goto(url)
    context.add_cookies([{"name": "a", "value": "1", "url": url}])
    seen = [
        other.evaluate("[navigator.userAgent, innerWidth, document.cookie]"),
        page.context.cookies(),
        len(browser.contexts),
        [c["name"] for c in context.storage_state()["cookies"]],
    ]
    context.close()
    return [*seen, len(browser.contexts)]


def popups(browser, page, url, tmp):
    page.goto(url)
    page.evaluate("void (window.said = new Promise(done => onmessage = e => done(e.data)))")
    with page.expect_popup() as opened:
        page.evaluate("void open('/popup', 'x', 'width=300,height=200')")
    popup = opened.value
    popup.wait_for_load_state()
    seen = [popup.title(), popup.opener() == page, page.evaluate("said"), popup.evaluate("innerWidth")]
    popup.close()
    return [*seen, len(page.context.pages)]


def dialogs(browser, page, url, tmp):
    seen = []

    def answer(dialog):
        seen.append([dialog.type, dialog.message, dialog.default_value])
        if dialog.type == "prompt":
            dialog.accept("typed")
        elif dialog.message == "no?":
            dialog.dismiss()
        else:
            dialog.accept()

    page.on("dialog", answer)
    page.goto(url)
    script = "[alert('a'), confirm('yes?'), confirm('no?'), prompt('name?', 'dflt')]"
    seen.append(page.evaluate(script))
    return seen


def downloads(browser, page, url, tmp):
    page.goto(url)
    with page.expect_download() as started:
        page.evaluate("location.href = '/down'")
    started.value.save_as(tmp / "file")
    return [started.value.suggested_filename, (tmp / "file").read_text(), started.value.failure()]


def file_choosers(browser, page, url, tmp):
    (tmp / "up.txt").write_text("uploaded")
    page.goto(f"{url}/upload")
    with page.expect_file_chooser() as opened:
        page.click("input")
    opened.value.set_files([tmp / "up.txt"])
    text = "Promise.all([...document.querySelector('input').files].map(f => f.text()))"
    return [opened.value.is_multiple(), page.evaluate(text)]


def tracing(browser, page, url, tmp):
    page.context.tracing.start(screenshots=True, snapshots=True)
    page.goto(url)
    page.context.tracing.stop(path=tmp / "trace.zip")
    with zipfile.ZipFile(tmp / "trace.zip") as archive:
        kinds = sorted({Path(name).suffix for name in archive.namelist()})
    browser.start_tracing(page=page, categories=["devtools.timeline"])
    page.goto(f"{url}/popup")
    events = json.loads(browser.stop_tracing())["traceEvents"]
    return [kinds, bool(events), any(e.get("name") == "ResourceSendRequest" for e in events)]


def interception(browser, page, url, tmp):
    seen = []
    page.on("request", lambda r: seen.append([r.method, r.url.removeprefix(url), r.resource_type]))
    page.on("requestfailed", lambda r: seen.append(["failed", r.url.removeprefix(url), r.failure]))
    page.route("**/made-up", lambda r: r.fulfill(status=201, body="made up", headers={"x-y": "z"}))
    page.route("**/blocked", lambda r: r.abort())
    page.route("**/data", lambda r: r.fulfill(response=r.fetch(), json={"n": 2}))
    page.goto(url)
    fetched = page.evaluate("""async () => {
        const made = await fetch('/made-up');
        const blocked = await fetch('/blocked').catch(e => e.name);
        return [made.status, await made.text(), made.headers.get('x-y'), blocked, await (await fetch('/data')).json()];
    }""")
    return [fetched, seen]


def workers(browser, page, url, tmp):
    page.goto(url)
    logs = []
    page.context.on("console", lambda m: logs.append(m.text))
    with page.expect_worker() as started:
        page.evaluate("window.w = new Worker('/worker.js')")
    doubled = page.evaluate("new Promise(done => { w.onmessage = e => done(e.data); w.postMessage(21) })")
    inside = started.value.evaluate("typeof importScripts")
    with page.context.expect_event("serviceworker") as registered:
        page.goto(f"{url}/sw")
    page.evaluate("navigator.serviceWorker.ready.then(r => r.unregister())")
    return [doubled, inside, started.value.url.removeprefix(url), registered.value.url.removeprefix(url)]


def frames(browser, page, url, tmp):
    page.goto(f"{url}/frames")
    far = page.frame("far")
    far.wait_for_load_state()
    seen = [len(page.frames), far.evaluate("document.title"), page.frame_locator("iframe").locator("#p").inner_text()]
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    return [*seen, len(session.send("Performance.getMetrics")["metrics"]) > 5]


def odds_and_ends(browser, page, url, tmp):
    logs = []
    page.on("console", lambda m: logs.append(m.text))
    page.on("pageerror", lambda e: logs.append(str(e)))
    page.expose_function("outside", lambda a: a + 1)
    page.goto(url)
    page.evaluate("console.log('lone', '\\ud83d'); setTimeout(() => { throw new Error('thrown') })")
    long = "é" * 1_000_000
    seen = [
        page.evaluate("outside(1)"),
        page.evaluate("s => s.length", long),
        page.evaluate("'y'.repeat(3000000)").count("y"),
        len(page.pdf()) > 1000,
        page.screenshot(clip={"x": 0, "y": 0, "width": 20, "height": 10})[16:24].hex(),
        page.locator("body").aria_snapshot(),
        page.evaluate("'\\ud83d'") == "\ud83d" or page.evaluate("'\\ud83d'"),
    ]
    until(lambda: page.evaluate("1") and any("thrown" in line for line in logs))
    return [seen, sorted(line.encode("utf-8", "replace").decode() for line in logs)]


SCENARIOS = [
    contexts, popups, dialogs, downloads, file_choosers, tracing, interception, workers, frames, odds_and_ends
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
@pytest.mark.parametrize("default", [False, True], ids=["new-context", "default-context"])
def test_playwright_sees_the_same(both, playwright, pages, tmp_path, scenario, default):
    seen = {}
    for way, url in both.urls.items():
        browser = playwright.chromium.connect_over_cdp(url)
        context = browser.contexts[0] if default else browser.new_context(accept_downloads=True)
        page = context.new_page()
        folder = tmp_path / way
        folder.mkdir()
        try:
            seen[way] = scenario(browser, page, pages, folder)
        finally:
            page.close()
            if default:
                context.clear_cookies()
            browser.close()
    assert seen["gateway"] == seen["port"]
    assert seen["gateway"]


def test_playwright_finds_it_by_an_http_url(both, playwright):
    for url in (both.http["gateway"], both.http["gateway"] + "/"):
        browser = playwright.chromium.connect_over_cdp(url)
        assert browser.contexts[0].pages
        browser.close()
    with pytest.raises(PlaywrightError, match="404"):
        playwright.chromium.connect_over_cdp(both.http["gateway"][:-1])


def test_two_playwright_clients_at_once(both, playwright, pages):
    one, two = (playwright.chromium.connect_over_cdp(both.urls["gateway"]) for _ in range(2))
    contexts = [browser.new_context() for browser in (one, two)]
    first, second = (context.new_page() for context in contexts)
    asked = {1: [], 2: []}
    first.on("request", lambda r: asked[1].append(r.url))
    second.on("request", lambda r: asked[2].append(r.url))
    second.route("**/data*", lambda r: r.fulfill(body="<title>made up</title>", content_type="text/html"))
    for n in range(5):
        first.goto(f"{pages}/data?{n}")
        second.goto(f"{pages}/data?{n}")
        assert first.title() != "made up"
        assert second.title() == "made up"
        assert first.evaluate("n => n * 2", n) == second.evaluate("n => n * 2", n) == 2 * n
    assert asked == {k: [f"{pages}/data?{n}" for n in range(5)] for k in (1, 2)}
    assert [len(browser.contexts) for browser in (one, two)] == [2, 2]
    shared = one.contexts[0].new_page()
    shared.goto(pages)
    # The call is what lets Playwright hear of the new page: its sync API takes events in only meanwhile.
    theirs = until(lambda: second.evaluate("1") and [p for p in two.contexts[0].pages if p.url == f"{pages}/"])[0]
    shared.evaluate("document.title = 'changed'")
    assert theirs.title() == "changed"
    one.close()
    assert second.evaluate("1 + 1") == 2
    assert theirs.title() == "changed"
    theirs.close()
    two.close()


# --- Puppeteer ----------------------------------------------------------------------------------------------------

PUPPETEER = """
const puppeteer = require('puppeteer-core');
const [endpoint, site, folder] = process.argv.slice(2);
(async () => {
  const seen = {};
  const browser = await puppeteer.connect({browserWSEndpoint: endpoint, defaultViewport: {width: 700, height: 500}});
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.goto(site);
  seen.title = await page.title();
  seen.size = await page.evaluate('[innerWidth, innerHeight]');
  const dialogs = [];
  page.on('dialog', d => { dialogs.push([d.type(), d.message()]); d.accept('typed'); });
  seen.answers = await page.evaluate("[confirm('sure?'), prompt('who?')]");
  seen.dialogs = dialogs;
  const popup = new Promise(done => page.once('popup', done));
  await page.evaluate("void open('/popup')");
  seen.popup = await (await popup).waitForSelector('title').then(t => t.evaluate(n => n.textContent));
  await page.setRequestInterception(true);
  page.on('request', r => r.url().endsWith('/made-up') ? r.respond({status: 202, body: 'made up'}) : r.continue());
  seen.fetched = await page.evaluate("fetch('/made-up').then(async r => [r.status, await r.text()])");
  page.removeAllListeners('request');
  await page.setRequestInterception(false);
  const worker = new Promise(done => page.once('workercreated', done));
  await page.evaluate("window.w = new Worker('/worker.js')");
  seen.worker = (await worker).url().replace(site, '');
  await page.bringToFront();  // the popup is in front of it
  await page.goto(site + '/upload');
  const [chooser] = await Promise.all([page.waitForFileChooser(), page.click('input')]);
  await chooser.accept([__filename]);
  seen.files = await page.evaluate("document.querySelector('input').files.length");
  await page.goto(site + '/frames');
  const frame = await page.waitForFrame(f => f.name() === 'far');
  seen.frame = await frame.waitForSelector('#p').then(p => p.evaluate(n => n.textContent));
  await page.tracing.start({categories: ['devtools.timeline']});
  await page.goto(site);
  seen.trace = (await page.tracing.stop()).length > 100;
  await context.setCookie({name: 'a', value: '1', domain: '127.0.0.1', path: '/'});
  seen.cookies = (await context.cookies()).map(c => [c.name, c.value]);
  seen.shot = (await page.screenshot()).length > 100;
  const session = await page.createCDPSession();
  seen.evaluated = (await session.send('Runtime.evaluate', {expression: '6 * 7'})).result.value;
  seen.error = await session.send('No.such').catch(e => e.message);
  seen.targets = browser.targets().filter(t => t.type() === 'page').length > 1;
  await context.close();
  seen.version = await browser.version();
  await browser.disconnect();
  console.log(JSON.stringify(seen));
})().catch(e => { console.error(e); process.exit(1); });
"""


@pytest.fixture(scope="session")
def puppeteer(tmp_path_factory):
    """A folder with puppeteer-core in it, kept between runs where the temporary folder is."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js with npm to run Puppeteer on")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TMPDIR", raising=False)
        patch.setattr(tempfile, "tempdir", None)
        folder = Path(tempfile.gettempdir(), "lc-puppeteer-core-24")
    if not (folder / "node_modules" / "puppeteer-core" / "package.json").exists():
        made = tmp_path_factory.mktemp("npm")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(made)]
        done = subprocess.run(
            [*command, "puppeteer-core@24"], capture_output=True, text=True, check=False, timeout=110, cwd=made
        )
        if done.returncode != 0:
            pytest.skip(f"puppeteer-core could not be installed: {done.stderr.strip()[-300:]}")
        with contextlib.suppress(OSError):  # another run was quicker
            made.rename(folder)
        folder = folder if folder.exists() else made
    return folder


@pytest.mark.slow
def test_puppeteer_sees_the_same(both, pages, puppeteer, tmp_path):
    script = puppeteer / f"{uuid.uuid4().hex}.js"
    script.write_text(PUPPETEER)
    seen = {}
    try:
        for way, url in both.urls.items():
            command = ["node", str(script), url, pages, str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{way}: {done.stderr}"
            seen[way] = json.loads(done.stdout)
    finally:
        script.unlink()
    assert seen["gateway"] == seen["port"]
    assert seen["gateway"]["answers"] == [True, "typed"]
    assert seen["gateway"]["evaluated"] == 42


CONNECTED = """
const puppeteer = require('puppeteer-core');
const [, , endpoint] = process.argv;
const {origin, pathname} = new URL(endpoint.replace('ws://', 'http://'));
(async () => {
  const told = [];
  const plain = globalThis.fetch;
  // Puppeteer drops the path of a browserURL, so there the secret has to go into a header.
  globalThis.fetch = (url, options) =>
    plain(url, {...options, headers: {Authorization: `Bearer ${pathname.slice(1)}`}});
  for (const how of [{browserWSEndpoint: endpoint}, {browserURL: origin}]) {
    const browser = await puppeteer.connect({...how, defaultViewport: null});
    const [page] = await browser.pages();
    await page.goto('data:text/html,<title>seen</title>');
    told.push(await page.title());
    await browser.disconnect();
  }
  console.log(JSON.stringify(told));
})().catch(e => { console.error(e); process.exit(1); });
"""


@pytest.mark.slow
def test_puppeteer_connects_to_a_session_of_the_server_by_websocket_and_by_browser_url(puppeteer):
    script = puppeteer / f"{uuid.uuid4().hex}.js"
    script.write_text(CONNECTED)
    try:
        with running(adapter="local", store="memory:") as server:
            begun = server.start()
            done = subprocess.run(
                ["node", str(script), begun["cdp_url"]], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == ["seen", "seen"]
            assert server.get(begun["session_id"])["status"] == "active"
    finally:
        script.unlink()


# --- a plain CDP client -------------------------------------------------------------------------------------------


def scrub(message):
    """A message without what differs from one connection to the next."""
    if isinstance(message, dict):
        changing = {"targetId", "sessionId", "frameId", "loaderId", "browserContextId", "uniqueId", "openerId"}
        return {k: "*" if k in changing else scrub(v) for k, v in message.items()}
    return [scrub(v) for v in message] if isinstance(message, list) else message


def test_a_plain_client_gets_the_same_answers_and_errors(both, pages):
    seen = {}
    for way, url in both.urls.items():
        with Ws(url) as ws:
            out = []
            for method, params in (
                ("Browser.getVersion", {}),
                ("No.such", {}),
                ("Browser.getWindowForTarget", {"targetId": "NOPE"}),
                ("Target.attachToTarget", {"targetId": 5, "flatten": True}),
                ("Target.createBrowserContext", {}),
                ("Storage.getCookies", {"browserContextId": "NOPE"}),
                ("Target.sendMessageToTarget", {"message": "{}"}),
            ):
                out.append(ws.call(method, params))
            context = out[4]["result"]["browserContextId"]
            target = ws.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
            target_id = target["result"]["targetId"]
            attached = ws.call("Target.attachToTarget", {"targetId": target_id, "flatten": True})
            session = attached["result"]["sessionId"]
            out += [target, attached]
            for method, params in (
                ("Page.enable", {}),
                ("Runtime.evaluate", {"expression": "[1, '\\ud83d', 'é']", "returnByValue": True}),
                ("Runtime.evaluate", {"expression": "throw 5"}),
                ("Runtime.evaluate", {}),
                ("No.such", {}),
                ("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}),
            ):
                out.append(ws.call(method, params, session))
            ws.call("Page.navigate", {"url": pages}, session)
            out.append(ws.wait_event("Page.loadEventFired")["method"])
            ws.call("Runtime.evaluate", {"expression": "window.w = new Worker('/worker.js')"}, session)
            worker = next(
                e
                for e in iter(lambda: ws.wait_event("Target.attachedToTarget"), None)
                if e["params"]["targetInfo"]["type"] == "worker"
            )
            inner = worker["params"]["sessionId"]
            out.append([worker["sessionId"] == session, worker["params"]["targetInfo"]["type"]])
            out.append(ws.call("Runtime.evaluate", {"expression": "typeof importScripts"}, inner))
            out.append(ws.call("Target.detachFromTarget", {"sessionId": session}))
            out.append(ws.call("Runtime.evaluate", {"expression": "1"}, inner))
            for raw in (
                '{"id":1.5,"method":"A.b"}',
                '{"id":2147483648,"method":"A.b"}',
                '{"id":7}',
                '{"method":"A.b"}',
            ):
                ws.socket.send(raw)
                out.append(next(m for m in iter(ws.receive, None) if "method" not in m))
            ws.call("Target.disposeBrowserContext", {"browserContextId": context})
        for answer in out:
            if isinstance(answer, dict):
                answer.pop("id", None)
        seen[way] = [scrub(answer) for answer in out]
    for ours, theirs in zip(seen["gateway"], seen["port"], strict=True):
        assert ours == theirs


def test_what_a_client_leaves_behind_is_the_same(both):
    """Contexts go with their maker only if it said so, and a new page is not held up by a client that has gone."""
    for way, url in both.urls.items():
        with Ws(url) as ws:
            going = ws.call("Target.createBrowserContext", {"disposeOnDetach": True})["result"]["browserContextId"]
            staying = ws.call("Target.createBrowserContext")["result"]["browserContextId"]
            ws.call("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True})

        def there():
            return both.session.call("Target.getBrowserContexts")["browserContextIds"]

        until(lambda going=going, there=there: going not in there())
        assert staying in there(), way
        params = {"url": "about:blank", "browserContextId": staying}
        target = both.session.call("Target.createTarget", params)["targetId"]
        session = both.session.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        answer = both.session.call("Runtime.evaluate", {"expression": "2 + 2"}, session)
        assert answer["result"]["value"] == 4, way
        both.session.call("Target.disposeBrowserContext", {"browserContextId": staying})


def close_page(both, target):
    """Close a page. Chromium forgets about it, now and then, when the page has just navigated."""

    def gone():
        with contextlib.suppress(BackendError):
            both.session.call("Target.closeTarget", {"targetId": target})
        time.sleep(0.05)
        return target not in [t["targetId"] for t in both.session.call("Target.getTargets")["targetInfos"]]

    until(gone)


def test_a_client_cannot_use_the_sessions_of_another(both):
    url = both.urls["gateway"]
    with Ws(url) as one, Ws(url) as two:
        target = one.call("Target.createTarget", {"url": "about:blank"})["result"]["targetId"]
        session = one.call("Target.attachToTarget", {"targetId": target, "flatten": True})["result"]["sessionId"]
        assert one.call("Runtime.evaluate", {"expression": "1"}, session)["result"]
        error = two.call("Runtime.evaluate", {"expression": "1"}, session)["error"]
        assert error == {"code": -32001, "message": "Session with given id not found."}
        assert "error" in two.call("Target.detachFromTarget", {"sessionId": session})
        assert one.call("Runtime.evaluate", {"expression": "1"}, session)["result"]
        one.call("Page.enable", session_id=session)
        one.call("Page.navigate", {"url": "data:text/html,x"}, session)
        assert two.call("Browser.getVersion")["result"]
        assert two.events == []
        close_page(both, target)
        assert one.wait_event("Target.detachedFromTarget")["params"]["sessionId"] == session


def test_discovery_and_page_connections(both):
    import urllib.request

    def read(way, path):
        with urllib.request.urlopen(f"{both.http[way]}{path}", timeout=5) as answer:
            return json.load(answer)

    ours, theirs = read("gateway", "/json/version"), read("port", "/json/version")
    assert ours.pop("webSocketDebuggerUrl") == both.urls["gateway"]
    theirs.pop("webSocketDebuggerUrl")
    assert ours == theirs
    lists = [{t["id"]: t for t in read(way, "/json/list") if t["type"] == "page"} for way in ("gateway", "port")]
    assert lists[0].keys() == lists[1].keys()
    target = next(iter(lists[0].values()))
    with Ws(target["webSocketDebuggerUrl"]) as ws:
        assert (
            ws.call("Runtime.evaluate", {"expression": "location.href"})["result"]["result"]["value"] == target["url"]
        )
        ws.call("Page.enable")
        ws.call("Page.navigate", {"url": "data:text/html,<title>t</title>"})
        event = ws.wait_event("Page.loadEventFired")
        assert "sessionId" not in event
        ws.call("Page.navigate", {"url": "about:blank"})
    created = both.session.call("Target.createTarget", {"url": "about:blank"})["targetId"]
    with Ws(f"{both.urls['gateway']}/devtools/page/{created}") as ws:
        ws.call("Page.enable")
        close_page(both, created)
        assert ws.closed() == (1000, "the target is gone")


@pytest.mark.slow
def test_a_command_longer_than_chromium_takes_ends_nothing(both):
    """Chromium stops reading its pipe for good when one message is longer than 100 MiB."""
    with Ws(both.urls["gateway"]) as ws:
        error = ws.call("Browser.getVersion", {"x": "a" * (100 * 1024 * 1024)}, timeout=30)["error"]
        assert "longer than" in error["message"]
        assert ws.call("Browser.getVersion", {"x": "a" * (99 * 1024 * 1024)}, timeout=30)["result"]
        assert ws.call("Browser.getVersion")["result"]
