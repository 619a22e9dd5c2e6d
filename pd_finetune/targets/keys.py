"""Names of sites and subcomponents: the one alias table and the one parser.

A *site* is a decomposed matrix, named as Goodfire publishes it (`h.3.attn.v_proj`) where the model
is a LlamaSimpleMLP in transformers' clothes (Arcee, or Llama), and by its module path elsewhere.
A *key* is a site and the index of a subcomponent in it: `h.3.attn.v_proj:513`. Goodfire's short
spelling (`3.attn.v:513`) and the module path (`model.layers.3.self_attn.v_proj:513`) are read too.
"""

import re
from dataclasses import dataclass

from pd_finetune.errors import UserError

# module name below `model.layers.<i>.`  ->  (public name below `h.<i>.`, short name)
_ALIASES = {
    "self_attn.q_proj": ("attn.q_proj", "attn.q"),
    "self_attn.k_proj": ("attn.k_proj", "attn.k"),
    "self_attn.v_proj": ("attn.v_proj", "attn.v"),
    "self_attn.o_proj": ("attn.o_proj", "attn.o"),
    "mlp.up_proj": ("mlp.c_fc", "mlp.up"),
    "mlp.down_proj": ("mlp.down_proj", "mlp.down"),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.gate"),
}
_PUBLIC = {module: public for module, (public, _) in _ALIASES.items()}
_READ = {
    **{public: public for public in _PUBLIC.values()},
    **{short: public for public, short in _ALIASES.values()},
    **_PUBLIC,
    "mlp.up_proj": "mlp.c_fc",
}
_MODULE = {public: module for module, public in _PUBLIC.items()}
_LAYER = re.compile(r"^(?:model\.layers\.|h\.)?(\d+)\.(.+)$")


def site_of_module(path: str) -> str:
    """Public site name of a module path: `model.layers.3.mlp.up_proj` -> `h.3.mlp.c_fc`."""
    match = re.match(r"^model\.layers\.(\d+)\.(.+)$", path)
    if match and match[2] in _PUBLIC:
        return f"h.{match[1]}.{_PUBLIC[match[2]]}"
    return path


def module_of_site(site: str) -> str:
    """Module path of a public site name, the inverse of `site_of_module`."""
    match = re.match(r"^h\.(\d+)\.(.+)$", site)
    if match and match[2] in _MODULE:
        return f"model.layers.{match[1]}.{_MODULE[match[2]]}"
    return site


def canonical_site(text: str) -> str:
    """The public spelling of a site given in any accepted spelling; others come back unchanged."""
    match = _LAYER.match(text)
    if match and match[2] in _READ:
        return f"h.{match[1]}.{_READ[match[2]]}"
    return text


def layer_of_site(site: str) -> int | None:
    """The transformer layer that holds the site: the first whole number in its dotted name."""
    return next((int(part) for part in site.split(".") if part.isdecimal()), None)


@dataclass(frozen=True, order=True)
class SubcomponentKey:
    """One rank-1 subcomponent: its site in the public spelling and its 0-based index."""

    site: str
    index: int

    def __str__(self) -> str:
        return f"{self.site}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> "SubcomponentKey":
        """Read `<site>:<index>` in any accepted spelling.

        Raises:
            UserError: the text is not of that form.
        """
        site, colon, index = text.strip().rpartition(":")
        if not colon or not site or not re.fullmatch(r"[0-9]+", index):
            raise UserError(
                f"'{text}' is no subcomponent key; write <site>:<index>, as in h.3.attn.v_proj:513"
            )
        return cls(canonical_site(site), int(index))
