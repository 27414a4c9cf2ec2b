"""One view over many hosts: sessions that a server on another host owns, seen, attached to and stopped from here."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import children
import psycopg
import pytest

from lifecycle import (
    AuthenticationError,
    BackendError,
    Client,
    ConfigError,
    ConnectionLost,
    Peers,
    ReleaseFailed,
    StartFailed,
    State,
    UnsupportedOperation,
)
from lifecycle.audit import verify
from lifecycle.ports import Claim
from lifecycle.stores.postgres import PostgresStore

pytestmark = pytest.mark.slow

TOKEN = "a-token-that-only-servers-and-their-clients-know"

SERVER = """
import platform, sys
platform.node = lambda: sys.argv[1]  # another host, as far as the library can tell
from lifecycle.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def url(postgres):
    with postgres.database() as name:
        yield postgres.url(name)


@pytest.fixture
def store(url):
    with closing(PostgresStore(url)) as made:
        made.open()
        yield made


class Served:
    def __init__(self, process, url, store):
        self.process, self.url, self.store = process, url, store


@contextlib.contextmanager
def served(url, *options, host="far", adapter="memory", token=TOKEN):
    """`lifecycle serve` on another host."""
    command = [sys.executable, "-c", SERVER, host, "serve", "--adapter", adapter, "--port", "0", *options]
    env = {**children.environment(), "LIFECYCLE_TOKEN": token, "LIFECYCLE_STORE": url}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            told = [process.stdout.readline() for _ in range(3)]
            assert "serving" in told[0], told
            yield Served(process, told[1].partition("=")[2].strip(), url)
        finally:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            process.wait(60)


ON_LOOPBACK = ("--host", "127.0.0.1", "--allow-remote")


@contextlib.contextmanager
def session_at(server):
    """A session that some client of the server has begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTTE_API_KEY", TOKEN)
        patch.setenv("NOTTE_API_URL", server.url)
        client = Client(adapter="remote", store="memory:")
    with client:
        session = client.Session().start()
        with closing(psycopg.connect(server.store, autocommit=True)) as db:  # what is there on another machine
            db.execute("UPDATE lifecycle.sessions SET control = '/no/such/place'")
        yield session


PEERS = Peers(token=TOKEN)


def test_sessions_of_another_host_are_seen_and_used_and_stopped_from_here(url, store, way):
    with served(url, *ON_LOOPBACK) as server, session_at(server) as theirs:
        client = way.client(adapter="memory", store=url, peers=PEERS)
        row = store.session(theirs.session_id)
        assert (row.host, row.address, row.adapter) == ("far", server.url, "memory")
        (listed,) = client.sessions.list(status="active")
        assert (listed.session_id, listed.status, listed.adapter) == (theirs.session_id, State.ACTIVE, "memory")
        told = client.sessions.get(theirs.session_id)
        assert (told.status, told.adapter) == (State.ACTIVE, "memory")

        guest = client.Session(theirs.session_id, on_exit="detach").start()
        guest.set_cookies(cookies=[{"name": "a", "value": "1", "domain": "site.test", "path": "/"}])
        assert [c["name"] for c in guest.get_cookies()] == ["a"]
        assert guest.status().status is State.ACTIVE
        with pytest.raises(UnsupportedOperation, match="extend"):
            guest.extend(minutes=1)
        guest.detach()
        assert client.sessions.get(theirs.session_id).status is State.ACTIVE, "a guest only leaves"

        stopped = client.sessions.stop(theirs.session_id)
        assert (stopped.status, stopped.close_reason) == (State.CLOSED, "manual")
        assert client.sessions.stop(theirs.session_id).status is State.CLOSED, "it is over, which is told"
        assert store.session(theirs.session_id).released
    assert verify(store).problems == []


def test_a_guest_that_stops_stops_the_session_at_its_owner(url, store):
    with served(url, *ON_LOOPBACK) as server, session_at(server) as theirs:
        with Client(adapter="memory", store=url, peers=PEERS) as client:
            client.Session(theirs.session_id).start().stop()
        assert store.session(theirs.session_id).state is State.CLOSED


def test_a_guest_here_follows_a_session_that_ends_there(url):
    with (
        served(url, *ON_LOOPBACK) as server,
        session_at(server) as theirs,
        Client(adapter="memory", store=url, peers=PEERS) as client,
    ):
        guest = client.Session(theirs.session_id, on_exit="detach").start()
        theirs.stop()
        assert guest.wait_ended(timeout=30).status is State.CLOSED


def test_a_page_of_a_browser_on_another_host_is_used_from_here(url, store, site):
    with served(url, *ON_LOOPBACK, adapter="local") as server, session_at(server) as theirs:
        with Client(adapter="local", store=url, peers=PEERS) as client:
            guest = client.Session(theirs.session_id, on_exit="detach").start()
            guest.execute(type="goto", url=site.url)
            assert guest.page.url == f"{site.url}/"
            guest.detach()
        assert store.session(theirs.session_id).state is State.ACTIVE


def test_a_key_leads_to_a_session_on_another_host(url):
    """Whoever asks first begins it, wherever that is."""
    with served(url, *ON_LOOPBACK) as server, session_at(server) as theirs:
        with closing(PostgresStore(url)) as store:
            store.open()
            row = replace(store.session(theirs.session_id), control=None)  # as on a system without such sockets
            store.write([], [row])
            store.claim(
                Claim(
                    key="k",
                    adapter="memory",
                    attachment_id=row.attachment_id,
                    session_id=row.session_id,
                    owner_pid=row.owner_pid,
                    owner_started=row.owner_started,
                    boot_id=row.boot_id,
                    host=row.host,
                    writer=row.writer,
                )
            )
        with Client(adapter="memory", store=url, peers=PEERS) as client:
            session = client.Session(idempotency_key="k", on_exit="stop").start()
            assert (session.session_id, session._att.made) == (theirs.session_id, False)


# --- where there is no way --------------------------------------------------------------------------------------------


def refused(client, session_id, match):
    """It can't be reached: what is missing is said, and the session goes on."""
    assert client.sessions.get(session_id).status is State.ACTIVE, "the row is all there is"
    with pytest.raises(StartFailed, match=match):
        client.Session(session_id, on_exit="detach").start()
    with pytest.raises(ReleaseFailed, match=match):
        client.sessions.stop(session_id)
    assert client.sessions.get(session_id).status is State.ACTIVE


