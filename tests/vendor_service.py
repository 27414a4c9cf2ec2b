"""Vendors of browsers, each as a small service on loopback that fails in each way that a test asks for.

Rule: each request it gets and each answer it gives is held against `vendor_facts`, and against the vendor's own
document where that is here. What does not fit is in `wrong`.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from http_service import HttpService, Request, utc_now
from planted import API_KEY, TOKEN
from vendor_facts import FACTS, document, faults_of, missing

KEY = API_KEY


class VendorService(HttpService):
    """A vendor.

    Attributes:
        cdp: The CDP URL that it gives for each session.
        sessions: What it keeps of each, by its own id.
        ends_after: So many looks at a session that is to end until it has.
        odd: A status that it gives instead of the true one.
        keeps: It answers to a release as always, and does nothing.
    """

    vendor = ""
    running = ""
    ended = ""

    def __init__(self) -> None:
        self.facts = FACTS[self.vendor]
        document(self.facts.file)  # now, and not while an adapter waits
        self.cdp = f"ws://127.0.0.1:9/{TOKEN}"
        self.sessions: dict[str, dict[str, Any]] = {}
        self.ends_after = 0
        self.odd: str | None = None
        self.keeps = False
        super().__init__()

    # --- what a test asks and does

    @property
    def live(self) -> list[str]:
        return [i for i, s in list(self.sessions.items()) if s["status"] in self.running.split()]

    def finish(self, session_id: str, status: str | None = None) -> None:
        """It ends by itself."""
        self.sessions[session_id]["status"] = status or self.ended

    # --- HTTP

    def endpoint(self, method: str, path: str) -> str:
        for name, call in self.facts.calls.items():
            pattern = re.sub(r"\{[^}]*\}", "([^/]+)", self.facts.prefix + call.path)
            if method == call.method and re.fullmatch(pattern, path):
                return name
        return f"{method} {path}"

    def check(self, request: Request) -> None:
        if request.endpoint not in self.facts.calls:
            self.wrong.append(f"no such call: {request.endpoint}")
            return
        if request.body is not None:
            self.wrong += faults_of(self.vendor, request.endpoint, request.body, request=True)

    def act(self, request: Request) -> tuple[int, Any]:
        if self.facts.header is not None:
            given = request.headers.get(self.facts.header, "").removeprefix("Bearer ")
            if given != KEY:
                return 401, {"error": f"bad key {given}"}
        status, answer = self.answer(request, *self._named(request))
        if request.endpoint in self.facts.calls and 200 <= status < 300:
            if status != 204 and self.odd is None:
                self.wrong += faults_of(self.vendor, request.endpoint, answer, request=False)
            if status != self.facts.calls[request.endpoint].status:
                self.wrong.append(f"{request.endpoint} answers {status}")
            if request.endpoint in ("create", "get"):
                told = [p for p in self.facts.calls[request.endpoint].tells if missing(answer, p)]
                self.wrong += [f"{request.endpoint} does not tell {p}" for p in told if p != "deleted_at"]
        return status, answer

    def _named(self, request: Request) -> tuple[str]:
        call = self.facts.calls.get(request.endpoint)
        if call is None or "{" not in call.path:
            return ("",)
        pattern = re.sub(r"\{[^}]*\}", "([^/]+)", self.facts.prefix + call.path)
        return (re.fullmatch(pattern, request.path)[1],)

    # --- the vendor

    def make(self, body: dict[str, Any], **fields: Any) -> str:
        """A session; also one that somebody else made."""
        session_id = fields.pop("id", None) or str(uuid.uuid4())
        self.sessions[session_id] = {
            "status": self.running.split()[-1], "body": body, "created_at": utc_now(), "looks": None, **fields
        }  # fmt: skip
        return session_id

    def release(self, session_id: str) -> None:
        session = self.sessions[session_id]
        if not self.keeps and session_id in self.live:
            session["looks"] = self.ends_after
            self._look(session_id)

    def status(self, session_id: str) -> str:
        self._look(session_id)
        return self.odd or self.sessions[session_id]["status"]

    def _look(self, session_id: str) -> None:
        session = self.sessions[session_id]
        if session["looks"] is not None:
            if session["looks"] <= 0:
                self.finish(session_id)
                session["looks"] = None
            else:
                session["looks"] -= 1

    def answer(self, request: Request, session_id: str) -> tuple[int, Any]:
        """Status and body for a request with the right key."""
        match request.endpoint:
            case "create":
                made = self.make(request.body, **self.chosen(request.body))
                return self.facts.calls["create"].status, self.shown(made, first=True)
            case "list":
                return 200, self.listing(request.query)
            case "get":
                return (200, self.shown(session_id)) if session_id in self.sessions else (404, self.unknown())
            case "end":
                if session_id not in self.sessions:
                    return 404, self.unknown()
                self.release(session_id)
                return self.facts.calls["end"].status, self.ended_answer(session_id)
        return 404, self.unknown()

    def chosen(self, body: dict[str, Any]) -> dict[str, Any]:
        del body
        return {}

    def unknown(self) -> dict[str, Any]:
        return {"error": "not found", "message": "no such session"}

    def shown(self, session_id: str, *, first: bool = False) -> dict[str, Any]:
        raise NotImplementedError

    def listing(self, query: dict[str, str]) -> Any:
        raise NotImplementedError

    def ended_answer(self, session_id: str) -> Any:
        return self.shown(session_id)


class Browserbase(VendorService):
    vendor, running, ended = "browserbase", "PENDING RUNNING", "COMPLETED"

    def shown(self, session_id, *, first=False):
        session = self.sessions[session_id]
        return {
            "id": session_id, "connectUrl": self.cdp, "status": self.status(session_id),
            "createdAt": session["created_at"], "projectId": session["body"].get("projectId", "p"), "keepAlive": False,
            "userMetadata": session["body"].get("userMetadata"), "somethingNew": {"of": "theirs"},
        }  # fmt: skip

    def listing(self, query):
        found = [self.shown(i) for i in self.sessions]
        for each in found:
            del each["connectUrl"]  # only one session tells it
        return [s for s in found if s["status"] == query.get("status", s["status"])]


class Steel(VendorService):
    vendor, running, ended = "steel", "live", "released"

    def chosen(self, body):
        return {"id": body.get("sessionId")}

    def shown(self, session_id, *, first=False):
        session = self.sessions[session_id]
        return {
            "id": session_id, "status": self.status(session_id), "createdAt": session["created_at"], "duration": 0,
            "eventCount": 0, "timeout": session["body"].get("timeout", 300000), "creditsUsed": 0,
            "dimensions": {"width": 1280, "height": 720}, "websocketUrl": self.cdp, "debugUrl": "https://x.example/d",
            "sessionViewerUrl": "https://x.example/v", "proxySource": None, "proxyBytesUsed": 0,
        }  # fmt: skip

    def ended_answer(self, session_id):
        return {"success": True, "message": "the session was released"}


class SteelSelfHosted(VendorService):
    """One browser: a create replaces whoever has it, and a release ends whoever has it."""

    vendor, running, ended = "steel self-hosted", "live", "released"

    def chosen(self, body):
        for session_id in self.live:
            self.finish(session_id)
        return {"id": body.get("sessionId")}

    def shown(self, session_id, *, first=False):
        session = self.sessions.get(session_id)
        return {
            "id": session_id, "status": self.status(session_id) if session else "released", "createdAt": utc_now(),
            "duration": 0, "eventCount": 0, "timeout": 0, "creditsUsed": 0, "websocketUrl": self.cdp,
            "debugUrl": "http://0.0.0.0/d", "debuggerUrl": "http://0.0.0.0/i", "sessionViewerUrl": "http://0.0.0.0",
            "proxyTxBytes": 0, "proxyRxBytes": 0,
        }  # fmt: skip

    def listing(self, query):
        idle = {**self.shown(str(uuid.uuid4())), "status": "idle"}
        now = [self.shown(i) for i in self.live] or [idle]
        return {"sessions": [*now, *(self.shown(i) for i in self.sessions if i not in self.live)]}

    def answer(self, request, session_id):
        if request.endpoint == "end":
            had = self.live[0] if self.live else str(uuid.uuid4())
            if had in self.sessions:
                self.release(had)
            return 200, {**self.shown(had), "success": True}
        if request.endpoint == "get":
            return 200, self.shown(session_id)
        return super().answer(request, session_id)


class Hyperbrowser(VendorService):
    vendor, running, ended = "hyperbrowser", "active", "closed"

    def shown(self, session_id, *, first=False):
        session = self.sessions[session_id]
        return {
            "id": session_id, "teamId": "t", "status": self.status(session_id), "createdAt": session["created_at"],
            "updatedAt": session["created_at"], "sessionUrl": "https://x.example/s", "proxyDataConsumed": "0",
            "liveUrl": "https://x.example/l", "token": TOKEN, "wsEndpoint": self.cdp, "launchState": None,
        }  # fmt: skip

    def listing(self, query):
        found = [self.shown(i) for i in self.sessions]
        found = [s for s in found if s["status"] == query.get("status", s["status"])]
        page = int(query.get("page", 1))
        return {"sessions": found[(page - 1) * 2 : page * 2], "totalCount": len(found), "page": page, "perPage": 2}

    def ended_answer(self, session_id):
        return {"success": True}


class Kernel(VendorService):
    vendor, running, ended = "kernel", "active", "deleted"
    tells_deleted = False

    def shown(self, session_id, *, first=False):
        session, told = self.sessions[session_id], self.status(session_id)
        return {
            "session_id": session_id, "created_at": session["created_at"], "cdp_ws_url": self.cdp,
            "webdriver_ws_url": "wss://x.example/w", "headless": True, "stealth": False,
            "timeout_seconds": session["body"].get("timeout_seconds", 60), "name": session["body"].get("name", "n"),
            **({"deleted_at": utc_now()} if told == "deleted" else {}),
        }  # fmt: skip

    def listing(self, query):
        found = [self.shown(i) for i in self.live]
        return [s for s in found if query.get("query", "") in (s["name"], s["session_id"], "")]

    def answer(self, request, session_id):
        gone = session_id not in self.live and not (self.tells_deleted and request.endpoint == "get")
        if request.endpoint in ("get", "end") and gone:
            return 404, {"code": "not_found", "message": "no such browser"}
        return super().answer(request, session_id)

    def ended_answer(self, session_id):
        return None


class Anchor(VendorService):
    """To end a session that it does not know, or whose end is over, is answered with 401."""

    vendor, running, ended = "anchor", "pending running", "completed"

    def shown(self, session_id, *, first=False):
        if first:
            return {"data": {"id": session_id, "cdp_url": self.cdp, "live_view_url": "https://x.example/l"}}
        session = self.sessions[session_id]
        return {"data": {"session_id": session_id, "status": self.status(session_id),
                         "created_at": session["created_at"]}}  # fmt: skip

    def listing(self, query):
        items = [
            {"session_id": i, "status": self.status(i), "tags": s["body"].get("session", {}).get("tags", []),
             "created_at": s["created_at"]}
            for i, s in self.sessions.items()
        ]  # fmt: skip
        wanted = set(query.get("tags", "").split(",")) - {""}
        items = [item for item in items if wanted <= set(item["tags"])]
        return {"data": {"count": len(items), "items": items}}

    def answer(self, request, session_id):
        if request.endpoint == "end" and session_id not in self.live:
            return 401, {"error": {"code": 401, "message": "Invalid API key or session"}}
        return super().answer(request, session_id)

    def ended_answer(self, session_id):
        return {"data": {"status": "success"}}


class Grid(VendorService):
    vendor, running, ended = "webdriver", "running", "ended"

    def _capabilities(self, session_id):
        asked = self.sessions[session_id]["body"]["capabilities"]["alwaysMatch"]
        timeouts = {"implicit": 0, "pageLoad": 300000, "script": 30000, **asked.get("timeouts", {})}
        return {"browserName": "chrome", "timeouts": timeouts, "se:cdp": self.cdp}

    def shown(self, session_id, *, first=False):
        capabilities = self._capabilities(session_id)
        if first:
            return {"value": {"sessionId": session_id, "capabilities": capabilities}}
        return {"value": capabilities["timeouts"]}

    def listing(self, query):
        slots = [{"session": {"sessionId": i, "capabilities": self._capabilities(i)}} for i in self.live]
        return {"value": {"ready": True, "message": "ready", "nodes": [{"slots": [*slots, {"session": None}]}]}}

    def answer(self, request, session_id):
        if session_id and session_id in self.sessions:
            self.status(session_id)
        if request.endpoint in ("get", "end") and session_id not in self.live:
            return 404, {"value": {"error": "invalid session id", "message": "no such session", "stacktrace": ""}}
        return super().answer(request, session_id)

    def ended_answer(self, session_id):
        return {"value": None}


SERVICES = {kind.vendor: kind for kind in (Browserbase, Steel, SteelSelfHosted, Hyperbrowser, Kernel, Anchor, Grid)}
