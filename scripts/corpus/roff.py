"""Prose paragraphs of manual pages: a small reader for man(7) and mdoc(7)."""

from __future__ import annotations

import re

from .workspace import decode

ROFF = {
    "-": "-",
    "(aq": "'",
    "(bu": "•",
    "(co": "©",
    "(lq": "“",
    "(rq": "”",
    "(oq": "‘",
    "(cq": "’",
    "(dq": '"',
    "(em": "—",
    "(en": "–",
    "(hy": "-",
    "(ti": "~",
    "(ha": "^",
    "(rs": "\\",
    "(ga": "`",
    "(mu": "×",
    "(+-": "±",
    "(<=": "≤",
    "(>=": "≥",
    "(->": "→",
    "(<-": "←",
    "(mc": "µ",
    "(de": "°",
    "(Fo": "«",
    "(Fc": "»",
    "(Bq": "„",
    "e": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "&": "",
    "|": "",
    "^": "",
    "/": "",
    ",": "",
    ":": "",
    "%": "",
    "c": "",
    "'": "'",
    "`": "`",
    ")": "",
    "(ss": "ß",
    "(12": "½",
    "(14": "¼",
}
ROFF_RX = re.compile(
    r"\\(?:f(?:\[[^]]*\]|\(..|.)|F\[[^]]*\]|s(?:[+-]?\d|\[[^]]*\])|m\[[^]]*\]|h'[^']*'|v'[^']*'|"
    r"w'[^']*'|k.|d|u|\*(?:\[([^]]*)\]|\((..)|(.))|\[([^]]*)\]|(\(..)|(.))"
)


def roff_inline(s: str) -> str:
    """Text without roff escapes."""

    def sub(m: re.Match[str]) -> str:
        if m.group(1) or m.group(2) or m.group(3):
            k = m.group(1) or m.group(2) or m.group(3)
            return {"lq": "“", "rq": "”", "(R": "®", "R": "®", "Tm": "™", "Aq": "'"}.get(k, "")
        if m.group(4) is not None:
            k = m.group(4)
            if re.fullmatch(r"u[0-9A-F]{4,6}", k):
                return chr(int(k[1:], 16))
            return ROFF.get("(" + k, ROFF.get(k, ""))
        k = m.group(5) or m.group(6)
        return ROFF.get(k, "") if k else ""

    s = re.sub(r'\\["#].*', "", s)
    return ROFF_RX.sub(sub, s)


def roff_args(s: str) -> list[str]:
    """The arguments of a macro line."""
    out: list[str] = []
    for m in re.finditer(r'"((?:[^"]|"")*)"?|(\S+(?:\\ \S+)*)', s):
        out.append((m.group(1) or "").replace('""', '"') if m.group(1) is not None else m.group(2))
    return out


MAN_SKIP = re.compile(
    r"^(authors?|autor(en|es|i)?|auteurs?|autore?|übersetzung|übersetz\w*|traduction|"
    r"traducteurs?|traduzione|traducción|traductor\w*|copyright|copyrights|urheberrecht\w*|"
    r"derechos de (autor|copia)|licen[cs]e|licence|licencia|lizenz|licenza|droits? d.auteur|"
    r"diritti d.autore|see also|siehe auch|voir aussi|v[ée]ase tambi[ée]n|vedere anche|"
    r"colophon|kolophon|colofon|über diese seite|à propos de cette page|synopsis|übersicht|"
    r"sinossi|sintassi|sinopsis|reporting bugs|fehler melden|signaler des bogues|"
    r"informar de errores|reporting|segnalare bug|history|contributors)",
    re.IGNORECASE,
)


def man_paras(b: bytes) -> list[str]:
    """A small roff reader for man(7)/mdoc(7) pages: prose paragraphs only."""
    text = decode(b)
    out: list[str] = []
    buf: list[str] = []
    nofill = skip = table = False
    tag_next = False

    def flush() -> None:
        if buf:
            t = " ".join(" ".join(buf).split())
            buf.clear()
            if t and not skip:
                out.append(t)

    for line in text.split("\n"):
        if line.startswith(('.\\"', "'\\\"", '\\"', ".\\}")):
            continue
        m = re.match(r"^[.'][ \t]*([A-Za-z0-9]{1,8})(?:\s+(.*))?$", line)
        if m:
            mac, arg = m.group(1), m.group(2) or ""
            if mac in ("SH", "SS", "Sh", "Ss"):
                flush()
                title = roff_inline(" ".join(roff_args(arg)))
                if mac in ("SH", "Sh"):
                    skip = bool(MAN_SKIP.match(title.strip()))
                nofill = table = False
            elif mac in (
                "PP",
                "P",
                "LP",
                "Pp",
                "HP",
                "sp",
                "RS",
                "RE",
                "IP",
                "TP",
                "TQ",
                "It",
                "Bl",
                "El",
                "br",
                "ti",
                "Bd",
                "Ed",
                "UR2",
            ):
                flush()
                if mac == "Bd" and ("literal" in arg or "unfilled" in arg):
                    nofill = True
                if mac == "Ed":
                    nofill = False
                tag_next = mac == "TP"
                continue
            elif mac in ("nf", "EX", "Vb", "DS"):
                flush()
                nofill = True
            elif mac in ("fi", "EE", "Ve", "DE"):
                flush()
                nofill = False
            elif mac == "TS":
                flush()
                table = True
            elif mac == "TE":
                table = False
            elif mac in ("B", "I", "R", "SM", "SB"):
                if not (nofill or table or tag_next):
                    buf.append(roff_inline(" ".join(roff_args(arg))))
            elif mac in ("BR", "RB", "IR", "RI", "BI", "IB"):
                if not (nofill or table or tag_next):
                    buf.append(roff_inline("".join(roff_args(arg))))
            elif mac in (
                "Nm",
                "Xr",
                "Fl",
                "Ar",
                "Pa",
                "Cm",
                "Ic",
                "Dv",
                "Ev",
                "Va",
                "Em",
                "Sy",
                "Li",
                "Ql",
                "Dq",
                "Sq",
                "Fn",
                "Vt",
                "Ns",
                "Pq",
                "Nd",
                "Er",
                "Tn",
            ):
                if not nofill:
                    a = roff_args(arg)
                    if mac == "Xr" and len(a) > 1:
                        a = [f"{a[0]}({a[1]})"] + a[2:]
                    if mac == "Fl" and a:
                        a[0] = "-" + a[0]
                    buf.append(roff_inline(" ".join(a)))
            elif mac == "MR":
                a = roff_args(arg)
                if len(a) > 1:
                    buf.append(f"{a[0]}({a[1]})" + "".join(a[2:]))
            tag_next = False
            continue
        if not line.strip():
            flush()
            continue
        if tag_next:  # the tag of a .TP entry
            tag_next = False
            continue
        if nofill or table:
            continue
        buf.append(roff_inline(line))
    flush()
    return [re.sub(r" ([.,;:)])(?= |$)", r"\1", p) for p in out]
