"""One parser for every spelling of a site, and what is no key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_finetune.errors import UserError
from pd_finetune.targets.keys import (
    SubcomponentKey,
    canonical_site,
    layer_of_site,
    module_of_site,
    site_of_module,
)

# public, short, module
SPELLINGS = [
    ("h.3.attn.q_proj", "3.attn.q", "model.layers.3.self_attn.q_proj"),
    ("h.3.attn.k_proj", "3.attn.k", "model.layers.3.self_attn.k_proj"),
    ("h.3.attn.v_proj", "3.attn.v", "model.layers.3.self_attn.v_proj"),
    ("h.3.attn.o_proj", "3.attn.o", "model.layers.3.self_attn.o_proj"),
    ("h.3.mlp.c_fc", "3.mlp.up", "model.layers.3.mlp.up_proj"),
    ("h.3.mlp.down_proj", "3.mlp.down", "model.layers.3.mlp.down_proj"),
    ("h.3.mlp.gate_proj", "3.mlp.gate", "model.layers.3.mlp.gate_proj"),
]
ELSEWHERE = ["gpt_neox.layers.3.attention.query_key_value", "transformer.h.3.mlp.c_fc", "lm_head"]


@pytest.mark.parametrize(("public", "short", "module"), SPELLINGS)
def test_every_spelling(public: str, short: str, module: str) -> None:
    spellings = [public, short, module, f"h.{short}", public.removeprefix("h.")]
    # the module's own names are read below h.3., too
    spellings += ["h." + module.removeprefix("model.layers.")]
    for text in spellings:
        assert canonical_site(text) == public
        assert SubcomponentKey.parse(f"{text}:513") == SubcomponentKey(public, 513)
        assert SubcomponentKey.parse(f"  {text}:513\n") == SubcomponentKey(public, 513)
    assert site_of_module(module) == public
    assert module_of_site(public) == module


@pytest.mark.parametrize("path", ELSEWHERE)
def test_other_models_keep_their_module_paths(path: str) -> None:
    assert site_of_module(path) == module_of_site(path) == canonical_site(path) == path
    assert SubcomponentKey.parse(f"{path}:0") == SubcomponentKey(path, 0)


SITES = st.sampled_from([s[0] for s in SPELLINGS]).flatmap(
    lambda site: st.integers(0, 400).map(lambda layer: site.replace("3", str(layer)))
)


@settings(max_examples=60, deadline=None)
@given(site=SITES | st.sampled_from(ELSEWHERE), index=st.integers(0, 10**7))
def test_round_trip(site: str, index: int) -> None:
    key = SubcomponentKey(site, index)
    assert SubcomponentKey.parse(str(key)) == key
    assert canonical_site(site) == site
    assert site_of_module(module_of_site(site)) == site


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_key_or_a_users_error(text: str) -> None:
    try:
        key = SubcomponentKey.parse(text)
    except UserError as error:
        assert text in str(error)
    else:
        assert key.site and key.index >= 0
        assert SubcomponentKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "text",
    ["", ":", ":3", "h.3.attn.v_proj", "h.3.attn.v_proj:", "h.3.attn.v_proj:x", "a:-1", "a:1.5"]
    + ["a:+1", "a: 1", "a:1e3", "a:٣", "a:0x1", "3"],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UserError, match="<site>:<index>"):
        SubcomponentKey.parse(text)


def test_layers_and_order() -> None:
    assert layer_of_site("h.11.mlp.c_fc") == 11
    assert layer_of_site("gpt_neox.layers.2.mlp.dense_h_to_4h") == 2
    assert layer_of_site("lm_head") is None
    keys = [SubcomponentKey("b", 0), SubcomponentKey("a", 10), SubcomponentKey("a", 9)]
    assert [str(key) for key in sorted(keys)] == ["a:9", "a:10", "b:0"]
