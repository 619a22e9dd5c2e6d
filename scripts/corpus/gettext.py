"""Message catalogues, and documents made of translated strings."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType

from .registry import LANGS, Documents
from .workspace import Workspace, decode, read


def untag(x: str) -> str:
    """Without markup in angle brackets and without tags like [b]."""
    return re.sub(r"<[^<>]*>|\[/?\w+\]", "", x)


def read_mo(path: str) -> dict[str, str]:
    """Message (without context) to translation, of a compiled catalogue."""
    b = read(path)
    e = "<" if struct.unpack("<I", b[:4])[0] == 0x950412DE else ">"
    n, o1, o2 = struct.unpack(e + "III", b[8:20])
    out = {}
    for i in range(n):
        l1, p1 = struct.unpack(e + "II", b[o1 + 8 * i : o1 + 8 * i + 8])
        l2, p2 = struct.unpack(e + "II", b[o2 + 8 * i : o2 + 8 * i + 8])
        k, v = (
            b[p1 : p1 + l1].decode("utf-8", "replace"),
            b[p2 : p2 + l2].decode("utf-8", "replace"),
        )
        if k:
            out[k.split("\x00")[0].split("\x04")[-1]] = v.split("\x00")[0]
    return out


def gettext_docs(
    w: Workspace,
    pkg: str,
    mo_rx: str,
    files_rx: str,
    string_rx: re.Pattern[str],
    alias: Mapping[str, str] = MappingProxyType({}),
) -> Documents:
    """English strings of each data file in file order, and their translations."""
    langs = [lang for lang in LANGS if lang != "en"]
    cat: dict[str, dict[str, str]] = {lang: {} for lang in langs}
    for p, _rel, m in w.files(pkg, mo_rx):
        lang = alias.get(m[1], m[1])
        if lang in cat:
            cat[lang].update(read_mo(p))
    for p, rel, _m in w.files(pkg, files_rx):
        raw: list[str] = []
        for g in string_rx.finditer(decode(read(p))):
            x = next((y for y in g.groups() if y is not None), None)
            if x:
                raw.append(x)
        if not raw:
            continue
        raw = [
            re.sub(r"\\\n\s*", "", x).replace('\\"', '"').replace("\\n", "\n").replace("\\'", "'")
            for x in raw
        ]
        tr: dict[str, list[str]] = {lang: [] for lang in langs}
        for lang, c in cat.items():
            for x in raw:
                k = next((k for k in (x, x.strip(), " ".join(x.split())) if c.get(k)), None)
                if k and c[k] != k:
                    tr[lang].append(untag(c[k]))
        if any(tr.values()):
            yield "en", pkg, rel, [untag(x) for x in raw]
            for lang in langs:
                yield lang, pkg, rel, tr[lang]
