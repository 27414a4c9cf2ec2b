"""What is shipped: the wheel and the sdist, the entry points, the declared dependencies, and what a lock may name."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata, util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lifecycle

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {
    "lifecycle": ROOT / "lifecycle",
    "lifecycle_adapters": ROOT / "adapters" / "lifecycle_adapters",
    "lifecycle_pytest": ROOT / "adapters" / "lifecycle_pytest",
}
LOCK = ROOT / "requirements.lock"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the files in the wheel and in the sdist, built from this tree; those of the sdist without its folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, tarfile.open(next(folder.glob("*.tar.gz"))) as sdist:
        return {
            "wheel": set(wheel.namelist()),
            "sdist": {name.partition("/")[2] for name in sdist.getnames()},
        }


def _sources(folder: Path) -> set[str]:
    return {p.relative_to(folder.parent).as_posix() for p in folder.rglob("*.py")}


def test_the_wheel_holds_all_packages_whole_and_nothing_else(built: dict[str, set[str]]) -> None:
    expected = {name for folder in PACKAGES.values() for name in _sources(folder)}
    expected |= {f"{name}/py.typed" for name in PACKAGES}
    assert len(expected) > 10
    assert expected - built["wheel"] == set()
    extra = {name for name in built["wheel"] - expected if ".dist-info/" not in name}
    assert {Path(name).parts[0] for name in extra} <= set(PACKAGES), "only data of the packages may come along"
    assert any(name.endswith("licenses/LICENSE") for name in built["wheel"])


def test_the_sdist_holds_what_building_and_testing_need(built: dict[str, set[str]]) -> None:
    needed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", ".ci/find-python", "tests/conftest.py", LOCK.name}
    assert needed - built["sdist"] == set()
    assert not any(".venv" in name or "__pycache__" in name for name in built["sdist"])


def test_all_packages_are_importable_and_their_folder_is_not() -> None:
    assert util.find_spec("lifecycle_adapters") is not None
    origins = {Path(str(util.find_spec(name).origin)).parent for name in PACKAGES}  # type: ignore[union-attr]
    assert all((origin / "py.typed").is_file() for origin in origins)
    if "LIFECYCLE_TEST_WHEEL" in os.environ:
        assert {origin.parent for origin in origins} == {Path(sysconfig.get_path("purelib"))}
        assert util.find_spec("adapters") is None


def test_a_script_that_a_test_starts_imports_what_is_under_test() -> None:
    code = "import lifecycle; print(lifecycle.__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == lifecycle.__file__


def test_the_entry_points_resolve() -> None:
    ours = metadata.distribution("session-lifecycle").entry_points
    declared = {
        *PROJECT["project"]["scripts"].items(),
        *(point for group in PROJECT["project"]["entry-points"].values() for point in group.items()),
    }
    assert {(e.name, e.value) for e in ours} == declared
    for entry in ours:
        assert entry.group == "pytest11" or callable(entry.load()), entry
    (plugin,) = ours.select(group="pytest11")
    assert plugin.load().pytest_addoption


def test_the_command_line_without_its_extra_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n"
        "from lifecycle.cli import main; sys.exit(main())"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode not in (0, None)
    assert 'pip install "session-lifecycle[cli]"' in run.stderr
    assert "Traceback" not in run.stderr


def test_the_version_is_that_of_the_project() -> None:
    assert metadata.version("session-lifecycle") == PROJECT["project"]["version"]


def _imports(folder: Path) -> dict[str, set[str]]:
    """Top-level modules that the code imports, at import time or later, each with the files that do."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return found


NAMED_OTHERWISE = {"opentelemetry": "opentelemetry-api"}
"""Modules with the distribution that they come from, where that has another name."""


FOR_TESTS = ("lifecycle/testing/", "adapters/lifecycle_pytest/")
EMBEDDED = {"browser_use": "browser_use", "crawlee": "crawlee", "scrapy": "scrapy", "scrapy_playwright": "scrapy"}
"""Frameworks, which whoever embeds a session in one has, by the module that is for it."""


