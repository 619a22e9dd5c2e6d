"""Documents of all sources to clean, split, deduplicated parquet files."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .clean import LETTER, WORD, clean, is_prose
from .language import LanguageIdentifier
from .licences import package_licence
from .registry import CODE, LANGS, SOURCES, Source
from .workspace import BuildError, Workspace

COLUMNS: tuple[str, ...] = ("text", "source", "version", "licence", "doc", "split")
# Held-out documents are deduplicated first: what they share with train goes from train.
ORDER: dict[str, int] = {"test": 0, "validation": 1, "ood": 2, "train": 3}
BOILERPLATE_DOCUMENTS: int = 8
TEMPLATE_REPEATS: int = 10

Stats = dict[tuple[str, str], collections.Counter[str]]


@dataclass
class Entry:
    """One document with the paragraphs that are left of it."""

    source: str
    group: str
    doc: str
    paras: list[str]
    split: str
    licence: str


def key_of(paragraph: str) -> bytes:
    """The same for paragraphs that differ in nothing but case, digits and punctuation."""
    letters = "".join(LETTER.findall(paragraph.lower()))
    return hashlib.blake2b(letters.encode(), digest_size=8).digest()


def doc_key(group: str, doc: str) -> str:
    """The language-independent name of a document; "@other/..." shares the names of another."""
    return doc[1:] if doc.startswith("@") else f"{group}/{doc}"


def split_of(group: str, doc: str) -> str:
    """The split: a hash of the document's name, so that all translations share it."""
    if SOURCES[group].ood:
        return "ood"
    h = int.from_bytes(hashlib.sha256(doc_key(group, doc).encode()).digest()[:4], "big") % 100
    return "test" if h < 5 else "validation" if h < 10 else "train"


def keep_paragraphs(
    paras: list[str],
    lang: str,
    source: Source,
    lid: LanguageIdentifier,
    st: collections.Counter[str],
) -> list[str]:
    """The paragraphs that are prose in the document's language; code stays as it is."""
    if lang == CODE:
        return paras
    keep = []
    for raw in paras:
        st["paras_in"] += 1
        p = clean(raw)
        if not is_prose(p, source.min_chars):
            st["drop_form"] += 1
        elif not (lid.not_other(p, lang) if source.trusted else lid.ok(p, lang)):
            st["drop_lang"] += 1
        else:
            keep.append(p)
    return keep


def collect(
    w: Workspace, names: list[str], packages: dict[str, dict[str, str]], stats: Stats
) -> dict[str, list[Entry]]:
    """Read the sources; `packages` and `stats` are filled on the way."""
    start = time.monotonic()
    print("loading the language identifiers", flush=True)
    lid = LanguageIdentifier()
    docs: dict[str, list[Entry]] = {lang: [] for lang in (*LANGS, CODE)}
    for i, name in enumerate(names, 1):
        print(f"[{i}/{len(names)}] {name}", flush=True)
        source = SOURCES[name]
        w.fetch(source.packages)
        number = 0
        for lang, package, doc, paras in source.extract(w):
            st = stats[name, lang]
            st["docs_in"] += 1
            keep = keep_paragraphs(paras, lang, source, lid, st)
            if not keep:
                continue
            if package not in packages:
                stated = package_licence(w, package) if source.pkg_licence else None
                packages[package] = {
                    "version": w.version(package),
                    "licence": stated or source.licence,
                }
            docs[lang].append(
                Entry(
                    package,
                    name,
                    doc_key(name, doc),
                    keep,
                    split_of(name, doc),
                    packages[package]["licence"],
                )
            )
            number += 1
        print(f"  {number} documents, {time.monotonic() - start:.0f} s", flush=True)
    return docs


def deduplicate(docs: list[Entry], lang: str, stats: Stats) -> None:
    """Drop repeated paragraphs of one language, in place.

    Text that stands in many documents is boilerplate and goes everywhere; of other repeats, and of
    paragraphs that share over half of their 8-word shingles with text before, the first stays."""
    frequency = collections.Counter(k for d in docs for k in {key_of(p) for p in d.paras})
    seen: set[bytes] = set()
    shingles: set[int] = set()
    prefix: collections.Counter[tuple[str, tuple[str, ...]]] = collections.Counter()
    for i in sorted(range(len(docs)), key=lambda i: (ORDER[docs[i].split], i)):
        d, keep = docs[i], []
        st = stats[d.group, lang]
        for p in d.paras:
            k = key_of(p)
            if frequency[k] >= BOILERPLATE_DOCUMENTS and lang != CODE:
                st["drop_boiler"] += 1
                continue
            if k in seen:
                st["drop_dup"] += 1
                continue
            if lang != CODE:
                words = WORD.findall(p.lower())
                own = [hash(tuple(words[j : j + 8])) for j in range(max(1, len(words) - 7))]
                if sum(x in shingles for x in own) > 0.5 * len(own):
                    st["drop_near"] += 1
                    continue
                if len(words) >= 8:
                    prefix[d.group, tuple(words[:8])] += 1
                    if prefix[d.group, tuple(words[:8])] > TEMPLATE_REPEATS:
                        st["drop_template"] += 1
                        continue
                shingles.update(own)
            seen.add(k)
            keep.append(p)
        d.paras = keep


def write(docs: list[Entry], packages: dict[str, dict[str, str]], path: Path) -> dict[str, int]:
    """Write one language; return the bytes of text in each split."""
    rows: list[tuple[str, ...]] = []
    sizes: collections.Counter[str] = collections.Counter()
    for d in docs:
        if d.paras:
            text = "\n\n".join(d.paras)
            rows.append((text, d.source, packages[d.source]["version"], d.licence, d.doc, d.split))
            sizes[d.split] += len(text.encode())
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    table = pa.table(
        {name: pa.array(values, pa.string()) for name, values in zip(COLUMNS, columns, strict=True)}
    )
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)
    return dict(sizes)


def build(w: Workspace, out: Path, names: list[str]) -> None:
    """Build the corpus of the named sources."""
    out.mkdir(parents=True, exist_ok=True)
    packages: dict[str, dict[str, str]] = {}
    stats: Stats = collections.defaultdict(collections.Counter)
    docs = collect(w, names, packages, stats)
    if not any(docs.values()):
        raise BuildError("no document was found: could the packages be downloaded?")
    languages: dict[str, dict[str, int]] = {}
    for lang, entries in docs.items():
        if not entries:
            continue
        deduplicate(entries, lang, stats)
        languages[lang] = write(entries, packages, out / f"{lang}.parquet")
        sizes = " ".join(f"{s} {n / 1e6:.2f} MB" for s, n in sorted(languages[lang].items()))
        print(f"{lang}: {sizes}", flush=True)
    counts: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    for (name, lang), st in stats.items():
        counts[name][lang] = dict(st)
    manifest = {
        "bytes": languages,
        "packages": packages,
        "not_available": w.missing,
        "licences": {name: SOURCES[name].licence for name in names},
        "counts": counts,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (out / "manifest.json").write_text(text, encoding="utf-8")
