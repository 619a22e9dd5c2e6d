"""Manuals in HTML, LyX or SVG with a package or a folder per language."""

from __future__ import annotations

import os
import re

from lxml import etree

from .markup import html_paras, local_name
from .registry import LANGS, Documents, source
from .workspace import Workspace, decode, read


@source("debian-edu-doc", "GPL-2+", pkgs=[f"debian-edu-doc-{lang}" for lang in LANGS])
def debian_edu_doc(w: Workspace) -> Documents:
    for lang in LANGS:
        for p, _rel, m in w.files(
            f"debian-edu-doc-{lang}",
            r"(debian-edu-bookworm-manual|.*audacity.*|.*rosegarden.*|.*itil.*)\.html$",
        ):
            yield lang, f"debian-edu-doc-{lang}", os.path.basename(m[1]), html_paras(read(p))


DEVREF = ["developers-reference"] + [f"developers-reference-{lang}" for lang in ("de", "fr", "it")]


@source("developers-reference", "GPL-2+", pkgs=DEVREF)
def developers_reference(w: Workspace) -> Documents:
    for pkg in DEVREF:
        for p, _rel, m in w.files(pkg, r"developers-reference/(?:(de|fr|it)/)?([\w-]+)\.html$"):
            if m[2] not in ("genindex", "search", "index"):
                yield m[1] or "en", pkg, m[2], html_paras(read(p))


FAQ = ["debian-faq"] + [f"debian-faq-{lang}" for lang in ("de", "fr", "it")]


@source("debian-faq", "LicenseRef-verbatim-copyleft (GNU-manual style permission notice)", pkgs=FAQ)
def debian_faq(w: Workspace) -> Documents:
    for pkg in FAQ:
        for p, _rel, m in w.files(pkg, r"debian/FAQ/(?:\w+/)?([\w-]+?)(?:\.(de|fr|it|en))?\.html$"):
            yield m[2] or "en", pkg, m[1], html_paras(read(p))


MAINT = ["maint-guide"] + [f"maint-guide-{lang}" for lang in ("de", "es", "fr", "it")]


@source("maint-guide", "GPL-2+", pkgs=MAINT)
def maint_guide(w: Workspace) -> Documents:
    for pkg in MAINT:
        for p, _rel, m in w.files(pkg, r"html/([\w-]+)\.(de|en|es|fr|it)\.html$"):
            yield m[2], pkg, m[1], html_paras(read(p))


@source("debmake-doc", "MIT", pkgs=["debmake-doc"])
def debmake_doc(w: Workspace) -> Documents:
    for p, _rel, m in w.files("debmake-doc", r"html/([\w-]+)\.(de|en)\.html$"):
        yield m[2], "debmake-doc", m[1], html_paras(read(p))


APTITUDE = [f"aptitude-doc-{lang}" for lang in ("en", "es", "fr", "it")]


@source("aptitude-doc", "GPL-2+", pkgs=APTITUDE)
def aptitude_doc(w: Workspace) -> Documents:
    for pkg in APTITUDE:
        for p, _rel, m in w.files(pkg, r"html/(en|es|fr|it)/([\w-]+)\.html$"):
            yield m[1], pkg, m[2], html_paras(read(p))


@source("harden-doc", "GPL-2+", pkgs=["harden-doc"])
def harden_doc(w: Workspace) -> Documents:
    for p, _rel, m in w.files("harden-doc", r"html/(de-DE|en-US|fr-FR|es-ES|it-IT)/(.*)\.html$"):
        yield m[1][:2], "harden-doc", m[2], html_paras(read(p))


@source("debian-history", "GPL-2+", pkgs=["debian-history"])
def debian_history(w: Workspace) -> Documents:
    for p, _rel, m in w.files("debian-history", r"([\w-]+)\.(de|en|es|fr|it)\.html$"):
        yield m[2], "debian-history", m[1], html_paras(read(p))


@source("debian-policy", "GPL-2+", pkgs=["debian-policy"])
def debian_policy(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "debian-policy", r"debian-policy/(policy\.html/[\w-]+|[\w-]+)\.html$"
    ):
        yield "en", "debian-policy", m[1], html_paras(read(p))


@source("live-manual", "GPL-3+", pkgs=["live-manual-html"])
def live_manual(w: Workspace) -> Documents:
    for p, _rel, m in w.files("live-manual-html", r"live-manual/([\w-]+)\.(de|en|es|fr|it)\.html$"):
        if m[1] not in ("toc", "concordance", "live-manual"):
            yield m[2], "live-manual-html", m[1], html_paras(read(p))


