"""Other manuals (the language is a part of the path), English manuals, code."""

from __future__ import annotations

import html
import os
import re
import sys
import sysconfig
import zipfile

from .markup import html_paras, xml_paras
from .registry import LANGS, Documents, source
from .workspace import Workspace, decode, read

MISC = {  # package: (licence, regex of wanted paths)
    "sagemath-doc": (
        "CC-BY-SA-3.0",
        r"html/(de|es|fr|it|en)/(?!reference|prep|thematic|constructions|developer).*\.html$",
    ),
    "omegat": ("GPL-3+", r"doc/omegat/html/(de|en|es|fr|it)/.*\.html$"),
    "drgeo-doc": ("GPL-2+", r"drgeo/help/(C|en|es|fr|it|de)/.*\.html$"),
    "weechat-doc": ("GPL-3+", r"html/weechat_\w+\.(de|en|es|fr|it)\.html$"),
    "sylpheed-doc": ("GPL-2+", r"sylpheed-doc/\w+/(de|en|es|fr|it)/.*\.html$"),
    "bibletime-data": ("GPL-2", r"html/(de|en|es|fr|it)/.*\.html$"),
    "apt-doc": ("GPL-2+", r"apt-doc/\w+\.(de|en|es|fr|it)\.html/.*\.html$"),
    "claws-mail-doc": ("GPL-3+", r"manual/(de|en|es|fr|it)/claws-mail-manual\.html$"),
    "grisbi-common": ("GPL-2+", r"doc/grisbi/(fr)/.*\.html$"),
    "homebank-data": ("GPL-2+", r"help/.*\.html$"),
    "auto-multiple-choice-doc": ("GPL-2+", r"auto-multiple-choice\.(en|fr)/.*\.html$"),
    "genius-common": ("GFDL-1.1+", r"genius/help/(C|de|es|fr|it)/html/.*\.html$"),
    "solfege-doc": ("GPL-3+", r"solfege/help/(C|en|de|es|fr|it)/(?!gpl|fdl).*\.html$"),
    "dia-common": ("GPL-2+", r"dia/html/(en|de|es|fr|it)/.*\.html$"),
    "freedombox-doc-en": ("CC-BY-SA-4.0", r"manual/(en)/.*\.html$"),
    "freedombox-doc-es": ("CC-BY-SA-4.0", r"manual/(es)/.*\.html$"),
    "giac-doc": ("GPL-3+ / GFDL", r"giac/doc/(en|fr)/.*\.html$"),
    "nted-doc": ("GPL-2+", r"/(de|en|es|fr|it)/.*\.html$"),
    "lincity-ng-data": ("GPL-2+", r"help/(de|en|es|fr|it)/.*\.xml$"),
    "simutrans-data": ("Artistic", r"text/(de|en|es|fr|it)/.*\.txt$"),
    "gosa-help-de": ("GPL-2+", r"/(de)/.*\.html$"),
    "gosa-help-fr": ("GPL-2+", r"/(fr)/.*\.html$"),
    "gosa-help-en": ("GPL-2+", r"/(en)/.*\.html$"),
    "texmaker-data": ("GPL-2+", r"usermanual_(de|en|es|fr|it)\.html$"),
    "tipp10": ("GPL-2", r"help/(de|en)/.*\.html$"),
    "ubuntu-packaging-guide-html-de": ("CC-BY-SA-3.0", r"\.html$"),
    "ubuntu-packaging-guide-html-es": ("CC-BY-SA-3.0", r"\.html$"),
    "ubuntu-packaging-guide-html-fr": ("CC-BY-SA-3.0", r"\.html$"),
    "debian-edu-doc-legacy-fr": ("GPL-2+", r"\.html$"),
    "kephra": ("GPL-2 / Artistic", r"help/.*\.html$"),
    "publican": ("GFDL / CC-BY-SA", r"/(de-DE|en-US|es-ES|fr-FR|it-IT)/.*\.html$"),
}
ALIAS = {"C": "en", "de-DE": "de", "en-US": "en", "es-ES": "es", "fr-FR": "fr", "it-IT": "it"}


@source(
    "misc-manuals", "per package: GPL-2+, GPL-3+, CC-BY-SA, GFDL", pkgs=list(MISC), pkg_licence=True
)
def misc_manuals(w: Workspace) -> Documents:
    for pkg, (_lic, rx) in MISC.items():
        for p, rel, m in w.files(pkg, rx):
            lang = ALIAS.get(m[1], m[1]) if m.groups() and m[1] else pkg[-2:]
            if lang not in LANGS or re.search(
                r"genindex|search\.html|_static|_sources|LICENSE|COPYING", rel
            ):
                continue
            i = m.start(1) if m.groups() else 0
            doc = rel[:i] + "XX" + rel[m.end(1) :] if m.groups() else rel
            b = read(p)
            if p.endswith(".xml"):
                paras = xml_paras(b)
            elif p.endswith(".txt"):
                paras = re.split(r"\n\s*\n|<p>|<br>", re.sub(r"<(?!p>|br>)[^>]*>", "", decode(b)))
            else:
                paras = html_paras(b)
            base = re.sub(r"-(de|es|fr|en|it)$", "", pkg)
            yield lang, pkg, f"{base}/{doc.replace(pkg, base)}", paras


