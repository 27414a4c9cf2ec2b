"""Downloads that are kept: under which names, whoever else looks at them, and until the last moment."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest
from operations_site import furnish
from waiting import until

from lifecycle import Client, StartFailed
from lifecycle.ports import Download

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="there is no local browser on Windows"),
]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- names --------------------------------------------------------------------------------------------------------


def test_a_file_never_takes_the_name_of_another_and_never_leaves_its_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "guid", tmp_path / "kept"
    source.write_bytes(b"content")
    folder.mkdir()
    given = ["a.txt", "a.txt", "../../a.txt", "..\\a.txt", "..", ".", "", "x\0y", "n" * 300]
    kept = [Download(url="", filename=name, path=str(source)).keep(folder) for name in given]
    assert [p.name for p in kept[:8]] == [
        "a.txt", "1-a.txt", "2-a.txt", "3-a.txt", "download", "1-download", "2-download", "xy",
    ]  # fmt: skip
    assert {p.parent for p in kept} == {folder}
    assert {p.read_bytes() for p in kept} == {b"content"}
    assert names(tmp_path) == ["guid", "kept"]


def test_where_files_have_no_second_name_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "guid"
    source.write_bytes(b"content")

    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_link)
    for name in ("a", "1-a"):
        kept = Download(url="", filename="a", path=str(source)).keep(tmp_path)
        assert (kept.name, kept.read_bytes()) == (name, b"content")
        assert kept.stat().st_ino != source.stat().st_ino


# --- sessions -----------------------------------------------------------------------------------------------------


def test_what_is_downloaded_is_kept_whoever_began_it(site, tmp_path: Path) -> None:
    furnish(site)
    folder = tmp_path / "new" / "kept"
    with Client(store="memory:") as client, client.Session(downloads_folder=folder) as session:
        assert names(folder) == []
        session.execute(type="goto", url=f"{site.url}/files")
        session.execute(type="click", selector="#plain")  # nobody waits for it
        until(lambda: names(folder) == ["file.bin"])
        result = session.execute(type="download_file", selector="#plain")
        until(lambda: names(folder) == ["1-file.bin", "file.bin"])
        with open(result.data["path"], "rb") as file:
            assert file.read() == b"0123456789"
        page = session.page
        page.goto(f"{site.url}/files")
        with page.expect_download() as downloading:
            page.click("#plain")
        downloading.value.save_as(tmp_path / "users.bin")
        until(lambda: names(folder) == ["1-file.bin", "2-file.bin", "file.bin"])
        page.context.browser.close()  # Chromium forgets where downloads go when a client that said so leaves
        until(lambda: all(c.own for c in list(session._att.backend.endpoint._hub._clients)))
        session.execute(type="click", selector="#plain")
        until(lambda: "3-file.bin" in names(folder))
    assert (tmp_path / "users.bin").read_bytes() == b"0123456789"
    assert {(folder / name).read_bytes() for name in names(folder)} == {b"0123456789"}
    assert len(names(folder)) == 4


def test_the_end_waits_for_the_last_file(site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(site)
    begun, go = threading.Event(), threading.Event()
    keep = Download.keep

    def slow(self: Download, folder: Path) -> Path:
        begun.set()
        assert go.wait(10)
        return keep(self, folder)

    monkeypatch.setattr(Download, "keep", slow)
    with Client(store="memory:") as client, client.Session(downloads_folder=tmp_path) as session:
        session.execute(type="goto", url=f"{site.url}/files")
        session.execute(type="click", selector="#plain")
        assert begun.wait(10)
        threading.Timer(0.2, go.set).start()
    assert names(tmp_path) == ["file.bin"]


def test_a_folder_that_nothing_can_be_put_into_fails_before_there_is_a_browser(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with Client(store="memory:") as client:
        session = client.Session(downloads_folder=tmp_path / "file")
        with pytest.raises(StartFailed, match="downloads_folder.*choose another"):
            session.start()
        assert session.state == "error"
        assert [s.step for r in session.history() for s in r.steps if s.outcome == "failed"] == ["open_backend"]


def test_a_file_that_cant_be_kept_is_told(site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    furnish(site)
    folder = tmp_path / "kept"
    with Client(store="memory:") as client, client.Session(downloads_folder=folder) as session:
        session.execute(type="goto", url=f"{site.url}/files")
        folder.rmdir()
        with caplog.at_level(logging.ERROR):
            session.execute(type="click", selector="#plain")
            until(lambda: "'file.bin' is not kept in" in caplog.text)
        assert session.state == "active"
