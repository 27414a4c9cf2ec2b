"""What the tests and the programs that they run share: browser-use without a network, and a model that has a script.

Rule: import it before browser-use, which reads some of its switches when it is imported. Whatever Python connects to or
looks up beyond loopback is refused and kept in `calls_out`; Chromium finds no name, by `NO_NAMES`.
"""

from __future__ import annotations

import os
import sys
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="lf-config-")  # goes with this process

os.environ |= {
    "ANONYMIZED_TELEMETRY": "false",
    "BROWSER_USE_CLOUD_SYNC": "false",
    "BROWSER_USE_CONFIG_DIR": _folder.name,
    "BROWSER_USE_VERSION_CHECK": "false",
    "BROWSER_USE_SETUP_LOGGING": "false",  # its loggers stay as they are, so that tests can read them
}

NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""Pages can't call out either: browser-use puts an image from its own site on about:blank."""

calls_out: list[str] = []


def _refuse(event: str, args: tuple) -> None:
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a path: a socket of this machine
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in (None, "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        calls_out.append(f"{event} {host}")
        raise OSError(f"the tests are offline: {event} {host}")


sys.addaudithook(_refuse)

from browser_use import Agent, BrowserProfile  # noqa: E402 - as the module says
from browser_use.llm.views import ChatInvokeCompletion  # noqa: E402


class Script:
    """A chat model of browser-use, by its protocol `BaseChatModel`, that answers with `steps` one after the other.

    A step is a list of actions as browser-use writes them, such as ``[{"navigate": {"url": ...}}]``, or a coroutine
    function that returns one.
    """

    _verified_api_keys = True
    provider = name = model = model_name = "scripted"

    def __init__(self, *steps) -> None:
        self.steps = list(steps)

    async def ainvoke(self, messages, output_format=None, **kwargs):
        step = self.steps.pop(0)
        actions = await step() if callable(step) else step
        said = {"thinking": "", "evaluation_previous_goal": "", "memory": "", "next_goal": "", "action": actions}
        return ChatInvokeCompletion(completion=output_format.model_validate(said), usage=None)


QUICK = BrowserProfile(
    minimum_wait_page_load_time=0,
    wait_for_network_idle_page_load_time=0,
    wait_between_actions=0,
    highlight_elements=False,
    viewport={"width": 640, "height": 480},  # a screenshot goes with each step
)
"""No waits for pages that are complete when they are loaded."""

DONE = [{"done": {"text": "did it", "success": True}}]


def go(url: str) -> list[dict]:
    return [{"navigate": {"url": url}}]


def agent(browser, *steps, **options) -> Agent:
    """An agent on `browser` that does `steps`. Without a judge, which would ask the model again at the end."""
    options = {"use_judge": False, "enable_signal_handler": False, **options}
    return Agent(task="what the script says", llm=Script(*steps), browser_session=browser, **options)


async def index_of(browser, tag: str) -> int:
    """The number by which the model names the first element with this tag on the page."""
    return next(n for n, node in (await browser.get_selector_map()).items() if node.tag_name == tag)
