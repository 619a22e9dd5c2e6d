"""The rooms of the package and who imports whom, read from the code.

python -m tests.architecture        writes the drawing into docs/architecture.md
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE, PAGE = ROOT / "pd_finetune", ROOT / "docs" / "architecture.md"

# bottom to top: a room may import what stands in a lower line, and rooms of its own line
LAYERS = (
    ("__init__", "errors", "files", "cache", "schema", "runtime", "distributed", "tables"),
    ("records",),
    ("text",),
    ("targets",),
    ("pretraining",),
    ("decomposition",),
    ("toys",),
    ("goodfire",),
    ("loading",),
    ("selection",),
    ("edits",),
    ("evaluation",),
    ("finetuning",),
    ("results",),
    ("report", "plots"),
    ("cli",),
    ("sweep",),
    ("main",),
    ("run", "pretrain", "decompose", "harvest", "quality", "figures", "export")
    + ("rollouts", "on_demand", "studies"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
BASE, STAGES = LAYERS[0], LAYERS[-1]


@dataclass(frozen=True)
class Import:
    """One import, also within a function or for types alone."""

    path: Path
    line: int
    room: str
    imported: str  # room

    def __str__(self) -> str:
        place = f"{self.path.relative_to(ROOT)}:{self.line}"
        return f"{place}: {self.room} imports {self.imported}, which stands above it"


def rooms() -> list[str]:
    """Top-level packages and modules of the package."""
    folders = (path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    return sorted([*folders, *(path.stem for path in PACKAGE.glob("*.py"))])


def imports() -> Iterator[Import]:
    """Every import of one room by another."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "pd_finetune":
                names = [f"pd_finetune.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                package, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if package == "pd_finetune" and other and other != room:
                    yield Import(path, getattr(node, "lineno", 0), room, other)


def _reach(start: str, edges: set[tuple[str, str]]) -> set[str]:
    found, left = set(), [start]
    while left:
        here = left.pop()
        new = {b for a, b in edges if a == here} - found
        found |= new
        left += new
    return found


def drawing() -> str:
    """Mermaid: arrows go down to what is imported; what follows from other arrows is left out."""
    shown = {room: "stages" if room in STAGES else room for room in rooms() if room not in BASE}
    edges = {
        (shown[i.room], shown[i.imported])
        for i in imports()
        if i.room in shown and i.imported in shown and RANK[i.room] > RANK[i.imported]
    }
    edges = {(a, b) for a, b in edges if a != b}
    needed = {(a, b) for a, b in edges if b not in _reach(a, edges - {(a, b)})}
    lines = ["flowchart TD"]
    lines += [f"    {a} --> {b}" for a, b in sorted(needed)]
    return "\n".join(lines)


def page_with(drawn: str) -> str:
    """docs/architecture.md with this drawing."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"(?s)(?<=```mermaid\n).*?(?=\n```)", lambda _: drawn, text)


if __name__ == "__main__":
    PAGE.write_text(page_with(drawing()), encoding="utf-8")
    print("\n".join(str(i) for i in imports() if RANK[i.imported] > RANK[i.room]))
