"""Studies, and a script that they go with, through their real mains in this process."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from pd_finetune.main import stage_main
from tests.composed import schema


def call(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """Exit code of a study's main for these words."""
    module = importlib.import_module(f"pd_finetune.studies.{name}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *words])
        try:
            stage_main(name, schema(name), module.run)
        except SystemExit as exit_:
            return exit_.code
    return 0


def listed(key: str, values: list[str] | list[Path]) -> str:
    """`key=['value', ...]`."""
    return f"{key}=[{','.join(repr(str(value)) for value in values)}]"


def slim(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path) -> int | str | None:
    """Exit code of `scripts/slim_decomposition.py`."""
    path = Path(__file__).parents[2] / "scripts" / "slim_decomposition.py"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [path.name, str(folder), "--out", str(out)])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as exit_:
            return exit_.code
    return 0