def test_every_import_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    requirements = [*PROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {canonicalize_name(Requirement(text).name) for text in requirements}
    declared |= {module for module, name in NAMED_OTHERWISE.items() if name in declared}
    allowed = sys.stdlib_module_names | PACKAGES.keys()
    for folder in PACKAGES.values():
        for module, files in _imports(folder).items():
            if module.startswith("pytest"):  # whoever uses what is there for tests has it
                assert all(name.startswith(FOR_TESTS) for name in files), files
                continue
            if module in EMBEDDED:
                assert files == {f"lifecycle/embed/{EMBEDDED[module]}.py"}
                continue
            assert module in allowed or canonicalize_name(module) in declared, f"{module} is not declared: {files}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folders", "modules"),
    [
        (("lifecycle/cli/",), ("typer", "rich")),
        (("lifecycle/otel/",), ("opentelemetry",)),
        (("lifecycle/embed/temporal.py",), ("temporalio",)),
        (("lifecycle/server/", "lifecycle/cli/"), ("fastapi", "starlette", "uvicorn", "pydantic")),
    ],
)
def test_what_only_the_part_of_an_extra_may_import(folders: tuple[str, ...], modules: tuple[str, ...]) -> None:
    for folder in PACKAGES.values():
        for module in modules:
            assert all(f.startswith(folders) for f in _imports(folder).get(module, set())), module


def _locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", LOCK.read_text(), re.MULTILINE))


def test_the_lock_answers_what_the_project_asks_for() -> None:
    groups = PROJECT["dependency-groups"]
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras.values()), *groups["dev"]]
    pins = _locked()
    for text in asked:
        wanted = Requirement(text)
        if wanted.name != PROJECT["project"]["name"]:  # an extra that takes in another
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), f"make lock: {text}"


def test_the_lock_has_a_hash_for_each_line_and_names_no_host_and_no_folder() -> None:
    text = LOCK.read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len({block.split("==")[0] for block in blocks}) == len(_locked()) > 10
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links)|(?<!:)(?<![a-z0-9])/[a-z]+/", text, re.MULTILINE)


MACHINE = re.compile(
    r"(?<![\w.~-])/(?:root|home/\w+|Users/\w+)/"  # somebody's own folders
    r"|file:///(?:home|opt|root|tmp|Users|var)"
    r"|(?:files\.pythonhosted|pypi|registry\.npmjs|deb\.debian|cdn\.playwright)\.(?:org|dev)"  # registries
)


def test_no_committed_file_names_a_registry_or_a_folder_of_one_machine(built: dict[str, set[str]]) -> None:
    names = built["sdist"]
    if (ROOT / ".git").exists():
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = set(subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"))
    own = [str(folder) for folder in (ROOT, Path.home()) if len(folder.parts) > 1]
    guilty = {}
    read = 0
    for name in names:
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        read += 1
        found = [part for part in own if re.search(rf"(?<![\w.~-]){re.escape(part)}\b", text)]
        found += MACHINE.findall(text)
        if found:
            guilty[name] = found
    assert read > 20
    assert not guilty


def test_what_is_looked_for_in_committed_files_is_found() -> None:
    bad = ["/" + "root/x", "at /" + "home/ada/x", "https://py" + "pi.org/simple", "file:" + "///opt/x"]
    good = ["~/root/x", "tmp/root/x", "lifecycle/home/x/", "a.home/b/c"]
    assert [bool(MACHINE.search(text)) for text in (*bad, *good)] == [True] * len(bad) + [False] * len(good)


def _find_python(folder: Path, *scripts: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``.ci/find-python`` where nothing but `scripts` (name, text) and a few plain tools are on the PATH."""
    for tool in ("sh", "head", "grep", "cat"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, text in scripts:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    command = [str(folder / "sh"), str(ROOT / ".ci" / "find-python")]
    environment = {"PATH": str(folder), "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_python_is_found_behind_shims_that_do_not_run(tmp_path: Path) -> None:
    good = f'exec "{sys.executable}" "$@"'
    run = _find_python(tmp_path, ("python3", "echo 'not active' >&2; exit 127"), ("python3.13", good))
    assert run.stdout.strip() == sys.executable


def test_without_a_python_the_error_says_what_is_needed_and_what_was_tried(tmp_path: Path) -> None:
    run = _find_python(tmp_path, ("python3", "echo 'is Python 3.9' >&2; exit 1"))
    assert run.returncode == 1
    assert run.stdout == ""
    for part in ("CPython 3.11 or newer", "apt-get install python3 python3-venv", "python3 is Python 3.9"):
        assert part in run.stderr
