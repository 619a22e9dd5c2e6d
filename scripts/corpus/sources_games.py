"""Games: story, dialogue and encyclopaedia texts, in the order of the game files."""

from __future__ import annotations

import collections
import os
import re

import polib

from .gettext import gettext_docs, read_mo
from .markup import html_paras
from .registry import LANGS, Documents, source
from .workspace import Workspace, decode, read

TAG = re.compile(r"<[^<>]*>")
FO = ["fortunes", "fortunes-min", "fortunes-de", "fortunes-es", "fortunes-it"]


@source(
    "fortunes",
    "fortunes-de GPL-2+; fortunes BSD; fortunes-es/-it GPL/public domain",
    ood=True,
    pkgs=FO,
    pkg_licence=True,
)
def fortunes(w: Workspace) -> Documents:
    for pkg in FO:
        lang = pkg[-2:] if pkg[-3] == "-" else "en"
        for p, _rel, m in w.files(pkg, r"games/fortunes/(?!off/)(?:de/|es/|it/)?([^/]+)$"):
            if p.endswith((".dat", ".u8", ".fortunes-pre")) or "off" in m[1]:
                continue
            t = decode(read(p))
            cookies = re.split(r"\n%+[ \t]*\n", t)
            yield lang, pkg, m[1], [re.sub(r"\x08.|\x1b\[[\d;]*m", "", c) for c in cookies]


WES = ["wesnoth-1.16-data"] + [
    f"wesnoth-1.16-{c}"
    for c in (
        "did",
        "dm",
        "dw",
        "ei",
        "httt",
        "l",
        "low",
        "nr",
        "sof",
        "sota",
        "sotbe",
        "thot",
        "trow",
        "tsg",
        "ttb",
        "utbs",
    )
]


@source("wesnoth", "GPL-2+", ood=True, pkgs=WES, min_chars=40, trusted=True)
def wesnoth(w: Workspace) -> Documents:
    cat: dict[str, dict[str, str]] = {lang: {} for lang in LANGS if lang != "en"}
    for pkg in WES:
        for p, _rel, m in w.files(pkg, r"locale/(de|fr|es|it)/LC_MESSAGES/.*\.mo$"):
            cat[m[1]].update(read_mo(p))
    rx = re.compile(r'_\s*"((?:[^"]|"")*)"', re.DOTALL)
    for pkg in WES:
        for p, _rel, m in w.files(pkg, r"games/wesnoth/1\.16/data/(.*)\.(cfg|lua)$"):
            msgs = [
                re.sub(r"^[\w ]+\^", "", x).replace('""', '"') for x in rx.findall(decode(read(p)))
            ]
            raw = [x.replace('""', '"') for x in rx.findall(decode(read(p)))]
            if not raw:
                continue
            yield "en", pkg, m[1], [TAG.sub("", x) for x in msgs]
            for lang, known in cat.items():
                translated = [known[x] for x in raw if known.get(x) and known[x] != x]
                yield (
                    lang,
                    pkg,
                    m[1],
                    [TAG.sub("", re.sub(r"^[\w ]+\^", "", x)) for x in translated],
                )


LUA_STR = re.compile(r'_ ?\(?\s*"((?:[^"\\]|\\.)+)"|_ ?\(?\s*\[\[(.*?)\]\]', re.DOTALL)


@source("widelands", "GPL-2+", pkgs=["widelands-data"], trusted=True)
def widelands(w: Workspace) -> Documents:
    yield from gettext_docs(
        w,
        "widelands-data",
        r"locale/(de|fr|es|it)/LC_MESSAGES/.*\.mo$",
        r"widelands/data/(?!locale)(.*)\.lua$",
        LUA_STR,
    )


@source("freedroidrpg", "GPL-2+", pkgs=["freedroidrpg-data"], trusted=True)
def freedroidrpg(w: Workspace) -> Documents:
    yield from gettext_docs(
        w,
        "freedroidrpg-data",
        r"locale/(de|fr|es|it)/LC_MESSAGES/.*\.mo$",
        r"freedroidrpg/(.*)\.(lua|dat|txt)$",
        LUA_STR,
    )


@source("naev", "GPL-3+", pkgs=["naev-data"], trusted=True)
def naev(w: Workspace) -> Documents:
    yield from gettext_docs(
        w,
        "naev-data",
        r"gettext/(de|fr|es|it)/LC_MESSAGES/.*\.mo$",
        r"naev/dat/(?!gettext)(.*)\.(lua|xml)$",
        re.compile(LUA_STR.pattern + r"|<(?:description|general|bar|desc\w*)>(.*?)</", re.DOTALL),
    )


@source("cataclysm-dda", "CC-BY-SA-3.0", pkgs=["cataclysm-dda-data"], trusted=True)
def cataclysm_dda(w: Workspace) -> Documents:
    yield from gettext_docs(
        w,
        "cataclysm-dda-data",
        r"locale/(de|fr|es_ES|it_IT)/LC_MESSAGES/.*\.mo$",
        r"cataclysm-dda/((?:json|raw|help|core|mods)/.*)\.json$",
        re.compile(r'"((?:[^"\\]|\\.){40,})"'),
        alias={"es_ES": "es", "it_IT": "it"},
    )


