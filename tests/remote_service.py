"""A service that speaks the session API, on loopback, that fails in each way that a test asks for.

Rule: each request it gets and each answer it gives is held against the models of the client that nobody here wrote
(`notte_sdk`), read from their one file, so that nothing else of that package runs. What does not fit is in `wrong`.
"""

from __future__ import annotations

import importlib.util
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from http_service import HttpService, Request, utc_now
from planted import API_KEY as KEY
from planted import TOKEN


def _load_models() -> Any:
    spec = importlib.util.find_spec("notte_sdk")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], "_generated", "models.py")
    name = "notte_sdk_models_alone"
    if name not in sys.modules:
        alone = importlib.util.spec_from_file_location(name, path)
        assert alone is not None and alone.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(alone)
        alone.loader.exec_module(sys.modules[name])
    return sys.modules[name]


models = _load_models()


class RemoteService(HttpService):
    """The service; `url` has no slash at its end.

    Args:
        tells_keys: Echo the Idempotency-Key of a create in the session.
        gives_urls: Give cdp_url with the session; else only at its debug endpoint.
    """

    def __init__(self, *, tells_keys: bool = True, gives_urls: bool = True) -> None:
        self.tells_keys = tells_keys
        self.gives_urls = gives_urls
        self.sessions: dict[str, dict[str, Any]] = {}
        self.cookies: dict[str, list[dict[str, Any]]] = {}
        super().__init__()

    # --- what a test asks and does ------------------------------------------------------------------------------

    @property
    def live(self) -> list[str]:
        return [i for i, s in list(self.sessions.items()) if s["status"] in ("active", "authenticating")]

    def end(self, session_id: str, status: str, close_reason: str | None = None, error: str | None = None) -> None:
        now = utc_now()
        self.sessions[session_id].update(status=status, close_reason=close_reason, error=error, closed_at=now)

    def use(self, session_id: str) -> None:
        """As a client of the session's CDP URL does."""
        self.sessions[session_id]["last_accessed_at"] = utc_now()

    def make(self, **fields: Any) -> str:
        """A session that somebody else started."""
        return self._start({}, None, **fields)["session_id"]

    # --- the API ------------------------------------------------------------------------------------------------

    def endpoint(self, method: str, path: str) -> str:
        return endpoint_of(method, path)

    def check(self, request: Request) -> None:
        query_models = {
            "list": models.ListSessionsParametersQuery,
            "stop": models.SessionStopParametersQuery,
            "get_cookies": models.SessionCookiesGetParametersQuery,
            "set_cookies": models.SessionCookiesSetParametersQuery,
        }
        body_models = {
            "start": models.ApiSessionStartRequest,
            "set_cookies": models.BodySessionCookiesSetSessionsSessionIdCookiesPost,
        }
        with self._noting(request):
            query = query_models.get(request.endpoint)
            assert query is not None or not request.query, f"a query at {request.endpoint}"
            if query is not None:
                known = set(query.model_fields)
                assert set(request.query) <= known, f"query {sorted(request.query)}"
                query.model_validate(request.query)
            model = body_models.get(request.endpoint)
            assert (request.body is not None) == (model is not None), "a body or none"
            if model is not None:
                model.model_validate(request.body)
                if request.endpoint == "set_cookies":
                    for cookie in request.body["cookies"]:
                        assert set(cookie) <= set(models.Cookie.model_fields), sorted(cookie)

    def act(self, request: Request) -> tuple[int, Any]:
        status, answer = self._answer(request)
        if status == 200:
            model = {
                "start": models.SessionResponse,
                "get": models.SessionResponse,
                "stop": models.SessionResponse,
                "list": models.PaginatedResponseSessionResponse,
                "get_cookies": models.GetCookiesResponse,
                "debug": models.SessionDebugResponse,
            }.get(request.endpoint)
            if model is not None and not any(s.get("odd") for s in self.sessions.values()):
                with self._noting(request):
                    model.model_validate(answer)
        return status, answer

    def _answer(self, request: Request) -> tuple[int, Any]:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return 401, {"detail": "Invalid API key"}
        parts = request.path.strip("/").split("/")
        if request.endpoint == "start":
            return 200, self._start(request.body, request.headers.get("idempotency-key"))
        if request.endpoint == "list":
            return 200, self._list(request.query)
        session = self.sessions.get(parts[1]) if len(parts) > 1 else None
        if session is None:
            return 404, {"detail": "Session not found"}
        if request.endpoint == "get":
            return 200, session
        if session["status"] not in ("active", "authenticating"):
            return 409, {"detail": "Session is not active"}
        if request.endpoint == "stop":
            reason = request.query.get("close_reason", "manual")
            self.end(parts[1], "closed", reason)
            return 200, session
        if request.endpoint == "debug":
            ws = {"cdp": _cdp(parts[1]), "recording": "wss://x.example/r", "logs": "wss://x.example/l"}
            return 200, {"debug_url": "https://x.example/d", "ws": ws, "tabs": []}
        self.use(parts[1])
        if request.endpoint == "get_cookies":
            return 200, {"cookies": self.cookies[parts[1]]}
        return self._set_cookies(parts[1], request.body["cookies"])

    def _start(self, body: dict[str, Any], key: str | None, **fields: Any) -> dict[str, Any]:
        session_id, now = str(uuid.uuid4()), utc_now()
        idle, longest = body.get("idle_timeout_minutes", 3), body.get("max_duration_minutes", 15)
        session: dict[str, Any] = {
            "session_id": session_id,
            "idle_timeout_minutes": idle,
            "timeout_minutes": idle,
            "max_duration_minutes": longest,
            "created_at": now,
            "closed_at": None,
            "last_accessed_at": now,
            "status": "active",
            "proxies": bool(body.get("proxies", False)),
            "user_agent": body.get("user_agent"),
            "viewport_width": body.get("viewport_width"),
            "viewport_height": body.get("viewport_height"),
            "something_new": {"that": "nobody knows"},
        }
        if self.gives_urls:
            session["cdp_url"] = _cdp(session_id)
        if self.tells_keys:
            session["idempotency_key"] = key
        session.update(fields)
        self.sessions[session_id] = session
        self.cookies[session_id] = []
        return session

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        page, size = int(query.get("page", 1)), int(query.get("page_size", 10))
        active = query.get("only_active", "True").lower() == "true"
        items = [s for s in reversed(self.sessions.values()) if not active or s["session_id"] in self.live]
        first = (page - 1) * size
        return {
            "items": items[first : first + size],
            "page": page,
            "page_size": size,
            "has_next": len(items) > first + size,
            "has_previous": page > 1,
        }

    def _set_cookies(self, session_id: str, cookies: list[dict[str, Any]]) -> tuple[int, Any]:
        for n, cookie in enumerate(cookies):
            if cookie["name"] == "bad":
                fault = {"loc": ["body", "cookies", n, "domain"], "msg": f"no {cookie['value']}", "type": "value_error"}
                return 422, {"detail": [fault]}
        jar = {(c["name"], c["domain"], c["path"]): c for c in self.cookies[session_id]}
        now = datetime.now(UTC).timestamp()
        for cookie in cookies:
            key = (cookie["name"], cookie["domain"], cookie["path"])
            jar.pop(key, None)
            if cookie["name"] != "dropped" and cookie.get("expirationDate", now + 1) > now:
                jar[key] = cookie
        self.cookies[session_id] = list(jar.values())
        return 200, {"success": True, "message": f"{len(cookies)} cookies set"}


def endpoint_of(method: str, path: str) -> str:
    parts = path.strip("/").split("/")
    match method, parts:
        case "POST", ["sessions", "start"]:
            return "start"
        case "GET", ["sessions"]:
            return "list"
        case "GET", ["sessions", _]:
            return "get"
        case "DELETE", ["sessions", _, "stop"]:
            return "stop"
        case "GET", ["sessions", _, "cookies"]:
            return "get_cookies"
        case "POST", ["sessions", _, "cookies"]:
            return "set_cookies"
        case "GET", ["sessions", _, "debug"]:
            return "debug"
    return f"{method} {path}"


def _cdp(session_id: str) -> str:
    return f"wss://127.0.0.1/{session_id}/cdp?token={TOKEN}"