@source("scilab-doc-fr", "GPL-2+", pkgs=["scilab-doc-fr"])
def scilab_doc_fr(w: Workspace) -> Documents:
    for p, _rel, _m in w.files("scilab-doc-fr", r"\.jar$"):
        with zipfile.ZipFile(p) as z:
            for n in sorted(z.namelist()):
                if n.endswith(".html"):
                    yield "fr", "scilab-doc-fr", n, html_paras(z.read(n))


@source(
    "english-manuals",
    "PostgreSQL, PSF-2.0, GPL-2, Vim, CC-BY-SA-3.0 (anarchism FAQ: GFDL/GPL), public domain",
    pkgs=[
        "postgresql-doc-15",
        "python3.11-doc",
        "anarchism",
        "git-doc",
        "vim-doc",
        "jargon",
        "miscfiles",
    ],
    pkg_licence=True,
)
def english_manuals(w: Workspace) -> Documents:
    want = {
        "postgresql-doc-15": r"html/.*\.html$",
        "python3.11-doc": (
            r"html/(library|tutorial|howto|whatsnew|reference|faq|c-api|using|extending|"
            r"installing|distributing)/.*\.html$"
        ),
        "anarchism": r"anarchism/html/.*\.html$",
        "git-doc": r"git-doc/.*\.html$",
        "vim-doc": r"vim/html/.*\.html$",
    }
    for pkg, rx in want.items():
        for p, rel, _m in w.files(pkg, rx):
            b = read(p)
            if pkg == "vim-doc":  # one <pre>: blank lines separate paragraphs
                t = re.sub(r"<[^>]*>", "", decode(b))
                paras = re.split(r"\n\s*\n", html.unescape(t))
                paras = [x for x in paras if not re.search(r"\n[ \t]{8,}\S", x)]
            else:
                paras = html_paras(b)
            yield "en", pkg, rel, paras
    for p, rel, _m in w.files("jargon", r"\.(html|txt)(\.gz)?$"):
        yield (
            "en",
            "jargon",
            rel,
            html_paras(read(p)) if ".html" in p else re.split(r"\n\s*\n", decode(read(p))),
        )


@source("linux-doc", "GPL-2 WITH Linux-syscall-note", pkgs=["linux-doc-6.1"])
def linux_doc(w: Workspace) -> Documents:
    for p, rel, m in w.files(
        "linux-doc-6.1", r"Documentation/(?:translations/(it_IT|sp_SP)/)?(.*)\.(rst|txt)(?:\.gz)?$"
    ):
        if rel.find("translations/") >= 0 and not m[1]:
            continue
        lang = {"it_IT": "it", "sp_SP": "es"}.get(m[1], "en")
        t = decode(read(p))
        paras = []
        for x in re.split(r"\n\s*\n", t):
            if re.match(r"\s*(\.\.|\||\+-|[=~^*-]{4,}|:\w+:)", x) or re.match(r"^(\t| {4,})", x):
                continue
            x = re.sub(r":\w+:`([^`<]*)(?:<[^`]*>)?`", r"\1", x)
            x = re.sub(r"``?([^`]*)`?`_?_?", r"\1", x).replace("**", "")
            paras.append(re.sub(r"\n[=~^\"*-]{3,}\s*$", "", x))
        yield lang, "linux-doc-6.1", m[2], paras


# Tests, installed packages, tables of code points, and generated text.
NOT_LIBRARY: frozenset[str] = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib2to3",
        "pydoc_data",
        "encodings",
    }
)


@source("python-stdlib", "PSF-2.0")
def python_stdlib(w: Workspace) -> Documents:
    lib = sysconfig.get_paths()["stdlib"]
    w.versions["python-stdlib"] = sys.version.split()[0]
    for dp, dn, fn in os.walk(lib):
        dn[:] = sorted(set(dn) - NOT_LIBRARY)
        for f in sorted(fn):
            if f.endswith(".py"):
                t = decode(read(os.path.join(dp, f)))
                if len(t) > 200:
                    yield "code", "python-stdlib", os.path.relpath(os.path.join(dp, f), lib), [t]