@source("flare-game", "CC-BY-SA-3.0", pkgs=["flare-game"], trusted=True)
def flare_game(w: Workspace) -> Documents:
    for p, _rel, m in w.files("flare-game", r"(mods/.*/languages/\w+)\.(de|fr|es|it)\.po$"):
        try:
            po = polib.pofile(p)
        except (OSError, ValueError):  # a catalogue with errors of syntax
            continue
        by: dict[str, list[polib.POEntry]] = collections.defaultdict(list)
        for e in po:
            f = e.occurrences[0][0] if e.occurrences else e.comment[:40]
            by[f].append(e)
        for f, es in by.items():
            yield (
                m[2],
                "flare-game",
                f"{m[1]}/{f}",
                [e.msgstr for e in es if e.msgstr and not e.fuzzy],
            )
            if m[2] == "de":
                yield "en", "flare-game", f"{m[1]}/{f}", [e.msgid for e in es]


@source("fillets-ng", "GPL-2+", ood=True, pkgs=["fillets-ng-data"], min_chars=40, trusted=True)
def fillets_ng(w: Workspace) -> Documents:
    for p, _rel, m in w.files("fillets-ng-data", r"script/(\w+)/dialogs_(de|en|fr|es|it)\.lua$"):
        t = decode(read(p))
        pairs = re.findall(
            r'dialogId\("[^"]*",\s*"[^"]*",\s*"((?:[^"\\]|\\.)*)"\)\s*(?:dialogStr\("((?:[^"\\]|\\.)*)"\))?',
            t,
        )
        yield (
            m[2],
            "fillets-ng-data",
            m[1],
            [(b or (a if m[2] == "en" else "")).replace('\\"', '"') for a, b in pairs],
        )


@source("crawl", "GPL-2+", pkgs=["crawl-common"])
def crawl(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "crawl-common", r"crawl/dat/(?:descript|database)/(?:(de|fr|es|it)/)?(\w+)\.txt$"
    ):
        lang = m[1] or "en"
        paras = [x.split("\n", 2)[-1] for x in re.split(r"\n?%%%%\n", decode(read(p)))]
        yield (
            lang,
            "crawl-common",
            m[2],
            [q for x in paras for q in re.split(r"\n\s*\n", x) if "{{" not in q],
        )


@source("colobot", "GPL-3+", pkgs=["colobot-common"])
def colobot(w: Workspace) -> Documents:
    for p, _rel, m in w.files("colobot-common", r"colobot/(.*)[./](D|E|F)(?:/([^/]+))?\.?txt$"):
        lang = {"D": "de", "E": "en", "F": "fr"}[m[2]]
        t = decode(read(p))
        t = re.sub(r"\\[bt];[^\n]*", "", t)
        t = re.sub(r"\\(?:l|u|c|n|s|k|o|token|type|const|norm|button|key)\b[^;\n]{0,40};?", "", t)
        t = re.sub(r"\\u [^;\n]*;", "", re.sub(r"\\\w+;", "", t))
        yield lang, "colobot-common", f"{m[1]}/{m[3]}", [x for x in t.split("\n") if "\\" not in x]


@source("freeorion", "GPL-2", pkgs=["freeorion-data"])
def freeorion(w: Workspace) -> Documents:
    tab: dict[str, dict[str, str]] = {}
    for lang in ("en", "de", "fr", "es", "it"):
        p = f"{w.unpacked}/freeorion-data/usr/share/games/freeorion/default/stringtables/{lang}.txt"
        if os.path.exists(p):
            t = re.sub(r"^#.*$", "", decode(read(p)), flags=re.MULTILINE)
            tab[lang] = {
                k: (a or b)
                for k, a, b in re.findall(
                    r"^([A-Z][A-Z0-9_]+)[ \t]*\n(?:\'\'\'(.*?)\'\'\'|([^\n]+))",
                    t,
                    re.MULTILINE | re.DOTALL,
                )
            }
    keys = list(tab.get("en", {}))
    for i in range(0, len(keys), 40):
        for lang, d in tab.items():
            yield (
                lang,
                "freeorion-data",
                f"stringtable/{i // 40}",
                [
                    q
                    for k in keys[i : i + 40]
                    if k in d and "%" not in d[k] and "[[" not in d[k]
                    for q in TAG.sub("", d[k]).split("\n")
                ],
            )


def hedgewars_text(x: str) -> str:
    return x.replace("\\n", " ").replace('\\"', '"').replace("|", " ")


@source("hedgewars", "GPL-2", pkgs=["hedgewars-data"])
def hedgewars(w: Workspace) -> Documents:
    base = f"{w.unpacked}/hedgewars-data/usr/share/games/hedgewars/Data"
    cat: dict[str, dict[str, str]] = {}
    for lang in ("de", "fr", "es", "it"):
        p = f"{base}/Locale/{lang}.lua"
        if os.path.exists(p):
            cat[lang] = dict(
                re.findall(
                    r'^\["((?:[^"\\]|\\.)*)"\]\s*=\s*"((?:[^"\\]|\\.)*)"',
                    decode(read(p)),
                    re.MULTILINE,
                )
            )
    for p, rel, _m in w.files("hedgewars-data", r"Data/(Missions|Scripts|Maps)/(.*)\.lua$"):
        raw = re.findall(r'loc\("((?:[^"\\]|\\.)*)"\)', decode(read(p)))
        if raw:
            yield "en", "hedgewars-data", rel, [hedgewars_text(x) for x in raw]
            for lang, c in cat.items():
                yield (
                    lang,
                    "hedgewars-data",
                    rel,
                    [hedgewars_text(c[x]) for x in raw if c.get(x) and c[x] != x],
                )


@source("stellarium", "GPL-2+", pkgs=["stellarium-data"])
def stellarium(w: Workspace) -> Documents:
    for p, _rel, m in w.files(
        "stellarium-data", r"stellarium/(.*)/description\.(de|en|fr|es|it)\.utf8$"
    ):
        yield m[2], "stellarium-data", m[1], html_paras(read(p), encoding="utf-8")
