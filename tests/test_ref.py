"""A session's reference: plain JSON that another process turns back into an attachment, or into the reason why not."""

from __future__ import annotations

import json

import children
import pytest

from lifecycle import Client, ConfigError, SessionClosed


def test_it_is_plain_json_without_secrets(way, tmp_path):
    store = f"sqlite:///{tmp_path}/log.db"
    session = way.client(store=store).Session(name="a", labels={"k": "v"}).start()
    ref = session.ref()
    assert json.loads(json.dumps(ref)) == ref
    assert ref == {"session_id": session.session_id, "adapter": "memory", "store": store}


def test_another_process_attaches_by_it_and_is_told_when_it_is_over(tmp_path):
    program = """
    import json
    ref = json.loads(sys.argv[1])
    with Client(adapter="memory", store=ref["store"]) as client:
        try:
            with client.Session(ref, on_exit="detach") as guest:
                print(guest.session_id, guest.state)
        except SessionClosed as e:
            print(e.close_reason)
    """
    with Client(adapter="memory", store=f"sqlite:///{tmp_path}/log.db") as client:
        session = client.Session().start()
        ref = json.dumps(session.ref())
        done = children.run(program, ref)
        assert (done.returncode, done.stdout.split()) == (0, [session.session_id, "active"]), done.stderr
        session.stop()
        done = children.run(program, ref)
        assert (done.returncode, done.stdout.split()) == (0, ["manual"]), done.stderr
        with pytest.raises(SessionClosed):
            client.Session(json.loads(ref)).start()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"adapter": "local"}, "adapter='local'"),
        ({"store": "sqlite:///elsewhere.db"}, "store='sqlite:///elsewhere.db'"),
        ({"session_id": ""}, "session_id, adapter, store"),
        ({"session_id": 7}, "session_id, adapter, store"),
        ({"more": "x"}, "session_id, adapter, store"),
    ],
)
def test_what_is_no_reference_of_this_client_is_refused_by_name(way, change, named):
    client = way.client()
    ref = client.Session().start().ref()
    with pytest.raises(ConfigError) as refused:
        client.Session({**ref, **change})
    assert named in str(refused.value)
    with pytest.raises(ConfigError):
        client.Session({})