@source("mplayer-doc", "GPL-2", pkgs=["mplayer-doc"])
def mplayer_doc(w: Workspace) -> Documents:
    for p, _rel, m in w.files("mplayer-doc", r"mplayer/HTML/(de|en|es|fr|it)/([\w-]+)\.html$"):
        yield m[1], "mplayer-doc", m[2], html_paras(read(p))


@source("apache2-doc", "Apache-2.0", pkgs=["apache2-doc"])
def apache2_doc(w: Workspace) -> Documents:
    for p, _rel, m in w.files("apache2-doc", r"manual/(de|en|es|fr)/(.*)\.html$"):
        yield m[1], "apache2-doc", m[2], html_paras(read(p))


def lyx_chapters(text: str) -> list[list[str]]:
    """Paragraphs of a LyX file, cut at chapters."""
    chapters: list[list[str]] = []
    cur: list[str] = []
    buf: list[str] = []
    stack: list[tuple[str, str]] = []  # layouts and insets
    for line in text.split("\\begin_body", 1)[-1].split("\n"):
        if line.startswith("\\begin_layout"):
            kind = line.split(None, 1)[1] if " " in line else ""
            stack.append(("layout", kind))
            if kind.startswith(("Chapter", "Part")) and not any(k == "inset" for k, _ in stack):
                chapters.append(cur)
                cur = []
        elif line.startswith("\\begin_inset"):
            stack.append(("inset", line[13:]))
        elif line.startswith("\\end_layout"):
            if stack:
                _, kind = stack.pop()
                if not any(k == "inset" for k, _ in stack):
                    if buf and not kind.startswith(("LyX-Code", "Verbatim")):
                        cur.append("".join(buf))
                    buf = []
        elif line.startswith("\\end_inset"):
            if stack:
                stack.pop()
        elif line.startswith("\\SpecialChar "):
            if not any(k == "inset" for k, _ in stack):
                buf.append(
                    {
                        "LyX": "LyX",
                        "LaTeX": "LaTeX",
                        "TeX": "TeX",
                        "LaTeX2e": "LaTeX2e",
                        "ldots": "…",
                        "endofsentence": ".",
                        "menuseparator": "→",
                        "nobreakdash": "-",
                        "breakableslash": "/",
                    }.get(line.split()[1], "")
                )
        elif line.startswith("\\"):
            continue
        elif (
            stack
            and not any(k == "inset" and not v.startswith("Quotes") for k, v in stack)
            and stack[-1][0] == "layout"
        ):
            m = re.sub(r"\\SpecialChar (\w+)\s?", lambda x: {"ldots": "…"}.get(x[1], x[1]), line)
            buf.append(m)
    chapters.append(cur)
    return chapters


@source("lyx-doc", "GPL-2+", pkgs=["lyx-common"])
def lyx_doc(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "lyx-common", r"share/lyx/(?:doc|examples)/(?:(de|es|fr|it)/)?(\w+)\.lyx$"
    ):
        if m[2] in ("LFUNs", "LaTeXConfig", "Shortcuts"):
            continue
        t = decode(read(p))
        t = re.sub(r"\\begin_inset Quotes \w+\n\\end_inset\n", '"', t)
        t = re.sub(r"\\begin_inset space[^\n]*\n\\end_inset\n", " ", t)
        t = re.sub(
            r"([^\n])\\SpecialChar (\w+)\n",
            lambda x: (
                x[1]
                + {
                    "ldots": "…",
                    "endofsentence": ".",
                    "menuseparator": "→",
                    "nobreakdash": "-",
                }.get(x[2], x[2])
                + "\n"
            ),
            t,
        )
        for i, paras in enumerate(lyx_chapters(t)):
            yield m[1] or "en", "lyx-common", f"{m[2]}/{i}", paras


@source("inkscape-tutorials", "GPL-2+", pkgs=["inkscape-tutorials"])
def inkscape_tutorials(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "inkscape-tutorials", r"tutorials/tutorial-([\w-]+?)(?:\.(de|es|fr|it))?\.svg$"
    ):
        root = etree.fromstring(read(p), etree.XMLParser(recover=True, huge_tree=True))
        paras = []
        for el in root.iter():
            t = local_name(el)
            if t == "flowpara" or t == "text":
                paras.append("".join(el.itertext()))
        yield m[2] or "en", "inkscape-tutorials", m[1], paras
