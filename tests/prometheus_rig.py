"""Prometheus's own promtool: found or got, and the shipped alert rules evaluated by it on what was scraped.

Run as a program, it gets promtool where there is none: on Debian out of the system's package, which is not installed,
since it would begin to run a Prometheus that nobody asked for.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packages import APT_UPDATE, get

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve_rig import Series

_OWN = Path(__file__).parent.parent / ".venv" / "promtool"
_PACKAGE = "prometheus"

STEP = 15
"""Seconds between two scrapes, unless it is said otherwise."""

SCRAPED = (("instance", "server:8700"), ("job", "lifecycle"))
"""Labels that Prometheus adds to what it scrapes."""


def promtool() -> str | None:
    """The program; None where there is none."""
    return shutil.which("promtool") or (str(_OWN) if _OWN.exists() else None)


def run(*arguments: str, given: str = "") -> str:
    """What promtool says, which must be no complaint."""
    program = promtool()
    assert program is not None, "promtool is not here: make prometheus"
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts(
    folder: Path,
    rules: str,
    scrapes: Sequence[Mapping[Series, float]],
    fires: Mapping[int, Mapping[str, Mapping[str, str]]],
    *,
    step: int = STEP,
) -> None:
    """Check which alerts fire, by promtool: at each of these scrapes exactly these and no others.

    Args:
        folder: Where its files go.
        rules: The rules, as they are shipped.
        scrapes: What was scraped, each `step` seconds after the one before. Its clock begins with the first.
        fires: By the number of a scrape, the alerts that fire then, each with the labels of its series.
        step: Seconds between two scrapes.
    """
    import yaml

    (folder / "rules.yml").write_text(rules)
    declared = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    names = {rule["alert"] for rule in declared}
    assert all(expected.keys() <= names for expected in fires.values())
    tests = []
    for at, expected in fires.items():
        for rule in declared:
            labels = (
                {**expected[rule["alert"]], **dict(SCRAPED), **rule["labels"]} if rule["alert"] in expected else None
            )
            fired = [{"exp_labels": labels, "exp_annotations": rule["annotations"]}] if labels is not None else []
            tests.append({"eval_time": f"{at * step}s", "alertname": rule["alert"], "exp_alerts": fired})
    series = {key for scrape in scrapes for key in scrape}
    told = [{"series": _name(key), "values": " ".join(_value(s.get(key)) for s in scrapes)} for key in sorted(series)]
    test = {"interval": f"{step}s", "input_series": told, "alert_rule_test": tests}
    whole = {"rule_files": ["rules.yml"], "evaluation_interval": f"{step}s", "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(whole))
    run("test", "rules", str(folder / "test.yml"))


def _name(key: Series) -> str:
    name, labels = key
    return f"{name}{{{','.join(f'{k}={_quoted(v)}' for k, v in (*labels, *SCRAPED))}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(value: float | None) -> str:
    return f"{value:.6f}" if value is not None else "_"


# --- getting it -----------------------------------------------------------------------------------------------------


def _out_of_the_package(folder: str) -> bool:
    """Take promtool out of Debian's package; False where that can't be got."""
    got = subprocess.run(
        ["apt-get", "-o", "Acquire::Retries=1", "download", _PACKAGE], cwd=folder, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    package = next(Path(folder).glob("*.deb"), None)
    if package is None:
        print(f"  apt-get download {_PACKAGE}: {got.stderr.strip()}", file=sys.stderr)
        return False
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, timeout=300, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        found: Any = tar.extractfile("./usr/bin/promtool")
        part = _OWN.with_suffix(".part")
        part.write_bytes(found.read())
    part.chmod(0o755)
    part.replace(_OWN)
    return True


def main() -> int:
    """Find promtool, or get it."""
    if promtool() is not None:
        return 0
    from lifecycle.cli.install_browser import Way, as_root, run_command

    if shutil.which("apt-get") is not None:
        print("no promtool yet, trying apt-get ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # apt fetches as a user of its own
            if not _out_of_the_package(folder):
                if (command := as_root(APT_UPDATE, {})) is not None:  # a fresh machine has no lists of packages
                    run_command(command, Way(name="apt-get", commands=(APT_UPDATE,)))
                _out_of_the_package(folder)
        if promtool() is not None:
            print(f"  done: {promtool()}")
            return 0
    elif get("promtool", promtool, {"brew": (("brew", "install", "prometheus"),)}):
        return 0
    print("promtool could not be got; install Prometheus, the tests need its promtool", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
