"""docs/extending.md is done as it says: files are written, commands and scripts run, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(
    (title, text) for title, text in re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE)
)


def blocks(section: str) -> list[tuple[str, str, str]]:
    """Language, file name or nothing, and content of every code block."""
    found = re.findall(r"(?ms)^```(\w+)(?: (\S+))?\n(.*?)^```$", SECTIONS[section])
    return [(language, name, content) for language, name, content in found]


def done(command: list[str], folder: Path, text: str = "") -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples_run(section: str, tmp_path: Path) -> None:
    assert blocks(section)
    for language, name, content in blocks(section):
        if name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        elif language == "bash":
            done(["bash", "-e", "-s"], tmp_path, content)
        else:
            assert language == "python"
            done([sys.executable, "-"], tmp_path, content)
