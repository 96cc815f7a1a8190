"""The model store with the real package mirrors and a real HTTP server as the hub."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import providers.models
from providers.base import ModelMissing
from providers.model_table import MODELS, HubFile, Model, ModelFile, NpmMember, PackagePart
from providers.models import ModelStore

BODY = bytes(range(256)) * 5000  # 1.28 MB: more than one chunk


@dataclass
class Hub:
    """A hub of files; what is not listed is 404."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    break_off_after: int | None = None
    url: str = ""


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            body = state.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_off_after])

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.01)
        yield state
        server.shutdown()
        server.server_close()


def toy(**changes: Any) -> dict[str, Model]:
    """A table with one model of one file that only the hub has."""
    facts: dict[str, Any] = {
        "name": "toy.bin",
        "size_bytes": len(BODY),
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "upstream": HubFile("some/one", "rev1", "sub/toy.bin"),
    }
    return {"toy": Model("toy", "MIT", (ModelFile(**facts | changes),))}


def everything_under(root: Path) -> set[str]:
    """Names of all files but locks."""
    return {path.name for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_download_is_verified_kept_and_reported(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    seen: list[tuple[str, int, int]] = []
    store = ModelStore(tmp_path, hub_url=hub.url + "/", progress=lambda *facts: seen.append(facts), table=toy())
    directory = store.resolve("toy")
    assert (directory / "toy.bin").read_bytes() == BODY
    assert seen[-1] == ("toy.bin", len(BODY), len(BODY))
    assert store.resolve("toy") == directory
    assert ModelStore(tmp_path, offline=True, table=toy()).resolve("toy") == directory
    assert len(hub.asked) == 1
    assert [(line.state, line.where) for line in store.status()] == [("ready", str(directory))]


def test_wrong_sum_is_refused_and_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY[:-1] + b"!"
    with pytest.raises(ModelMissing, match="wrong SHA-256"):
        ModelStore(tmp_path, hub_url=hub.url, table=toy()).resolve("toy")
    assert everything_under(tmp_path) == set()


def test_too_large_download_is_stopped(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY + b"more"
    with pytest.raises(ModelMissing, match="larger than"):
        ModelStore(tmp_path, hub_url=hub.url, table=toy()).resolve("toy")
    assert everything_under(tmp_path) == set()


def test_broken_off_download_leaves_nothing_and_a_second_try_works(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    hub.break_off_after = 100_000
    store = ModelStore(tmp_path, hub_url=hub.url, table=toy())
    with pytest.raises(ModelMissing, match="cannot be reached"):
        store.resolve("toy")
    assert everything_under(tmp_path) == set()
    hub.break_off_after = None
    assert (store.resolve("toy") / "toy.bin").read_bytes() == BODY


def test_interruption_leaves_nothing_half_written(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY

    def interrupt(_name: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path, hub_url=hub.url, progress=interrupt, table=toy()).resolve("toy")
    assert everything_under(tmp_path) == set()


def test_remains_of_a_killed_process_are_swept(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".toy.bin.abc.part").write_bytes(b"half")
    ModelStore(tmp_path, hub_url=hub.url, table=toy()).resolve("toy")
    assert everything_under(tmp_path) == {"toy.bin", ".toy.stamp.json"}


def test_damaged_file_is_noticed_and_fetched_again(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    store = ModelStore(tmp_path, hub_url=hub.url, table=toy())
    path = store.resolve("toy") / "toy.bin"
    path.write_bytes(b"x" * len(BODY))
    assert (store.resolve("toy") / "toy.bin").read_bytes() == BODY
    path.write_bytes(b"x" * len(BODY))
    with pytest.raises(ModelMissing, match="not the right ones"):
        ModelStore(tmp_path, offline=True, table=toy()).resolve("toy")


def test_offline_asks_nobody_and_names_every_way(tmp_path: Path, hub: Hub) -> None:
    table = toy(
        parts=(PackagePart("no-such-distribution", "1.0", "a"), PackagePart("no-such-distribution", "1.0", "b")),
        npm=NpmMember("kokoro-js", "1.2.1", "package/voices/zf_xiaoxiao.bin"),
    )
    with pytest.raises(ModelMissing) as caught:
        ModelStore(tmp_path, offline=True, hub_url=hub.url, table=table).resolve("toy")
    sentence = str(caught.value)
    assert hub.asked == []
    for word in ("path of your own copy", "no-such-distribution==1.0", "npm", "models.hub_url", "models.offline"):
        assert word in sentence


def test_hub_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="cannot be reached"):
        ModelStore(tmp_path, hub_url="http://127.0.0.1:1", table=toy()).resolve("toy")
    assert not (tmp_path / "toy").exists()


def test_paths_of_the_settings_are_returned_as_they_are(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(b"own")
    store = ModelStore(tmp_path / "store")
    assert store.resolve(str(own)) == own
    with pytest.raises(ModelMissing, match=r"neither an existing path nor a known model \(silero-vad"):
        store.resolve("wisper-base")
    with pytest.raises(ModelMissing, match="there is no model called"):
        store.fetch(str(own))


def test_parallel_users_fetch_once(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    barrier = threading.Barrier(4)

    def one(_number: int) -> Path:
        barrier.wait()
        return ModelStore(tmp_path, hub_url=hub.url, table=toy()).resolve("toy")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(4)))) == 1
    assert len(hub.asked) == 1


def test_fetch_all_goes_on_after_a_failure(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    table = {"gone": Model("gone", "MIT", (ModelFile("gone.bin", 1, "0" * 64, HubFile("some/one", "rev1", "gone.bin")),))} | toy()
    outcome = ModelStore(tmp_path, hub_url=hub.url, table=table).fetch_all()
    assert isinstance(outcome["gone"], ModelMissing)
    assert outcome["toy"] == tmp_path / "toy"


def test_full_disk_and_unwritable_root_are_said_plainly(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    occupied = tmp_path / "occupied"
    occupied.write_text("a file where the store should be")
    with pytest.raises(ModelMissing, match="cannot be written"):
        ModelStore(occupied, hub_url=hub.url, table=toy()).resolve("toy")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(providers.models.os, "fsync", full)  # type: ignore[attr-defined]  # no full disk at hand
    with pytest.raises(ModelMissing, match="the disk is full: toy needs 1 MB"):
        ModelStore(tmp_path, hub_url=hub.url, table=toy()).resolve("toy")
    assert everything_under(tmp_path) == {"occupied"}


def test_npm_failure_falls_through_to_the_hub(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text("#!/bin/sh\necho 'registry says no' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    table = toy(npm=NpmMember("kokoro-js", "1.2.1", "package/voices/x.bin"))
    assert ModelStore(tmp_path / "store", hub_url=hub.url, table=table).resolve("toy")
    hub.files.clear()
    with pytest.raises(ModelMissing, match="registry says no"):
        ModelStore(tmp_path / "other", hub_url=hub.url, table=table).resolve("toy")


def test_the_table_is_sound() -> None:
    for name, model in MODELS.items():
        assert name == model.name
        assert model.licence
        for file in model.files:
            assert len(file.sha256) == 64
            assert file.size_bytes > 0
            assert "/" not in file.name
            assert file.upstream.address("https://hub.example").startswith("https://")


@pytest.mark.models
@pytest.mark.parametrize("name", ["silero-vad", "whisper-base", "smollm2-135m-instruct", "piper-en-us-joe-medium", "kokoro-82m-int8"])
def test_package_mirrors_hold_upstream_bytes(tmp_path: Path, name: str) -> None:
    store = ModelStore(tmp_path, offline=True)
    (status,) = [line for line in store.status() if line.name == name]
    assert status.state == "in package"
    directory = store.resolve(name)
    for file in MODELS[name].files:
        assert hashlib.sha256((directory / file.name).read_bytes()).hexdigest() == file.sha256
    assert store.resolve(name) == directory


@pytest.mark.models
def test_package_files_are_used_in_place_when_the_store_cannot_be_written(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("a file where the store should be")
    assert (ModelStore(occupied, offline=True).resolve("silero-vad") / "silero_vad.onnx").is_file()


@pytest.mark.models
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs the npm client")
def test_kokoro_voices_come_from_npm(tmp_path: Path) -> None:
    directory = ModelStore(tmp_path, hub_url="http://127.0.0.1:1").resolve("kokoro-voices")
    assert (directory / "zf_xiaoxiao.bin").stat().st_size == 510 * 256 * 4


def _installed(path: str) -> bytes:
    return Path(str(importlib.metadata.distribution("pytest").locate_file(path))).read_bytes()


def test_parts_in_installed_packages_are_joined(tmp_path: Path) -> None:
    parts = tuple(PackagePart("pytest", "8", path) for path in ("pytest/__init__.py", "pytest/__main__.py"))
    body = b"".join(_installed(part.path) for part in parts)
    table = toy(size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest(), parts=parts)
    store = ModelStore(tmp_path, offline=True, table=table)
    assert [line.state for line in store.status()] == ["in package"]
    assert (store.resolve("toy") / "toy.bin").read_bytes() == body
    assert [line.state for line in store.status()] == ["ready"]


def test_package_with_other_bytes_is_not_believed(tmp_path: Path, hub: Hub) -> None:
    hub.files["/some/one/resolve/rev1/sub/toy.bin"] = BODY
    in_place = toy(
        name="__init__.py", parts=(PackagePart("pytest", "8", "pytest/__init__.py"),), size_bytes=len(_installed("pytest/__init__.py"))
    )
    with pytest.raises(ModelMissing, match="wrong SHA-256"):
        ModelStore(tmp_path / "one", offline=True, table=in_place).resolve("toy")
    split = toy(parts=(PackagePart("pytest", "8", "pytest/__init__.py"), PackagePart("pytest", "8", "pytest/__main__.py")))
    assert (ModelStore(tmp_path / "two", hub_url=hub.url, table=split).resolve("toy") / "toy.bin").read_bytes() == BODY
