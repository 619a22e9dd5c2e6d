"""Labels of subcomponents from wherever they are: `interp.db`, JSON, CSV, or the published page.

A place is one of
- `interp.db`, its folder, or a folder of `a-*` folders (the latest is read);
- a `.json` file {key: label}, or {key: {"label": ..., ...}} as in the page's component bins;
- a `.csv` or `.tsv` file with columns key (or component_key) and label, or two unnamed columns;
- a folder or web address of the page's static files: `labels.json`, `components/*_bin*.json`.
Keys are read in either spelling, `h.3.attn.v_proj:513` and `3.attn.v:513`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError
from pd_finetune.goodfire.database import columns, latest_database, reading
from pd_finetune.targets.keys import SubcomponentKey

_KEY_COLUMNS = ("key", "component_key", "component", "canonical")
_WHAT = "an interp.db, a JSON or CSV file of {key: label}, or a folder with one of them"


@dataclass(frozen=True)
class Label:
    """What a subcomponent is about, in somebody's or some model's words.

    Args:
        confidence: low, medium or high; None where the source keeps none.
        reasoning: why, where it was kept.
    """

    text: str
    confidence: str | None = None
    reasoning: str | None = None


def read_labels(place: str) -> dict[SubcomponentKey, Label]:
    """All labels that a place holds; empty ones are left out.

    Raises:
        UserError: there is nothing of the kind there, or it is damaged or cannot be fetched.
    """
    if place.startswith(("http://", "https://")):
        from pd_finetune.goodfire.download import fetch_labels

        is_file = place.endswith((".json", ".csv", ".tsv"))
        path = fetch_labels(place if is_file else f"{place.rstrip('/')}/labels.json")
    else:
        path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"decomposition.labels={place}: there is no such file; give {_WHAT}")
    labels: dict[SubcomponentKey, Label] = {}
    for text, label in _pairs(path):
        key = SubcomponentKey.parse(text)
        if labels.setdefault(key, label) != label:
            raise UserError(f"'{path}' labels {key} twice, and not alike")
    kept = {key: label for key, label in labels.items() if label.text}
    if not kept:
        raise UserError(f"decomposition.labels={place} holds no label; give {_WHAT}")
    return kept


def labels_sha256(labels: Mapping[SubcomponentKey, Label]) -> str:
    """Hex SHA-256 of keys and texts, whatever order and kind of file they came in."""
    pairs = [[str(key), labels[key].text] for key in sorted(labels)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _pairs(path: Path) -> Iterator[tuple[str, Label]]:
    database = latest_database(path, "interp.db", "a")
    if database is not None:
        yield from _from_database(database)
    elif path.is_dir():
        bins = sorted([*path.glob("components/*_bin*.json"), *path.glob("*_bin*.json")])
        for file in list(path.glob("labels.json")) or bins:
            yield from _from_json(file)
    elif path.suffix in (".csv", ".tsv"):
        yield from _from_table(path)
    else:
        yield from _from_json(path)


def _from_database(path: Path) -> Iterator[tuple[str, Label]]:
    with reading(path) as connection:
        present = columns(connection, "interpretations")
        if not {"component_key", "label"} <= set(present):
            raise UserError(f"'{path}' has no table interpretations with keys and labels")
        # later code dropped `confidence`
        names = [n for n in ("component_key", "label", "confidence", "reasoning") if n in present]
        for row in connection.execute(f"SELECT {', '.join(names)} FROM interpretations"):
            yield str(row["component_key"]), _label(dict(zip(row.keys(), row, strict=True)), path)


def _from_json(path: Path) -> Iterator[tuple[str, Label]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read labels '{path}': {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"labels '{path}': an object {{key: label}} is needed")
    for key, value in values.items():
        yield key, _label(value if isinstance(value, dict) else {"label": value}, path)


def _from_table(path: Path) -> Iterator[tuple[str, Label]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        between = "\t" if path.suffix == ".tsv" else ","
        rows = [row for row in csv.reader(lines, delimiter=between) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read labels '{path}': {error}") from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    key_name = next((name for name in _KEY_COLUMNS if name in names), None)
    if key_name is not None and "label" in names:
        rows = rows[1:]
    else:
        key_name, names = "key", ["key", "label"]
    for row in rows:
        if len(row) < len(names) or (names == ["key", "label"] and len(row) != 2):
            raise UserError(f"labels '{path}': '{','.join(row)}' is no row of {', '.join(names)}")
        values = dict(zip(names, row, strict=False))
        yield values[key_name], _label(values, path)


def _label(values: dict[str, Any], path: Path) -> Label:
    text = values.get("label")
    if text is not None and not isinstance(text, str):
        raise UserError(f"labels '{path}': a label is text, not {text!r}")
    return Label(
        (text or "").strip(), values.get("confidence") or None, values.get("reasoning") or None
    )
