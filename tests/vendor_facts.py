"""What vendors document of their session APIs, as far as the adapters rely on it: facts, and no text of theirs.

Where the documents themselves lie beside the checkout (or where LIFECYCLE_TEST_SPECS says), the facts are held against
them, and so is each request and answer of the fakes in `vendor_service`.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("LIFECYCLE_TEST_SPECS") or Path(__file__).parents[2] / "shared" / "specs")


@dataclass(frozen=True)
class Call:
    """One call: its method, its path below `Facts.prefix`, what its body has to have, and what an answer tells."""

    method: str
    path: str
    needs: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    status: int = 200


@dataclass(frozen=True)
class Facts:
    """One vendor's API.

    Attributes:
        file: The document's name.
        header: Which header carries the key; None for none.
        statuses: The words for how a session stands.
        calls: By what they are for.
        prefix: What an address has before the paths of the document.
        models: For calls that a file of models describes: its name, and the models of request and answer.
    """

    file: str
    header: str | None
    statuses: frozenset[str]
    calls: dict[str, Call]
    prefix: str = ""
    models: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)


_HYPER = "hyperbrowser-sdk-1.14.0-session-models.schema.json"

FACTS = {
    "browserbase": Facts(
        "browserbase.yaml",
        "x-bb-api-key",
        frozenset({"PENDING", "RUNNING", "ERROR", "TIMED_OUT", "COMPLETED"}),
        {
            "create": Call("POST", "/sessions", ("projectId",), ("id", "status", "connectUrl"), 201),
            "list": Call("GET", "/sessions", tells=("id", "status")),
            "get": Call("GET", "/sessions/{id}", tells=("id", "status", "connectUrl")),
            "end": Call("POST", "/sessions/{id}", ("status",), ("id", "status")),
        },
        prefix="/v1",
    ),
    "steel": Facts(
        "steel-cloud-official.json",
        "steel-api-key",
        frozenset({"live", "released", "failed"}),
        {
            "create": Call("POST", "/v1/sessions", (), ("id", "status", "websocketUrl"), 201),
            "get": Call("GET", "/v1/sessions/{id}", tells=("id", "status", "websocketUrl")),
            "end": Call("POST", "/v1/sessions/{id}/release", (), ("success",)),
        },
    ),
    "steel self-hosted": Facts(
        "steel-browser-selfhost.json",
        None,
        frozenset({"idle", "live", "released", "failed"}),
        {
            "create": Call("POST", "/v1/sessions", (), ("id", "status", "websocketUrl")),
            "list": Call("GET", "/v1/sessions", tells=("id", "status", "websocketUrl")),
            "get": Call("GET", "/v1/sessions/{sessionId}", tells=("id", "status", "websocketUrl")),
            "end": Call("POST", "/v1/sessions/{sessionId}/release", (), ("id", "status", "success")),
        },
    ),
    "hyperbrowser": Facts(
        "hyperbrowser.json",
        "x-api-key",
        frozenset({"active", "closed", "error", "close-error"}),
        {
            "create": Call("POST", "/api/session", (), ("id", "status", "createdAt", "wsEndpoint")),
            "list": Call("GET", "/api/sessions", tells=("id", "status", "createdAt")),
            "get": Call("GET", "/api/session/{id}", tells=("id", "status", "createdAt", "wsEndpoint")),
            "end": Call("PUT", "/api/session/{id}/stop", (), ("success",)),
        },
        models={
            "create": (_HYPER, "CreateSessionParams", "SessionDetail"),
            "list": (_HYPER, None, "SessionListResponse"),
            "get": (_HYPER, None, "SessionDetail"),
        },
    ),
    "kernel": Facts(
        "kernel.yaml",
        "authorization",
        frozenset({"active", "deleted"}),
        {
            "create": Call("POST", "/browsers", (), ("session_id", "cdp_ws_url", "name")),
            "list": Call("GET", "/browsers", tells=("session_id", "cdp_ws_url", "name")),
            "get": Call("GET", "/browsers/{id_or_name}", tells=("session_id", "cdp_ws_url", "name", "deleted_at")),
            "end": Call("DELETE", "/browsers/{id_or_name}", status=204),
        },
    ),
    "anchor": Facts(
        "anchorbrowser.yaml",
        "anchor-api-key",
        frozenset({"pending", "processing", "ready", "running", "completed", "cancelled", "failed"}),
        {
            "create": Call("POST", "/v1/sessions", (), ("data.id", "data.cdp_url")),
            "list": Call("GET", "/v1/sessions/all/status", tells=("session_id", "status", "tags")),
            "get": Call("GET", "/v1/sessions/{session_id}", tells=("data.session_id", "data.status")),
            "end": Call("DELETE", "/v1/sessions/{session_id}", (), ("data.status",)),
        },
    ),
    "webdriver": Facts(
        "",  # https://www.w3.org/TR/webdriver2, and what a Grid adds
        None,
        frozenset({"running"}),
        {
            "create": Call("POST", "/session", ("capabilities",), ("value.sessionId", "value.capabilities")),
            "list": Call("GET", "/status", tells=("value.ready", "value.nodes")),
            "get": Call("GET", "/session/{session id}/timeouts", tells=("value.script",)),
            "end": Call("DELETE", "/session/{session id}"),
        },
    ),
}


@functools.cache
def document(file: str) -> dict[str, Any] | None:
    """A vendor's document; None where it is not here."""
    path = FOLDER / file
    if not file or not path.is_file():
        return None
    if path.suffix == ".json":
        return json.loads(path.read_text())
    import yaml

    return yaml.load(path.read_text(), yaml.CSafeLoader)


def operation(facts: Facts, call: Call) -> dict[str, Any] | None:
    """How the document describes a call."""
    whole = document(facts.file)
    return whole["paths"][call.path][call.method.lower()] if whole is not None else None


@functools.cache
def _validator(vendor: str, name: str, request: bool) -> Any:
    """What checks the body of a request, or that of a good answer, by the document; None where there is nothing."""
    import jsonschema

    facts = FACTS[vendor]
    if name in facts.models:
        file, asks, tells = facts.models[name]
        model, whole = (asks if request else tells), document(file)
        if model is None or whole is None:
            return None
        return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{model}", "$defs": whole["$defs"]})
    found = operation(facts, facts.calls[name])
    if found is None:
        return None
    told = found.get("requestBody", {}) if request else found["responses"][str(facts.calls[name].status)]
    schema = told.get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    root = _plain({**schema, "components": document(facts.file)["components"]})
    return jsonschema.Draft202012Validator(root)


def _plain(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: _plain(value) for name, value in schema.items() if name != "nullable"}
    if schema.get("nullable") is True and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
        if "enum" in out:
            out["enum"] = [*out["enum"], None]
    return out


def missing(value: Any, path: str) -> bool:
    """True when nothing lies at a dotted path."""
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return True
        value = value[part]
    return False


def faults_of(vendor: str, name: str, body: Any, *, request: bool) -> list[str]:
    """What does not fit about the body of a request or of a good answer."""
    call = FACTS[vendor].calls[name]
    found = []
    if request:
        found += [f"{part} is missing" for part in call.needs if missing(body, part)]
    if (check := _validator(vendor, name, request)) is not None:
        found += [f"{e.json_path}: {e.message[:200]}" for e in check.iter_errors(body)]
    return [f"{name} {'request' if request else 'answer'}: {fault}" for fault in found]
