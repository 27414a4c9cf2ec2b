"""Operations on a page as data: the actions, what is asked of `observe` and `scrape`, and what they answer.

Rule: pure, no I/O. What a caller hands over is checked here, before a browser hears of it; the JSON is that of the
session API's wire (``POST /sessions/{id}/page/execute``, ``observe``, ``scrape``), whoever is at its other end.

    parse.py    the table of actions and the checks
    results.py  what an operation answers
"""

from lifecycle.actions.parse import (
    ACTIONS,
    DEFAULT_TIMEOUT_MS,
    INTERACTIONS,
    MAX_TIMEOUT_MS,
    NEEDS_SERVICE,
    Action,
    ObserveRequest,
    OperationPolicy,
    ScrapeRequest,
    budget_of,
    check_url,
    parse_action,
    parse_observe,
    parse_scrape,
    playwright_selector,
    refuse_service_only,
)
from lifecycle.actions.results import ActionResult, Element, Observation, Scrape, Tab, Viewport

__all__ = [
    "ACTIONS",
    "DEFAULT_TIMEOUT_MS",
    "INTERACTIONS",
    "MAX_TIMEOUT_MS",
    "NEEDS_SERVICE",
    "Action",
    "ActionResult",
    "Element",
    "Observation",
    "ObserveRequest",
    "OperationPolicy",
    "Scrape",
    "ScrapeRequest",
    "Tab",
    "Viewport",
    "budget_of",
    "check_url",
    "parse_action",
    "parse_observe",
    "parse_scrape",
    "playwright_selector",
    "refuse_service_only",
]
