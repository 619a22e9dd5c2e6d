#!/usr/bin/env python3
"""Select the compact text that ships with the package from the full corpus.

    python scripts/build_embedded_text.py --corpus CORPUS_FOLDER --out pd_finetune/embedded/text

Only sources that are clean to redistribute are taken: the Debian handbook, the GNOME user
documentation and the LibreOffice help, the texts of The Battle for Wesnoth (out of domain)
and the Python standard library (code). Licences and attribution: NOTICE.md beside the output.

Documents are chosen, not languages: a document that is chosen is taken in every language that
has it, so the languages stay parallel. Every row keeps the split it has in the full corpus,
because the embedded model was trained on the full corpus's train split. The held-out parts of
the three manuals are small and are taken whole; train, ood and code are filled in the order of
a hash of the document name until the smallest language has reached its size. The same corpus
gives the same bytes (with the same version of pyarrow).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES: tuple[str, ...] = ("de", "en", "fr", "es", "it")
CODE: str = "code"
COLUMNS: tuple[str, ...] = ("text", "source", "version", "licence", "doc", "split")
SPLITS: tuple[str, ...] = ("train", "validation", "test", "ood")

# The first part of a document name is the group it comes from. In train, the handbook and the
# GNOME pages come first (running prose, present in all languages); LibreOffice fills the rest.
MANUALS: tuple[str, ...] = ("debian-handbook", "gnome-user-docs", "libreoffice-help")
OOD: str = "wesnoth"
STDLIB: str = "python-stdlib"

# Bytes of text the smallest language should reach. None: all there is.
SIZES: dict[str, int | None] = {
    "train": 1_600_000,
    "validation": None,
    "test": None,
    "ood": 400_000,
}
CODE_SIZES: dict[str, int | None] = {
    "train": 1_800_000,
    "validation": 300_000,
    "test": 350_000,
}

# Library files that carry the notice of somebody else than the PSF have terms of their own
# (ISC, MIT, historical notices), which NOTICE.md would have to list one by one: left out.
COPYRIGHT_LINE = re.compile(
    r"copyright\b.*\d{4}|\(c\)\s*(copyright\s*)?\d{4}|©|copyright by|"
    r"permission (to use|is hereby granted)|redistribution and use|"
    r"apache license|copyright (cnri|disney)|spdx-",
    re.IGNORECASE,
)
PSF_LINE = re.compile(r"python software foundation|python\.org|beopen|\bPSF\b", re.IGNORECASE)


class Row(NamedTuple):
    """One document of the full corpus."""

    text: str
    source: str
    version: str
    licence: str
    doc: str
    split: str

    @property
    def group(self) -> str:
        return self.doc.split("/", 1)[0]

    @property
    def size(self) -> int:
        return len(self.text.encode())


def read_rows(path: Path) -> list[Row]:
    """All rows of one language, in file order."""
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except FileNotFoundError:
        sys.exit(f"error: {path} is missing: --corpus must name the folder of the full corpus")
    return [Row(*values) for values in zip(*(table[c].to_pylist() for c in COLUMNS), strict=True)]


def order_key(doc: str) -> str:
    """A stable order that has nothing to do with what a document is about."""
    return hashlib.sha256(f"embedded/{doc}".encode()).hexdigest()


def choose(sizes: dict[str, dict[str, int]], docs: Iterable[str], wanted: int | None) -> list[str]:
    """The first of `docs` (in the given order) until every language has `wanted` bytes.

    `sizes` holds, per language, the bytes of each document it has."""
    chosen: list[str] = []
    reached = dict.fromkeys(sizes, 0)
    for doc in docs:
        if wanted is not None and min(reached.values()) >= wanted:
            break
        chosen.append(doc)
        for language, table in sizes.items():
            reached[language] += table.get(doc, 0)
    return chosen


def select(corpus: dict[str, list[Row]], wanted: dict[str, int | None]) -> dict[str, list[Row]]:
    """Choose documents for each split; return the rows of each language, sorted."""
    groups = [*MANUALS, OOD, STDLIB]
    chosen: set[tuple[str, str]] = set()
    for split, size in wanted.items():
        sizes: dict[str, dict[str, int]] = {language: defaultdict(int) for language in corpus}
        for language, rows in corpus.items():
            for row in rows:
                if row.split == split:
                    sizes[language][row.doc] += row.size
        docs = {doc for table in sizes.values() for doc in table}
        ordered = sorted(
            docs,
            key=lambda d: (
                # train: handbook and GNOME whole and first; elsewhere one order over everything
                min(groups.index(d.split("/", 1)[0]), 2),
                order_key(d),
            ),
        )
        chosen.update((split, doc) for doc in choose(sizes, ordered, size))
    return {
        language: sorted(
            (row for row in rows if (row.split, row.doc) in chosen),
            key=lambda row: (SPLITS.index(row.split), row.doc, row.source, row.text),
        )
        for language, rows in corpus.items()
    }


def eligible(row: Row) -> bool:
    """Is this row from a source that may ship, in the split it belongs to?"""
    if row.group in MANUALS:
        return row.split != "ood"
    if row.group == OOD:
        return row.split == "ood"
    if row.group == STDLIB:
        return not any(
            COPYRIGHT_LINE.search(line) and not PSF_LINE.search(line)
            for line in row.text.splitlines()
        )
    return False


def write_parquet(rows: list[Row], path: Path) -> str:
    """Write the rows and return the SHA-256 of the file."""
    table = pa.table(
        {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in COLUMNS}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd", compression_level=19, row_group_size=1 << 20)
    part.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(rows: Iterable[Row]) -> dict[str, int]:
    """Documents, characters and bytes of some rows."""
    total = {"documents": 0, "characters": 0, "bytes": 0}
    for row in rows:
        total["documents"] += 1
        total["characters"] += len(row.text)
        total["bytes"] += row.size
    return total


def describe(rows: list[Row], available: list[Row]) -> dict[str, object]:
    """The manifest entry of one language."""
    splits: dict[str, object] = {}
    for split in SPLITS:
        here = [row for row in rows if row.split == split]
        if here:
            groups = sorted({row.group for row in here})
            splits[split] = count(here) | {
                "sources": {g: count(r for r in here if r.group == g) for g in groups}
            }
    used: dict[str, dict[str, int]] = {}
    for group in sorted({row.group for row in rows}):
        used[group] = {
            "rows_used": sum(row.group == group for row in rows),
            "rows_in_full_corpus": sum(row.group == group for row in available),
        }
    packages = {row.source: {"version": row.version, "licence": row.licence} for row in rows}
    return {"splits": splits, "sources": used, "packages": dict(sorted(packages.items()))}


def parallel_documents(chosen: dict[str, list[Row]]) -> dict[str, dict[str, int]]:
    """Per split: documents in any language, and documents that all of them have."""
    result: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        sets = [{row.doc for row in rows if row.split == split} for rows in chosen.values()]
        result[split] = {
            "any_language": len(set.union(*sets)),
            "all_languages": len(set.intersection(*sets)),
        }
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Select the compact text that ships with the package from the full corpus."
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="folder of the full corpus ({de,en,fr,es,it,code}.parquet)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the parquet files and manifest.json"
    )
    arguments = parser.parse_args(argv)

    available = {
        language: read_rows(arguments.corpus / f"{language}.parquet")
        for language in (*LANGUAGES, CODE)
    }
    allowed = {
        language: [row for row in rows if eligible(row)] for language, rows in available.items()
    }
    prose = select({language: allowed[language] for language in LANGUAGES}, SIZES)
    chosen = prose | select({CODE: allowed[CODE]}, CODE_SIZES)

    manifest: dict[str, object] = {
        "wanted_bytes_of_smallest_language": SIZES,
        "wanted_bytes_of_code": CODE_SIZES,
        "wanted_note": "null means: everything the three manuals have in that split",
        "parallel_documents": parallel_documents(prose),
        "languages": {},
    }
    languages: dict[str, object] = {}
    for language, rows in chosen.items():
        digest = write_parquet(rows, arguments.out / f"{language}.parquet")
        entry = describe(rows, available[language])
        languages[language] = {"file": f"{language}.parquet", "sha256": digest} | entry
        sizes = {
            split: count(row for row in rows if row.split == split)["bytes"] for split in SPLITS
        }
        print(language, " ".join(f"{split} {size / 1000:.0f} KB" for split, size in sizes.items()))
    manifest["languages"] = languages
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (arguments.out / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
