"""Manuals of Debian, desktops and applications."""

from __future__ import annotations

import re

from .markup import html_paras, xml_paras
from .packages import HELP, KDE, MANMISC
from .registry import Documents, per_lang, source
from .roff import man_paras
from .workspace import Workspace, decode, read

LO = per_lang("libreoffice-help-{}", "en-us")


@source("libreoffice-help", "MPL-2.0", pkgs=LO.values())
def libreoffice_help(w: Workspace) -> Documents:
    for lang, pkg in LO.items():
        for p, _rel, m in w.files(pkg, r"help/[^/]+/text/(.*)\.html$"):
            yield lang, pkg, m[1], html_paras(read(p), '//div[@id="DisplayArea"]')


GH = per_lang("gimp-help-{}")


@source("gimp-help", "GFDL-NIV-1.2+", pkgs=GH.values())
def gimp_help(w: Workspace) -> Documents:
    for lang, pkg in GH.items():
        for p, _rel, m in w.files(pkg, r"help/[^/]+/(.*)\.html$"):
            if re.search(r"fdl|bibliography|glossary-x|introduction-whats-new-old", m[1]):
                continue
            yield lang, pkg, m[1], html_paras(read(p))


@source("debian-handbook", "CC-BY-SA-3.0 or GPL-2+", pkgs=["debian-handbook"])
def debian_handbook(w: Workspace) -> Documents:
    loc = {"de-DE": "de", "en-US": "en", "fr-FR": "fr", "es-ES": "es", "it-IT": "it"}
    for p, _rel, m in w.files(
        "debian-handbook", r"html/(de-DE|en-US|fr-FR|es-ES|it-IT)/(.*)\.html$"
    ):
        yield loc[m[1]], "debian-handbook", m[2], html_paras(read(p))


@source("gnome-user-docs", "CC-BY-SA-3.0", pkgs=["gnome-user-docs"])
def gnome_user_docs(w: Workspace) -> Documents:
    for p, _rel, m in w.files("gnome-user-docs", r"usr/share/help/(C|de|fr|es|it)/(.*)\.page$"):
        yield {"C": "en"}.get(m[1], m[1]), "gnome-user-docs", m[2], xml_paras(read(p))


@source("installation-guide", "GPL-2+", pkgs=["installation-guide-amd64"])
def installation_guide(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "installation-guide-amd64", r"installation-guide-amd64/(de|en|fr|es|it)/(.*)\.html$"
    ):
        if re.search(r"ap[ef]s?\d*|gpl", m[2]) and "gpl" in m[2]:
            continue
        yield m[1], "installation-guide-amd64", m[2], html_paras(read(p))


DR = per_lang("debian-reference-{}")


@source("debian-reference", "GPL-2+", pkgs=DR.values())
def debian_reference(w: Workspace) -> Documents:
    for lang, pkg in DR.items():
        for p, _rel, m in w.files(pkg, r"debian-reference/((?:ch|pr|ap)\w+)\.\w+\.html$"):
            yield lang, pkg, m[1], html_paras(read(p))


MAN = ["manpages", "manpages-dev"] + [
    f"manpages-{lang}{d}@trixie" for lang in ("de", "fr", "es", "it") for d in ("", "-dev")
]


@source(
    "manpages", "GPL-3+ (translations); Linux-man-pages-copyleft, BSD, GPL-2+ (originals)", pkgs=MAN
)
def manpages(w: Workspace) -> Documents:
    for pkg in MAN:
        for p, _rel, m in w.files(pkg, r"usr/share/man/(?:(de|fr|es|it)/)?man\d\w*/([^/]+)\.gz$"):
            yield m[1] or "en", pkg, m[2], man_paras(read(p))


@source("kde-docs", "GFDL-1.2+ (some LGPL/GPL-2+)", pkgs=KDE, pkg_licence=True)
def kde_docs(w: Workspace) -> Documents:
    for pkg in KDE:
        for p, _rel, m in w.files(
            pkg, r"usr/share/doc/HTML/(de|en|fr|es|it)/(.*)/index\.cache\.bz2$"
        ):
            for part in re.split(r"(?=<FILENAME )", decode(read(p))):
                f = re.match(r'<FILENAME filename="([^"]*)">', part)
                if f and "credits" not in f[1]:
                    yield m[1], pkg, f"{m[2]}/{f[1]}", html_paras(part.encode())


@source(
    "gnome-mate-help", "GFDL-1.1+ or CC-BY-SA-3.0 (per application)", pkgs=HELP, pkg_licence=True
)
def gnome_mate_help(w: Workspace) -> Documents:
    for pkg in HELP:
        for p, _rel, m in w.files(pkg, r"usr/share/help/(C|de|fr|es|it)/(.*)\.(page|docbook|xml)$"):
            if re.search(r"legal|fdl|gpl|license|credits", m[2]):
                continue
            yield {"C": "en"}.get(m[1], m[1]), pkg, m[2], xml_paras(read(p))


@source("manpages-misc", "per package: GPL-2+, BSD, MIT", pkgs=MANMISC, pkg_licence=True)
def manpages_misc(w: Workspace) -> Documents:
    for pkg in MANMISC:
        for p, _rel, m in w.files(pkg, r"usr/share/man/(?:(de|fr|es|it)/)?man\d\w*/([^/]+)\.gz$"):
            yield m[1] or "en", pkg, "@manpages/" + m[2], man_paras(read(p))


KI = per_lang("kicad-doc-{}")


@source("kicad-doc", "GPL-2+ or CC-BY-SA-3.0", pkgs=KI.values())
def kicad_doc(w: Workspace) -> Documents:
    for lang, pkg in KI.items():
        for p, _rel, m in w.files(pkg, r"help/[^/]+/(\w+)\.html$"):
            paras = html_paras(read(p))
            yield lang, pkg, m[1], paras


LP = {
    "de": "lilypond-doc-html-de",
    "en": "lilypond-doc-html",
    "fr": "lilypond-doc-html-fr",
    "es": "lilypond-doc-html-es",
    "it": "lilypond-doc-html-it",
}


@source("lilypond-doc", "GFDL-1.3+", pkgs=LP.values())
def lilypond_doc(w: Workspace) -> Documents:
    for lang, pkg in LP.items():
        suffix = "" if lang == "en" else f"\\.{lang}"
        for p, _rel, m in w.files(
            pkg,
            rf"Documentation/((?:learning|notation|usage|extending|essay|web|changes|contributor)/[^/.]*){suffix}\.html$",
        ):
            if re.search(r"license|GNU-Free|-index$|authors|news", m[1], re.IGNORECASE):
                continue
            yield lang, pkg, m[1], html_paras(read(p))
