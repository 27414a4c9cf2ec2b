"""What can run the browsers of sessions: adapters by name, and what they may be capable of.

Rule: an adapter is found when it is asked for, by an entry point of the group ``lifecycle.adapters``; those of this
distribution are known without looking through what is installed, and none is loaded before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from lifecycle.config import nearest
from lifecycle.errors import ConfigError
from lifecycle.ports import Adapter

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["CAPABILITIES", "adapter_names", "find_adapter"]

CAPABILITIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pages": "there are pages: `page`, `cdp_url()`, `execute`, `observe`, `scrape`",
        "cookies": "`get_cookies`, `set_cookies`, cookie files",
        "headed": "`headless=False`",
        "viewport": "`viewport_width`, `viewport_height`",
        "user_agent": "`user_agent`",
        "proxy": "`proxy`",
        "chrome_args": "`chrome_args`",
        "profile": "`profile`",
        "downloads": "`downloads_folder`",
        "cdp": "the gateway in front of the browser runs in this process",
        "attach": "a service answers for sessions by id, whoever opened them: any attachment may `detach`",
        "assigns_ids": "the service gives a session its id, at the start",
        "fixed_duration": "no `extend` and no `hold`: its time limits are settled at the start",
    }
)
"""Every capability that has a meaning to the library, and what it stands for."""

_BUILTIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anchor": "lifecycle_adapters.vendors.anchor:AnchorAdapter",
        "browserbase": "lifecycle_adapters.vendors.browserbase:BrowserbaseAdapter",
        "browserless": "lifecycle_adapters.vendors.browserless:BrowserlessAdapter",
        "cdp": "lifecycle_adapters.cdp:CdpAdapter",
        "hyperbrowser": "lifecycle_adapters.vendors.hyperbrowser:HyperbrowserAdapter",
        "kernel": "lifecycle_adapters.vendors.kernel:KernelAdapter",
        "local": "lifecycle_adapters.local:LocalAdapter",
        "memory": "lifecycle_adapters.memory:MemoryAdapter",
        "remote": "lifecycle_adapters.remote:RemoteAdapter",
        "steel": "lifecycle_adapters.vendors.steel:SteelAdapter",
        "webdriver": "lifecycle_adapters.vendors.webdriver:WebDriverAdapter",
    }
)


def adapter_names() -> list[str]:
    """The adapters that are installed, by name."""
    return sorted({*_BUILTIN, *_installed()})


def find_adapter(adapter: str | Adapter | None, **arguments: object) -> Adapter:
    """An adapter, made anew where it is given by its name.

    Args:
        adapter: Its name; None for ``LIFECYCLE_ADAPTER`` of the environment, else ``local``; or an adapter, as it is.
        **arguments: What one that is given by its name is made with.

    Raises:
        ConfigError: There is no adapter of that name, or the object is none.
    """
    if adapter is None:
        adapter = os.environ.get("LIFECYCLE_ADAPTER") or "local"
    if not isinstance(adapter, str):
        if isinstance(adapter, type) or not isinstance(adapter, Adapter):
            raise ConfigError(
                option="adapter",
                value=type(adapter).__name__,
                allowed="the name of an adapter, or an object with its methods",
            )
        return adapter
    import importlib  # noqa: PLC0415

    target = _BUILTIN.get(adapter)
    if target is not None:
        module, _, name = target.partition(":")
        made: Adapter = getattr(importlib.import_module(module), name)(**arguments)
        return made
    points = _installed()
    if adapter not in points:
        raise ConfigError(option="adapter", value=adapter, allowed=nearest(adapter, {*points, *_BUILTIN}))
    return cast("Adapter", points[adapter].load()(**arguments))


def _installed() -> Mapping[str, EntryPoint]:
    from importlib import metadata  # noqa: PLC0415 - 10 ms that only foreign adapters pay for

    return {point.name: point for point in metadata.entry_points(group="lifecycle.adapters")}
