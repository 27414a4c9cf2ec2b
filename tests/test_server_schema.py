"""The OpenAPI document: it tells all routes, and a fuzzer that works by it finds no fault of the server's."""

from __future__ import annotations

import asyncio
import json

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from server_rig import TOKEN, running, visiting

from lifecycle.server import create_app
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = [pytest.mark.slow, pytest.mark.lifecycle_leaves]  # the server has its sessions until the module is done

EXAMPLES = 25
ROUTES = {
    ("/health", "GET"), ("/ready", "GET"), ("/sessions/", "GET"), ("/sessions/start", "POST"),
    ("/sessions/{session_id}", "GET"),
    ("/sessions/{session_id}/auth", "GET"), ("/sessions/{session_id}/cookies", "GET"),
    ("/sessions/{session_id}/cookies", "POST"), ("/sessions/{session_id}/debug", "GET"),
    ("/sessions/{session_id}/debug/tab", "GET"), ("/sessions/{session_id}/replay", "GET"),
    ("/sessions/{session_id}/page/execute", "POST"), ("/sessions/{session_id}/page/observe", "POST"),
    ("/sessions/{session_id}/page/scrape", "POST"), ("/sessions/{session_id}/stop", "DELETE"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lasting():
    with running(adapter=MemoryAdapter(), store="memory:") as up:
        yield up


@pytest.fixture
def server(lasting):
    with visiting(lasting) as up:
        yield up


def test_the_document_tells_every_route_its_errors_and_its_key(server):
    document = server.http.get("/openapi.json").json()
    told = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert told == ROUTES
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["responses"]["200"]["content"]["application/json"]["schema"]
            if path not in {"/health", "/ready"}:
                assert operation["security"] == [{"HTTPBearer": []}]
                assert {"401", "404", "413", "422"} <= set(operation["responses"])
    start = document["components"]["schemas"]["StartRequest"]
    assert start["additionalProperties"] is False
    assert not {"cookie_file", "executable_path", "env"} & set(start["properties"])
    assert "a-token" not in json.dumps(document)


@pytest.mark.parametrize(("path", "method"), sorted(ROUTES))
def test_no_request_that_the_document_leads_to_is_a_fault_of_the_server(server, path, method):
    schema = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())
    live = server.start()["session_id"]
    statuses = set()

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=schema[path][method].as_strategy(), known=hypothesis.strategies.booleans())
    def attack(case, known):
        if known and "session_id" in case.path_parameters:
            case.path_parameters["session_id"] = live
        answer = case.call(base_url=server.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (answer.status_code, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["detail"]
        else:
            assert "detail" not in answer.json()

    attack()
    assert len(statuses) >= 1
    assert server.http.get("/health").status_code == 200


def test_an_application_can_be_made_and_dropped_without_being_run():
    """The client behind it is given up with it."""
    app = create_app(token=TOKEN, adapter=MemoryAdapter(), store="memory:")
    asyncio.run(app.state.hosting.close(client_too=True))