def test_an_owner_that_lets_no_other_host_in_is_named(url):
    with (
        served(url) as server,
        session_at(server) as theirs,
        Client(adapter="memory", store=url, peers=PEERS) as client,
    ):
        refused(client, theirs.session_id, r"process \d+ on host far.* lets no other host in.*serve --allow-remote")


def test_without_a_token_no_server_is_asked(url):
    with (
        served(url, *ON_LOOPBACK) as server,
        session_at(server) as theirs,
        Client(adapter="memory", store=url) as client,
    ):
        refused(client, theirs.session_id, rf"reached at {server.url} with a token: Client\(peers=")


def test_a_wrong_token_is_told_and_not_repeated(url):
    with served(url, *ON_LOOPBACK) as server, session_at(server) as theirs:
        wrong = Peers(token="some-other-token-of-some-other-server")
        assert "some-other" not in repr(wrong)
        with Client(adapter="memory", store=url, peers=wrong) as client:
            with pytest.raises(AuthenticationError, match="401") as caught:
                client.Session(theirs.session_id, on_exit="detach").start()
            assert "some-other" not in str(caught.value)
            with pytest.raises(ReleaseFailed):
                client.sessions.stop(theirs.session_id)


def test_a_token_goes_in_the_clear_only_where_that_is_said(url, store):
    name = "http://browsers.internal:8000"
    with served(url, *ON_LOOPBACK, "--public-url", name) as server:
        local = Served(server.process, "http://127.0.0.1:" + str(port_of(server.process.pid)), url)
        with session_at(local) as theirs:
            assert store.session(theirs.session_id).address == name
            with Client(adapter="memory", store=url, peers=PEERS) as client:
                refused(client, theirs.session_id, "is reached at http://browsers.internal:8000, .*https://")
            with (
                Client(adapter="memory", store=url, peers=Peers(token=TOKEN, allow_http=True)) as client,
                pytest.raises(BackendError, match="no connection from the service at browsers.internal:8000"),
            ):
                client.Session(theirs.session_id, on_exit="detach").start()


def port_of(pid):
    """The port that a process listens on."""
    out = subprocess.run([sys.executable, "-c", PORTS, str(pid)], capture_output=True, text=True, check=True).stdout
    return int(out)


PORTS = """
import os, sys
inodes = set()
for fd in os.listdir(f"/proc/{sys.argv[1]}/fd"):
    try:
        target = os.readlink(f"/proc/{sys.argv[1]}/fd/{fd}")
    except OSError:
        continue
    if target.startswith("socket:["):
        inodes.add(target[8:-1])
for line in open("/proc/net/tcp").read().splitlines()[1:]:
    fields = line.split()
    if fields[3] == "0A" and fields[9] in inodes:
        print(int(fields[1].partition(":")[2], 16))
        break
"""


