"""A stored decomposition: the same numbers back, or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import RECORD, WEIGHTS
from pd_finetune.decomposition.store import save_decomposition
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from tests import tiny
from tests.decomposition import parts


def stored(folder: Path) -> tuple[Target, Decomposition]:
    target = tiny.target()
    components = parts.random_components(parts.sites_of(target))
    function = parts.ci_function(target.model, components.sites)
    reads = {name: name for name in components.sites}
    reads |= {f"h.{i}.attn.{p}_proj": f"h.{i}.attn.q_proj" for i in range(2) for p in "qkv"}
    save_decomposition(
        folder, components, function, reads, parts.SIZE, 12, target, {"evidence": {"ci_l0": 3.5}}
    )
    return target, Decomposition(components, function, 12)


def test_round_trip(tmp_path: Path) -> None:
    target, before = stored(tmp_path / "new" / "folder")
    after = load_decomposition(str(tmp_path / "new" / "folder"), target)
    assert after.sites == before.sites
    assert after.window == 12
    assert after.record["evidence"] == {"ci_l0": 3.5}
    assert after.ci_function.inputs == before.ci_function.inputs
    for name in before.sites:
        assert torch.equal(after.components.V(name), before.components.V(name))
        assert torch.equal(after.components.U(name), before.components.U(name))
    assert not any(p.requires_grad for p in after.components.parameters())
    assert not any(p.requires_grad for p in after.ci_function.parameters())
    exact = before.causal_importances(target, parts.IDS)
    read = after.causal_importances(target, parts.IDS)
    assert list(read) == list(exact)
    for name, values in exact.items():
        # the CI function is kept in 16 bits
        torch.testing.assert_close(read[name], values, atol=0.02, rtol=0)
    assert max(v.max() for v in exact.values()) == 1 and min(v.min() for v in exact.values()) == 0


def test_loading_initialises_nothing(tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    before = torch.get_rng_state()
    loaded = load_decomposition(str(tmp_path), target)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [*loaded.components.parameters(), *loaded.ci_function.parameters()]
    assert {weight.device.type for weight in weights} == {"cpu"}


def test_one_site_pays_for_one_site(tmp_path: Path) -> None:
    target, parts_of = stored(tmp_path)
    with recorded_inputs(target.model, parts_of.sites) as inputs:
        target.model(input_ids=parts.IDS, use_cache=False)

    def flops(only: list[str] | None) -> int:
        with FlopCounterMode(display=False) as counter:
            parts_of.ci_function.causal_importances(inputs, only)
        return counter.get_total_flops()

    function, name = parts_of.ci_function, "h.1.attn.v_proj"
    head = 2 * parts.IDS.numel() * function.output_head.in_features
    others = sum(function.C) - parts_of.sites[name].C
    assert flops(None) - flops([name]) == head * others
    every = function.causal_importances(inputs)
    one = function.causal_importances(inputs, [name])
    assert list(one) == [name]
    torch.testing.assert_close(one[name], every[name], atol=1e-6, rtol=1e-6)


def test_same_decomposition_same_hash(tmp_path: Path) -> None:
    target, _ = stored(tmp_path / "a")
    stored(tmp_path / "b")
    one, other = (load_decomposition(str(tmp_path / name), target) for name in "ab")
    assert one.hash == other.hash and len(one.hash) == 64
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_of_another_target(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(UserError, match=r"of another target.*model\.folder"):
        load_decomposition(str(tmp_path), tiny.target(seed=1))


def test_of_a_target_with_one_changed_weight(tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    changed = tiny.target()
    changed.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    assert changed.hash != target.hash
    with pytest.raises(UserError, match="of another target"):
        load_decomposition(str(tmp_path), changed)


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_damaged_weights(how: str, tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    if how == "flip":
        content[-5] ^= 1
    else:
        content = content[: len(content) // 2 if how == "cut" else 0]
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=f"{WEIGHTS}' is damaged"):
        load_decomposition(str(tmp_path), target)


def changed_record(folder: Path, change: Any) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(change(record)))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {k: v for k, v in record.items() if k != "window"},
        lambda record: {k: v for k, v in record.items() if k != "sites"},
        lambda record: record | {"sites": {"h.0.attn.q_proj": {"name": "h.0.attn.q_proj"}}},
        lambda record: record | {"sites": ["h.0.attn.q_proj"]},
        lambda record: record | {"ci_function": {"wdth": 16}},
        lambda record: [record],
    ],
    ids=["no window", "no sites", "site of one field", "sites a list", "key", "list"],
)
def test_broken_record(change: Any, tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    changed_record(tmp_path, change)
    with pytest.raises(UserError, match=f"broken decomposition record.*{RECORD}"):
        load_decomposition(str(tmp_path), target)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "ci_function.output_head.bias"}, "bias"),
        (lambda t: t | {"V.h.0.attn.q_proj": t["V.h.0.attn.q_proj"][:-1]}, "V.h.0.attn.q_proj"),
        (lambda t: t | {"U.h.0.attn.q_proj": t["U.h.0.attn.q_proj"][0]}, "U.h.0.attn.q_proj"),
        (lambda t: t | {"W.h.0.attn.q_proj": t["V.h.0.attn.q_proj"] + 0}, "W.h.0.attn.q_proj"),
    ],
)
def test_weights_that_are_not_the_records(change: Any, name: str, tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    tensors = change(load_file(tmp_path / WEIGHTS))
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / WEIGHTS)
    digest = file_sha256(tmp_path / WEIGHTS)
    changed_record(tmp_path, lambda record: record | {"weights_sha256": digest})
    with pytest.raises(UserError, match=f"{WEIGHTS}'.*{name} has shape"):
        load_decomposition(str(tmp_path), target)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rms_norm_eps", 1e-3),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
        ("num_attention_heads", 4),
        ("hidden_act", "relu2"),
    ],
)
def test_of_a_target_of_equal_weights_and_another_architecture(
    name: str, value: Any, tmp_path: Path
) -> None:
    target, _ = stored(tmp_path)
    setattr(target.model.config, name, value)
    with pytest.raises(UserError, match=f"is of a target with {name} .*model.folder"):
        load_decomposition(str(tmp_path), target)
    # what was stored before architectures were is compared by weights alone
    changed_record(
        tmp_path, lambda record: {k: v for k, v in record.items() if k != "target_architecture"}
    )
    assert load_decomposition(str(tmp_path), target).window == 12


def test_record_that_is_no_json(tmp_path: Path) -> None:
    target, _ = stored(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(UserError, match="broken decomposition record"):
        load_decomposition(str(tmp_path), target)


@pytest.mark.parametrize("missing", [RECORD, WEIGHTS, None])
def test_missing_files(missing: str | None, tmp_path: Path) -> None:
    target, _ = stored(tmp_path / "d")
    folder = tmp_path / "d"
    if missing is None:
        folder = tmp_path / "nowhere"
    else:
        (folder / missing).unlink()
    with pytest.raises(UserError, match=f"no decomposition at '{folder}'.*pd_finetune.decompose"):
        load_decomposition(str(folder), target)


def test_keys_are_checked(tmp_path: Path) -> None:
    target, parts_of = stored(tmp_path)
    made = load_decomposition(str(tmp_path), target)
    assert len(made.all_keys()) == sum(site.C for site in parts_of.sites.values())
    key = SubcomponentKey("h.1.mlp.c_fc", 19)
    assert made.check(key) == key and key in made.all_keys()
    v, u = made.vectors(key)
    assert torch.equal(v, parts_of.components.V(key.site)[:, 19])
    assert torch.equal(u, parts_of.components.U(key.site)[19])
    with pytest.raises(UserError, match="from 0 to 19"):
        made.check(SubcomponentKey("h.1.mlp.c_fc", 20))
    with pytest.raises(UserError, match=r"no site 'h\.2\.mlp\.c_fc'"):
        made.check(SubcomponentKey("h.2.mlp.c_fc", 0))
