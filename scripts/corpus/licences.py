"""The licence of a package's documentation, from its copyright file."""

from __future__ import annotations

import re

from .workspace import Workspace, decode, read

# (pattern, short name) for copyright files that are not machine-readable.
NAMES: tuple[tuple[str, str], ...] = (
    (r"Creative Commons Attribution-?\s?Share-?Alike\s*4|CC-BY-SA-4|CC BY-SA 4", "CC-BY-SA-4.0"),
    (r"Creative Commons Attribution-?\s?Share-?Alike|CC-BY-SA", "CC-BY-SA-3.0"),
    (r"Free Documentation License|GFDL|\bFDL\b", "GFDL"),
    (r"\bLGPL|Lesser General|Library General", "LGPL"),
    (r"GPL-3|General Public License[^.]{0,80}version 3|GPL version 3", "GPL-3+"),
    (r"GPL|General Public License", "GPL-2+"),
    (r"Apache License", "Apache-2.0"),
    (r"\bMIT\b|Expat", "MIT"),
    (r"Mozilla Public", "MPL"),
    (r"Artistic", "Artistic"),
    (r"\bBSD\b|Redistribution and use", "BSD"),
    (r"[Pp]ublic [Dd]omain", "public-domain"),
)
DOCUMENTATION = re.compile(r"(\./)?(docs?|help|manual|po-doc|user-?docs?|doc-\w+)(/|$)")


def package_licence(w: Workspace, package: str) -> str | None:
    """Short licence of the documentation in a package; None where its file says nothing."""
    path = w.unpacked / package / "usr/share/doc" / package.partition("@")[0] / "copyright"
    if not path.exists():  # absent, or a link to a sister package
        return None
    text = decode(read(str(path)))
    if not re.search(r"^Format:.*copyright-format", text, re.MULTILINE):
        found = [name for pattern, name in NAMES if re.search(pattern, text)]
        return " and/or ".join(found[:2]) if found else None
    best: dict[str, str] = {}
    for stanza in re.split(r"\n[ \t]*\n", text):
        where = re.search(r"^Files:((?:.*\n?)(?:[ \t]+.*\n?)*)", stanza, re.MULTILINE)
        licence = re.search(r"^License:[ \t]*(\S.*)$", stanza, re.MULTILINE)
        if where and licence:
            patterns = where[1].split()
            name = licence[1].strip()
            if any(DOCUMENTATION.match(pattern) for pattern in patterns):
                best.setdefault("doc", name)
            if "*" in patterns:
                best.setdefault("all", name)
            best.setdefault("first", name)
    return best.get("doc") or best.get("all") or best.get("first")
