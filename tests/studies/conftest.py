"""A tiny decomposition with its harvest, for every study."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.decomposition import parts
from tests.studies.calling import slim


@pytest.fixture(scope="module")
def words(own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of `decompose` that make a decomposition tiny, with a start of its own."""
    root = tmp_path_factory.mktemp("tiny")
    parts.text_folder(root / "text")
    made = parts.overrides(parts.model_folder(root / "target"), root / "text")
    parts.run_stage("decompose", [*made, f"out={root / 'start'}", "recipe.steps=2"])
    return [*made, f"start_from={root / 'start'}", "log_steps=1", "recipe.steps=10"]


@pytest.fixture
def shared(words: list[str]) -> list[str]:
    """Those of the words that every stage knows."""
    return [w for w in words if w.startswith(("model", "languages", "device", "threads"))]


@pytest.fixture
def start(words: list[str], shared: list[str]) -> Path:
    """The start of `words`, with a harvest beside it."""
    folder = Path(next(w for w in words if w.startswith("start_from=")).split("=", 1)[1])
    if not (folder / "harvest").is_dir():
        given = ["decomposition=folder", f"decomposition.folder={folder}", "rows_per_language=4"]
        parts.run_stage("harvest", [*shared, *given])
    return folder


@pytest.fixture
def slimmed(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A whole decomposition with its harvest, and its slim form."""
    assert slim(monkeypatch, start, tmp_path / "slim") == 0
    return start, tmp_path / "slim"
