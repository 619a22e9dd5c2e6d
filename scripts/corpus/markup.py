"""Block-level paragraphs of HTML, DocBook and Mallard files."""

from __future__ import annotations

import re
import sys

import lxml.html
from lxml import etree

INLINE = {
    "a",
    "abbr",
    "acronym",
    "b",
    "bdi",
    "bdo",
    "big",
    "cite",
    "code",
    "dfn",
    "em",
    "font",
    "i",
    "ins",
    "kbd",
    "label",
    "mark",
    "q",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "tt",
    "u",
    "var",
    "wbr",
    "img",
    "nobr",
    # mallard / docbook
    "gui",
    "guiseq",
    "key",
    "keyseq",
    "app",
    "input",
    "output",
    "file",
    "cmd",
    "sys",
    "link",
    "media",
    "emphasis",
    "ulink",
    "guilabel",
    "guimenu",
    "guimenuitem",
    "guibutton",
    "guisubmenu",
    "menuchoice",
    "application",
    "command",
    "filename",
    "option",
    "literal",
    "keycap",
    "keycombo",
    "quote",
    "phrase",
    "replaceable",
    "xref",
    "userinput",
    "varname",
    "classname",
    "function",
    "interface",
    "term2",
    "parameter",
    "trademark",
    "firstterm",
    "systemitem",
    "email",
    "uri",
    "foreignphrase",
    "guiicon",
    "envar",
    "type",
    "constant",
    "property",
    "citetitle",
    "date",
    "anchor",
    "indexterm",
    "inlinegraphic",
    "inlinemediaobject",
    "hi",
}
DROP = {
    "script",
    "style",
    "head",
    "nav",
    "header",
    "footer",
    "aside",
    "noscript",
    "pre",
    "svg",
    "math",
    "form",
    "button",
    "select",
    "textarea",
    "object",
    "audio",
    "video",
    "iframe",
    "template",
    "colgroup",
    "indexterm",
    "screen",
    "programlisting",
    "synopsis",
    "cmdsynopsis",
    "credit",
    "copyright",
    "license",
    "legalnotice",
    "revhistory",
    "revision",
    "authorgroup",
    "author",
    "bookinfo",
    "articleinfo",
    "funcsynopsis",
    "literallayout",
    "comment",
    "media",
    "textobject",
    "index",
    "address",
}
DROP_CLASS = re.compile(
    r"nav(header|footer|bar|igation)?\b|docnav|\bnav\b|\btoc\b|\bfooter\b|\bheader\b|sidebar|"
    r"sphinxsidebar|related\b|breadcrumb|programlisting|\bscreen\b|\bsynopsis\b|legalnotice|"
    r"copyright|revhistory|authorgroup|\bindex\b|sourceCode|highlight|literallayout|"
    r"titlepage-meta|MathJax|literal-block|\bdebug\b|verbatim|example-contents-code|listing\b|"
    r"smallexample|\blisp\b|langbar|footnotes-nav|cooktop|langmenu|lang-selector",
    re.IGNORECASE,
)


JOIN = {"guiseq": " → ", "menuchoice": " → ", "keyseq": "+", "keycombo": "+"}  # between children


def local_name(el: etree._Element) -> str | None:
    """The name of an element without its namespace; None for comments and the like."""
    t = el.tag
    if not isinstance(t, str):
        return None
    return t.rsplit("}", 1)[-1].lower()


def tree_paras(
    root: etree._Element,
    drop: set[str] = DROP,
    drop_class: re.Pattern[str] | None = DROP_CLASS,
) -> list[str]:
    """Block-level text runs of an (X)HTML, DocBook or Mallard tree, in document order."""
    out: list[str] = []
    buf: list[str] = []

    def flush() -> None:
        if buf:
            t = " ".join("".join(buf).split())
            if t:
                out.append(t)
            buf.clear()

    def walk(el: etree._Element) -> None:
        tag = local_name(el)
        if tag is None or tag in drop:
            return
        g = el.get
        if g("hidden") is not None and tag != "tr":
            return
        if drop_class is not None and tag not in ("body", "html"):
            c = (g("class") or "") + " " + (g("id") or "" if tag in ("div", "ul", "table") else "")
            if c != " " and drop_class.search(c):
                return
        if tag == "br":
            buf.append(" ")
            return
        block = tag not in INLINE
        if block:
            flush()
        if el.text:
            buf.append(el.text)
        for i, ch in enumerate(el):
            if i and tag in JOIN and isinstance(ch.tag, str):
                buf.append(JOIN[tag])
            walk(ch)
            if ch.tail:
                buf.append(ch.tail)
        if block:
            flush()

    sys.setrecursionlimit(20000)
    walk(root)
    flush()
    return out


def html_paras(b: bytes, xpath: str | None = None, encoding: str | None = None) -> list[str]:
    """Paragraphs of an HTML page, or of the parts of it that an XPath names."""
    if encoding is None:
        m = re.search(rb"charset=[\"']?([-\w]+)", b[:2000])
        encoding = m.group(1).decode() if m else "utf-8"
    try:
        text = b.decode(encoding, "replace")
    except LookupError:
        text = b.decode("utf-8", "replace")
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    if not text.strip():
        return []
    try:
        root = lxml.html.fromstring(text)
    except (etree.LxmlError, ValueError):  # a page that is no HTML
        return []
    if xpath:
        nodes = root.xpath(xpath)
        return [p for n in nodes for p in tree_paras(n)]
    body = root.find(".//body")
    return tree_paras(body if body is not None else root)


def xml_paras(b: bytes) -> list[str]:
    """Paragraphs of a DocBook or Mallard file."""
    parser = etree.XMLParser(
        recover=True,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=True,
        remove_comments=True,
    )
    root = etree.fromstring(b, parser)
    return tree_paras(root, drop_class=None) if root is not None else []
