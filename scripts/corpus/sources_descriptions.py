"""Debian package descriptions (DDTP translations): short prose about every package."""

from __future__ import annotations

import collections
import re

from .registry import LANGS, Documents, source
from .workspace import Workspace


@source(
    "package-descriptions", "GPL-2+ (DDTP; descriptions under each package's licence)", lists=True
)
def package_descriptions(w: Workspace) -> Documents:
    w.update_lists()
    src: dict[str, str] = {}  # binary package: its source package, the document
    for suite in ("trixie", "bookworm"):
        for st in w.apt_index(f"{suite}_main_binary-amd64_Packages").split("\n\n"):
            m = re.search(r"^Package: (\S+)", st)
            if m and m[1] not in src:
                q = re.search(r"^Source: (\S+)", st, re.MULTILINE)
                src[m[1]] = q[1] if q else m[1]
    w.versions["ddtp-translations"] = "bookworm+trixie"
    for lang in LANGS:
        done: set[str] = set()
        docs: dict[str, list[str]] = collections.defaultdict(list)
        for suite in ("trixie", "bookworm"):
            here: set[str] = set()
            for st in w.apt_index(f"{suite}_main_i18n_Translation-{lang}").split("\n\n"):
                m = re.search(r"^Package: (\S+)", st, re.MULTILINE)
                d = re.search(rf"^Description-{lang}: (.*(?:\n .*)*)", st, re.MULTILINE)
                if not m or not d or m[1] in done:
                    continue
                pkg = m[1]
                here.add(pkg)
                if re.match(r"librust-|golang-.*-dev$|libghc-|.*-dbg$", pkg):
                    continue
                body = d[1].split("\n")[1:]
                paras: list[str] = []
                cur: list[str] = []
                for line in body:
                    if line.strip() == "." or not line.strip():
                        paras.append(" ".join(cur))
                        cur = []
                    elif line.startswith("  ") and not re.match(r"  +[-*+o•] ", line) and not cur:
                        continue  # verbatim block
                    elif re.match(r" +[-*+o•] ", line):
                        paras.append(" ".join(cur))
                        cur = [re.sub(r"^ +[-*+o•] ", "", line)]
                    else:
                        cur.append(line.strip())
                paras.append(" ".join(cur))
                docs[src.get(pkg, pkg)] += [x for x in paras if x]
            done |= here
        for k, paras in sorted(docs.items()):
            yield lang, "ddtp-translations", k, paras
