"""The firmware directory: what is read when, what is named, what is bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ota import shelf as shelf_module
from ota.image import MAX_IMAGE_BYTES, ImageError
from ota.shelf import FirmwareShelf, look_at, place
from tests.ota.images import image, put


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[FirmwareShelf]:
    made = FirmwareShelf(tmp_path / "firmware", refresh_s=0)
    yield made
    made.close()


async def test_nothing_there(shelf: FirmwareShelf) -> None:
    assert (await shelf.index()).files == ()
    assert await shelf.open("0" * 32, "1.0.bin") is None
    assert shelf.complaints == {}


async def test_complaints_are_logged_once_and_again_when_they_change(shelf: FirmwareShelf, tmp_path: Path) -> None:
    path = put(tmp_path, "bread", "2.5.0", b"PK")
    with capture_logs() as logs:
        for _ in range(3):
            await shelf.index()
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert (line["file"], "first byte" in line["reason"]) == ("bread/2.5.0.bin", True)
    path.write_bytes(image("2.5.0")[:-1])
    with capture_logs() as logs:
        await shelf.index()
        await shelf.index()
    assert ["cut off" in line["reason"] for line in logs] == [True]
    path.write_bytes(image("2.5.0"))
    with capture_logs() as logs:
        assert [file.version for file in (await shelf.index()).files] == ["2.5.0"]
    assert [line["event"] for line in logs] == ["firmware was found"]


def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    path = put(tmp_path, "bread", "2.5.0")
    look = look_at(tmp_path / "firmware", {})
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [file.version for file in look_at(tmp_path / "firmware", look.seen).index.files] == ["2.5.0"]
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert look_at(tmp_path / "firmware", look.seen).index.files == ()


async def test_it_is_not_looked_at_for_each_request(tmp_path: Path) -> None:
    shelf = FirmwareShelf(tmp_path / "firmware", refresh_s=3600)
    assert (await shelf.index()).files == ()
    put(tmp_path, "bread", "2.5.0")
    assert (await shelf.index()).files == ()
    assert len((await shelf.index(refresh_s=0)).files) == 1
    shelf.close()


async def test_many_at_once_get_the_same(shelf: FirmwareShelf, tmp_path: Path) -> None:
    put(tmp_path, "bread", "2.5.0")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(shelf.index()) for _ in range(50)]
    assert {len(task.result().files) for task in tasks} == {1}


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "MAX_BOARDS", 2)
    monkeypatch.setattr(shelf_module, "MAX_FILES_A_BOARD", 3)
    monkeypatch.setattr(shelf_module, "MAX_COMPLAINTS", 2)
    for board in ("a", "b", "c"):
        for number in range(5):
            put(tmp_path, board, f"{number}.0")
    look = look_at(tmp_path / "firmware", {})
    assert [(file.board, file.version) for file in look.index.files] == [(board, f"{n}.0") for board in "ab" for n in range(3)]
    assert set(look.complaints) == {"a", "b"}


def test_too_large(tmp_path: Path) -> None:
    path = put(tmp_path, "bread", "2.5.0")
    os.truncate(path, MAX_IMAGE_BYTES + 1)
    [complaint] = look_at(tmp_path / "firmware", {}).complaints.values()
    assert str(MAX_IMAGE_BYTES) in complaint


def test_names_are_shown_safely(tmp_path: Path) -> None:
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware" / "bad\x1b[31m\nname").write_bytes(b"")
    [name] = look_at(tmp_path / "firmware", {}).complaints
    assert name == "bad?[31m?name"


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "firmware").write_bytes(b"")
    look = look_at(tmp_path / "firmware", {})
    assert look.index.files == ()
    assert "cannot be read" in look.complaints["."]


def test_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "bread", "2.5.0")
    (tmp_path / "firmware" / "other").symlink_to("bread")
    (tmp_path / "firmware" / "loop").symlink_to("loop")
    (tmp_path / "firmware" / "long").symlink_to("x" * 300)
    (tmp_path / "firmware" / "bread" / "1.0.bin").symlink_to("x" * 300)
    (tmp_path / "firmware" / "bread" / "1.1.bin").symlink_to("1.1.bin")
    look = look_at(tmp_path / "firmware", {})
    assert [file.board for file in look.index.files] == ["bread", "other"]
    assert set(look.complaints) == {"loop", "long", *(f"{board}/{n}.bin" for board in ("bread", "other") for n in ("1.0", "1.1"))}


def test_place(tmp_path: Path) -> None:
    directory, source = tmp_path / "firmware", tmp_path / "xiaozhi.bin"
    source.write_bytes(image("2.5.0"))
    assert place(directory, source, "Bread/Compact") == directory / "bread-compact" / "2.5.0.bin"
    (directory / "My Board").mkdir()
    assert place(directory, source, "my-board") == directory / "My Board" / "2.5.0.bin"
    for version in ("v2.5.0", "latest", ""):
        source.write_bytes(image(version))
        with pytest.raises(ImageError, match="cannot compare"):
            place(directory, source, "bread")
    with pytest.raises(ImageError, match="no name of a board"):
        place(directory, source, "///")
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == ["2.5.0.bin"] * 2
