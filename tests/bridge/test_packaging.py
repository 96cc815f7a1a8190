"""What set-up installs is pinned, comes from nowhere in particular, and covers what the project asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")


def locked(name: str) -> set[str]:
    return {normal(found) for found in re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)}


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(found[0]) for text in requirements if (found := re.match(r"[A-Za-z0-9_.-]+", text))}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^-", text, flags=re.MULTILINE)
    for block in re.findall(r"^\S+==.*(?:\n[ \t]+.*)*", text, flags=re.MULTILINE):
        assert "--hash=sha256:" in block, block


def test_locks_cover_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = names(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted |= names(extra)
    assert wanted <= locked("requirements.lock"), "run `make lock`"
    assert names(project["dependency-groups"]["dev"]) <= locked("requirements-dev.lock"), "run `make lock`"
    assert names(project["dependency-groups"]["build"]) <= locked("requirements-build.lock"), "run `make lock`"
    assert names(project["build-system"]["requires"]) <= locked("requirements-build.lock")
    assert not {"torch", "llama-cpp-python", "llm"} & locked("requirements.lock"), "metadata of the weights packages pulled these in"


def test_the_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == set(project["tool"]["importlinter"]["root_packages"])
    for package in packages:
        assert (ROOT / package / "__init__.py").is_file()