def test_an_owner_that_is_gone_is_no_riddle(url, store):
    """Its address answers nothing any more; its lease ends, and the session with it."""
    gone = pytest.raises(ReleaseFailed)  # what its own client says at the end
    with (
        served(url, *ON_LOOPBACK) as server,
        gone,
        session_at(server) as theirs,
        Client(adapter="memory", store=url, peers=PEERS, reap_on_start=False) as client,
    ):
        server.process.kill()
        server.process.wait()
        with pytest.raises(ReleaseFailed, match="may still run: .* no connection"):
            client.sessions.stop(theirs.session_id)
        with closing(PostgresStore(url)) as raw:
            raw.open()
            with raw._server.use() as db:
                db.ask("UPDATE writers SET seen_at = seen_at - make_interval(secs => 301)")
        stopped = client.sessions.stop(theirs.session_id)
        assert (stopped.status, stopped.close_reason) == (State.ERROR, "lease_lost")
        assert [s.session_id for s in client.sessions.reap()] == [theirs.session_id]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path):
    """A certificate for localhost that nobody but a test trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


class TLSProxy:
    """Ends TLS in front of a server, as whoever runs one does."""

    def __init__(self, certificate):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self._listener.getsockname()[1]
        self.to = queue.Queue()
        self._threads = [threading.Thread(target=self._accept)]
        self._socks = []
        self._threads[0].start()

    def _accept(self):
        port = self.to.get()
        while port:
            try:
                near, _ = self._listener.accept()
            except ssl.SSLError:
                continue  # a client that trusts it not
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            self._socks += [near, far]
            for one, other in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pass_on, args=(one, other)))
                self._threads[-1].start()

    @staticmethod
    def _pass_on(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self):
        self.to.put(0)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._listener, socket.SHUT_RDWR)
        for sock in self._socks:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in (*self._socks, self._listener):
            sock.close()


def test_a_server_behind_tls_is_reached_where_its_certificate_is_trusted(url, store, certificate, monkeypatch):
    with closing(TLSProxy(certificate)) as proxy:
        public = f"https://localhost:{proxy.port}"
        with served(url, *ON_LOOPBACK, "--public-url", public) as server:
            port = port_of(server.process.pid)
            proxy.to.put(port)
            with session_at(Served(server.process, f"http://127.0.0.1:{port}", url)) as theirs:
                assert store.session(theirs.session_id).address == public
                with (
                    Client(adapter="memory", store=url, peers=PEERS) as client,
                    pytest.raises(ConnectionLost, match="its certificate is not trusted .*SSL_CERT_FILE"),
                ):
                    client.Session(theirs.session_id, on_exit="detach").start()
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
                with Client(adapter="memory", store=url, peers=PEERS) as client:
                    guest = client.Session(theirs.session_id, on_exit="detach").start()
                    assert guest.status().status is State.ACTIVE
                    guest.detach()
                    assert client.sessions.stop(theirs.session_id).status is State.CLOSED


# --- the command line, and the environment ----------------------------------------------------------------------------


def test_the_command_line_finds_servers_by_the_environment(url, store, capsys, monkeypatch):
    from lifecycle.cli import main

    monkeypatch.setenv("LIFECYCLE_PEERS_TOKEN", TOKEN)
    monkeypatch.setenv("LIFECYCLE_STORE", url)
    with served(url, *ON_LOOPBACK) as server, session_at(server) as theirs:
        assert main(["sessions", "list", "--json"]) == 0
        assert [s["session_id"] for s in json.loads(capsys.readouterr().out)] == [theirs.session_id]
        assert main(["sessions", "stop", theirs.session_id, "--json"]) == 0
        assert store.session(theirs.session_id).state is State.CLOSED


@pytest.mark.parametrize("given", ["a token", {"token": TOKEN}, 5])
def test_what_is_no_way_to_reach_others_is_refused(given):
    with pytest.raises(ConfigError, match=r"peers=.*lifecycle\.Peers\(token="):
        Client(store="memory:", peers=given)


def test_a_token_that_no_header_carries_is_refused_at_once():
    with pytest.raises(ConfigError, match="printable ASCII"):
        Client(store="memory:", peers=Peers(token="one two"))


def test_the_environment_says_how_others_are_reached(monkeypatch):
    from lifecycle.peers import peers_of

    assert peers_of(None) is None
    monkeypatch.setenv("LIFECYCLE_PEERS_TOKEN", TOKEN)
    assert peers_of(None) == Peers(token=TOKEN)
    monkeypatch.setenv("LIFECYCLE_PEERS_HTTP", "1")
    assert peers_of(None) == Peers(token=TOKEN, allow_http=True)
    assert peers_of(PEERS) is PEERS
    assert os.environ["LIFECYCLE_PEERS_TOKEN"] not in repr(peers_of(None))
