"""What the library's own CDP clients may do: they drive pages for operations, beside the clients of users.

Rule: an own client never changes what another client, or a page without any client, would see. What it sends to that
end (overrides, interception, download settings, answers to dialogs) is answered here with success and goes no further.
Pure tables and predicates; names are those of the Chrome DevTools Protocol 1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

KEPT_BACK_DOMAINS: Final = ("Emulation.", "Fetch.", "Security.", "WebAuthn.")
"""Domains that change how pages look, load or are trusted."""

KEPT_BACK: Final = frozenset(
    {
        # settings of the browser and of contexts
        "Browser.cancelDownload",
        "Browser.grantPermissions",
        "Browser.resetPermissions",
        "Browser.setDownloadBehavior",
        "Browser.setPermission",
        "Browser.setWindowBounds",
        "Page.setDownloadBehavior",
        "Storage.clearCookies",
        "Storage.setCookies",
        # settings of pages
        "Log.clear",
        "Network.emulateNetworkConditions",
        "Network.setBypassServiceWorker",
        "Network.setCacheDisabled",
        "Network.setExtraHTTPHeaders",
        "Network.setRequestInterception",
        "Network.setUserAgentOverride",
        "Page.setBypassCSP",
        "Page.setFontFamilies",
        "Page.setWebLifecycleState",
        "Runtime.discardConsoleEntries",
        # own clients have no page wait for them, so there is none to let go
        "Runtime.runIfWaitingForDebugger",
    }
)

DIALOG_ANSWER: Final = "Page.handleJavaScriptDialog"


def kept_back(method: str, *, others_answer_dialogs: bool) -> bool:
    """True when an own client's command is answered with success and not sent to the browser.

    A dialog is another client's to answer where there is one that hears of dialogs; where there is none it would stand
    for ever, since the browser leaves it to us once we listen to the page.
    """
    if method == DIALOG_ANSWER:
        return others_answer_dialogs
    return method in KEPT_BACK or method.startswith(KEPT_BACK_DOMAINS)


def tamed(method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters as they are sent: new pages never wait for an own client, which could freeze."""
    if method == "Target.setAutoAttach" and params.get("waitForDebuggerOnStart") is True:
        return {**params, "waitForDebuggerOnStart": False}
    return params
