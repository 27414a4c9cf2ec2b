"""Chromium's command line, and its start on a pipe.

Rule: the browser listens to no port. Its stdin and stdout are our pipe for a moment: a shell that replaces itself by
the browser moves them to descriptors 3 and 4, where ``--remote-debugging-pipe`` expects them. So no code of ours runs
between fork and exec, the pid that is returned is the browser's own, and the browser ends when our ends close.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lifecycle.ports import CdpPipe
from lifecycle_adapters.local import forks, procs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lifecycle.config import Proxy, SessionOptions
    from lifecycle_adapters.local.profiles import Profile

__all__ = ["Launched", "close_pipe", "display_exists", "launch", "switches"]

_SHIM: Final = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'

_NOWHERE: Final = "https://127.0.0.1:9/"

_ALWAYS: Final = (
    # nothing that Chromium wants to do on its own account; with all the others, Chromium 156 still asks two servers at
    # each start, for updates and for who is logged in to Google, so it is given addresses where nobody is
    f"--component-updater=url-source={_NOWHERE}",
    f"--gaia-url={_NOWHERE}",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-extensions-with-background-pages",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-field-trial-config",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-service-autorun",
    "--password-store=basic",
    "--use-mock-keychain",
    # a page runs as fast unseen as seen
    "--disable-back-forward-cache",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-renderer-backgrounding",
    # nothing asks a person
    "--disable-infobars",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    # the same picture on every machine
    "--allow-pre-commit-input",
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",
    "--force-color-profile=srgb",
)

_FEATURES_OFF: Final = (
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)
"""What Playwright turns off as well, so that a page behaves here as in a browser that it launched."""

_FEATURES_ON: Final = ("CDPScreenshotNewSurface", "NetworkServiceInProcess2")
"""NetworkServiceInProcess2: the browser itself holds the cookies. A process for that can end alone, and the cookies
of the last half minute, which are not on disk yet, go with it."""

_SCREEN: Final = (1440, 900)
"""The virtual screen of a headless browser, unless the viewport needs a larger one. The default is 800 x 600."""

_FRAME: Final = (20, 120)
"""Room that the screen has around the viewport, for the window's own frame."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]", "<local>"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A browser process that was just started.

    Attributes:
        popen: The process; its pid is the browser's, and leads a session and process group of its own.
        started: The start time that goes with the pid.
        pipe: Our ends of its pipe, registered with `forks`.
    """

    popen: subprocess.Popen[bytes]
    started: str
    pipe: CdpPipe


def display_exists() -> bool:
    """True when a window could be shown: on macOS, and where X11 or Wayland is announced."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def switches(options: SessionOptions, profile: Profile, *, headed: bool) -> list[str]:
    """Chromium's command line for a session, without the executable."""
    given = options.chrome_args
    out = [*_ALWAYS]
    if not any(arg.startswith(("--load-extension", "--disable-extensions-except")) for arg in given):
        out.append("--disable-extensions")
    if not headed:
        width = max(_SCREEN[0], (options.viewport_width or 0) + _FRAME[0])
        height = max(_SCREEN[1], (options.viewport_height or 0) + _FRAME[1])
        out += ["--headless=new", "--hide-scrollbars", "--mute-audio", f"--screen-info={{{width}x{height}}}"]
    if os.geteuid() == 0:
        out.append("--no-sandbox")  # Chromium refuses to run as root with its sandbox on
    if options.user_agent is not None:
        out.append(f"--user-agent={options.user_agent}")
    if options.proxy is not None:
        out += _proxy(options.proxy)
    out += [arg for arg in given if not arg.startswith(("--disable-features=", "--enable-features="))]
    # Of several such switches Chromium takes the last alone.
    out.append(_features("--disable-features=", _FEATURES_OFF, given))
    out.append(_features("--enable-features=", _FEATURES_ON, given))
    return [*out, "--remote-debugging-pipe", f"--user-data-dir={profile.user_data}", "about:blank"]


def _features(switch: str, ours: Iterable[str], given: Sequence[str]) -> str:
    theirs = [name for arg in given if arg.startswith(switch) for name in arg.removeprefix(switch).split(",") if name]
    other = "--enable-features=" if switch.startswith("--disable") else "--disable-features="
    contrary = {name for arg in given if arg.startswith(other) for name in arg.removeprefix(other).split(",")}
    return switch + ",".join(dict.fromkeys([*(name for name in ours if name not in contrary), *theirs]))


def _proxy(proxy: Proxy) -> list[str]:
    """The proxy, for loopback addresses too unless `bypass` names one: Chromium alone would leave them out."""
    out = [f"--proxy-server={proxy.server}"]
    hosts = [host.strip() for host in (proxy.bypass or "").split(",") if host.strip()]
    bypass = [f"*{host}" if host.startswith(".") else host for host in hosts]
    if not _LOOPBACK.intersection(host.lower() for host in hosts):
        bypass.append("<-loopback>")
    if bypass:
        out.append(f"--proxy-bypass-list={';'.join(bypass)}")
    scheme, _, host = proxy.server.partition("://")
    if scheme == "socks5":  # names are for the proxy to resolve, prefetches included
        out.append(f"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {host.rpartition(':')[0] or host}")
    return out


def launch(executable: str, arguments: Sequence[str], profile: Profile) -> Launched:
    """Start the browser. Takes some milliseconds; to be called on the supervisor's own thread.

    Raises:
        OSError: It can't be started.
    """
    theirs_in, ours_out = os.pipe()
    try:
        ours_in, theirs_out = os.pipe()
    except OSError:  # no descriptor is left for it
        os.close(theirs_in)
        os.close(ours_out)
        raise
    pipe = CdpPipe(read_fd=ours_in, write_fd=ours_out)
    forks.keep(ours_in, ours_out)
    environment = dict(os.environ)
    if profile.temp is not None:
        environment["TMPDIR"] = str(profile.temp)
    try:
        with profile.log.open("wb") as log:
            popen = subprocess.Popen(
                ["/bin/sh", "-c", _SHIM, "sh", executable, *arguments],
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=log,
                close_fds=True,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who save the cookies first
                env=environment,
            )
    except BaseException:
        close_pipe(pipe)
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    started = procs.start_time(popen.pid) or ""
    return Launched(popen=popen, started=started, pipe=pipe)


def close_pipe(pipe: CdpPipe) -> None:
    """Close our ends of a pipe that nobody has taken over."""
    forks.drop(pipe.read_fd, pipe.write_fd)
    os.close(pipe.read_fd)
    os.close(pipe.write_fd)
