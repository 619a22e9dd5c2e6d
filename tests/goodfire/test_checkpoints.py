"""Reading random checkpoints in Goodfire's layouts: the same numbers, or one line of refusal."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import yaml

from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.errors import UserError
from pd_finetune.goodfire.cache import goodfire_cache
from pd_finetune.goodfire.target import target_folder
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.loading.target import load_target
from tests.goodfire.writer import DECOMPOSITION, TARGET, Checkpoint

IDS = torch.arange(20).view(2, 10) * 7 % 53


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    return Checkpoint()


@pytest.fixture(scope="module")
def target_path(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / TARGET
    made.write_target(folder)
    return folder


@pytest.fixture(scope="module")
def target(target_path):
    return load_target(str(target_path))


def same_logits(made, target):
    with torch.no_grad():
        ours = target.model(input_ids=IDS).logits
    torch.testing.assert_close(ours, made.forward(IDS)[0], atol=1e-4, rtol=0)


# ------------------------------------------------------------------ target


def test_target(made, target):
    same_logits(made, target)
    assert type(target.model).__name__ == "ArceeForCausalLM"
    assert target.context == 10
    assert target.chance_nats == math.log(53)
    assert target.tokenizer.token_to_id("<|endoftext|>") == 0
    # the embeddings are tied, and stored once
    model = target.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("given", ["folder", "checkpoint"])
def test_target_layouts(made, target, tmp_path, nested, suffix, given):
    checkpoint = made.write_target(tmp_path / "run", nested=nested, suffix=suffix)
    path = checkpoint if given == "checkpoint" else tmp_path / "run"
    assert load_target(str(path)).hash == target.hash


def test_highest_step_wins(made, target, tmp_path):
    Checkpoint(seed=1).write_target(tmp_path, step=9999)
    made.write_target(tmp_path, step=10000)
    assert load_target(str(tmp_path)).hash == target.hash


def test_converted_once_by_content(made, target_path, tmp_path):
    first = target_folder(str(target_path))
    written = (first / "model.safetensors").stat().st_mtime_ns
    made.write_target(tmp_path / "copy")
    again = target_folder(str(tmp_path / "copy"))
    assert again == first and again.is_relative_to(goodfire_cache())
    assert (again / "model.safetensors").stat().st_mtime_ns == written
    assert sorted(path.name for path in first.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    # the same place with other content is another model
    Checkpoint(seed=3).write_target(tmp_path / "copy")
    assert target_folder(str(tmp_path / "copy")) != first
    assert not [path for path in first.parent.iterdir() if path.suffix == ".tmp"]


def test_killed_conversion_leaves_nothing_that_counts(made, tmp_path, monkeypatch):
    made = Checkpoint(seed=4)
    made.write_target(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            target_folder(str(tmp_path))
    same_logits(made, load_target(str(tmp_path)))


@pytest.mark.parametrize(
    "run",
    [
        f"goodfire/spd/runs/{TARGET}",
        f"goodfire/spd/{TARGET}",
        f"wandb:goodfire/spd/runs/{TARGET}",
        f"https://wandb.ai/goodfire/spd/runs/{TARGET}?nw=user",
        TARGET,
    ],
)
def test_run_path_found_where_goodfires_code_keeps_it(made, target, tmp_path, monkeypatch, run):
    made.write_target(tmp_path / "pretrain_cache" / f"spd-{TARGET}")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    assert load_target(run).hash == target.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotary_adjacent_pairs": True}, "rotary_adjacent_pairs True cannot be read"),
        ({"use_grouped_query_attention": False}, "use_grouped_query_attention False"),
        ({"model_type": "GPT2"}, "model_type GPT2 cannot be read"),
        ({"n_head": 5}, "n_head 5"),
        ({"n_layer": 3}, "h.2.attn.k_proj.weight, .* missing"),
        ({"n_intermediate": 21}, r"h.0.mlp.c_fc.weight has shape \[20, 12\], not \[21, 12\]"),
        ({"gate": True}, "unknown keys gate"),
        ({"vocab_size": 40}, "knows 53 tokens, its model 40"),
    ],
)
def test_target_that_is_another_function(made, tmp_path, change, message):
    made.write_target(tmp_path)
    values = {**made.model_config(), **change}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=message) as caught:
        load_target(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_untied_target(made, tmp_path):
    path = made.write_target(tmp_path)
    torch.save({**made.target, "lm_head.weight": made.target["wte.weight"] + 1}, path)
    with pytest.raises(UserError, match="only tied embeddings"):
        load_target(str(tmp_path))


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("kind", ["target", "decomposition"])
def test_no_code_of_a_checkpoint_runs(made, target, tmp_path, kind):
    mark = tmp_path / "mark"
    if kind == "target":
        torch.save({**made.target, "evil": Evil(mark)}, made.write_target(tmp_path / "run"))
    else:
        made.write_decomposition(tmp_path / "run", {**made.decomposition, "evil": Evil(mark)})
    with pytest.raises(UserError, match="no code of a checkpoint is run"):
        if kind == "target":
            load_target(str(tmp_path / "run"))
        else:
            load_decomposition(str(tmp_path / "run"), target)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"nothing of the kind"])
def test_damaged_checkpoint(made, tmp_path, content):
    made.write_target(tmp_path).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_target(str(tmp_path))
    assert "model_step_99999.pt" in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------ decomposition


def test_decomposition(made, target, tmp_path):
    made.write_decomposition(tmp_path)
    parts = load_decomposition(str(tmp_path), target)
    assert {name: site.C for name, site in parts.sites.items()} == made.C
    assert parts.window == 10
    _, reads = made.forward(IDS)
    expected = made.pre_sigmoid(reads)
    with torch.no_grad(), recorded_inputs(target.model, parts.sites) as inputs:
        target.model(input_ids=IDS, use_cache=False)
    ours = parts.ci_function.split(parts.ci_function(inputs))
    assert min(x.min() for x in expected.values()) < 0 < 1 < max(x.max() for x in expected.values())
    for name, values in expected.items():
        torch.testing.assert_close(inputs[name], reads[name], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours[name].detach(), values, atol=1e-4, rtol=0)
        short = f"_components.{name.replace('.', '-')}"
        assert torch.equal(parts.components.V(name), made.decomposition[f"{short}.V"])
        assert torch.equal(parts.components.U(name), made.decomposition[f"{short}.U"])
    # what q, k and v of a layer share is read once
    assert len(parts.ci_function.inputs) == 2 * 4
    assert parts.record["source"]["target_run"] == f"goodfire/spd/runs/{TARGET}"


def test_converted_decomposition_is_kept(made, target, tmp_path):
    checkpoint = made.write_decomposition(tmp_path)
    first = decomposition_folder(str(tmp_path))
    assert first == decomposition_folder(str(checkpoint))
    assert first.is_relative_to(goodfire_cache())
    assert (
        load_decomposition(str(first), target).hash
        == load_decomposition(str(tmp_path), target).hash
    )


def old_names(state, kind):
    """The state dict as older code spelled it."""
    result = {}
    for name, tensor in state.items():
        new = name
        if name.startswith("_components."):
            site, part = name.removeprefix("_components.").rsplit(".", 1)
            middle = ".components" if kind == "patched" else ""
            new = f"target_model.{site.replace('-', '.')}{middle}.{part}"
        elif name.startswith("target_model.") and name.endswith(("_proj.weight", "c_fc.weight")):
            inner = "original" if kind == "patched" else "linear"
            new = f"{name.removesuffix('.weight')}.{inner}.weight"
        if kind == "patched":
            new = new.replace("target_model.", "patched_model.", 1)
            new = new.removeprefix("ci_fn.")
        result[new] = tensor
    return result


@pytest.mark.parametrize("kind", ["patched", "fused"])
def test_older_spellings(made, target, tmp_path, kind):
    made.write_decomposition(tmp_path / "new")
    state = old_names(made.decomposition, kind)
    assert len(state) == len(made.decomposition) and set(state) != set(made.decomposition)
    made.write_decomposition(tmp_path / "old", state)
    new, old = (load_decomposition(str(tmp_path / name), target) for name in ("new", "old"))
    assert new.hash == old.hash


def test_nested_config(made, target, tmp_path):
    made.write_decomposition(tmp_path)
    flat = made.final_config()
    nested = {
        "pd": {key: flat[key] for key in ("ci_config", "sigmoid_type", "module_info")},
        "target": {"model_name": flat["pretrained_model_name"]},
        "data": {"max_seq_len": 7},
    }
    (tmp_path / "final_config.yaml").write_text(yaml.safe_dump(nested))
    assert load_decomposition(str(tmp_path), target).window == 7


def test_of_another_target(target, tmp_path):
    Checkpoint(seed=1).write_decomposition(tmp_path)
    with pytest.raises(UserError, match=f"of another target.*goodfire/spd/runs/{TARGET}"):
        load_decomposition(str(tmp_path), target)


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "h-0-attn-q_proj.U"), "_components.h-0-attn-q_proj.U missing"),
        (lambda s: without(s, "_components"), "no _components"),
        (lambda s: without(s, "ci_fn."), "one global causal-importance transformer"),
        (lambda s: without(s, "_output_head.b"), "_output_head.b missing"),
        (lambda s: without(s, "_blocks.0.mlp.2.b"), "_blocks.0.mlp.2.b missing"),
        (lambda s: without(s, "_blocks.0"), "lacks ci_fn._global_ci_fn._blocks.0"),
        (
            lambda s: {**s, "ci_fn._global_ci_fn.extra": torch.ones(1)},
            "unknown tensors: .*_fn.extra",
        ),
        (lambda s: {**s, "ci_fn._ci_fns.x": torch.ones(1)}, "one global"),
        (lambda s: {**s, "extra": torch.ones(1)}, "unknown tensors: extra"),
        (
            lambda s: without(s, "target_model.h.1.mlp.c_fc"),
            "lacks .*h.1.mlp.c_fc.weight",
        ),
    ],
)
def test_incomplete_decomposition(made, tmp_path, change, message):
    made.write_decomposition(tmp_path, change(made.decomposition))
    with pytest.raises(UserError, match=message) as caught:
        decomposition_folder(str(tmp_path))
    assert "\n" not in str(caught.value) and "model_400000.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sigmoid_type": "hard"}, "sigmoid_type hard"),
        ({"ci_config": {"fn_type": "mlp"}}, "fn_type mlp"),
        ({"identity_module_info": [{"C": 1}]}, "identity_module_info"),
        ({"task_config": {"max_seq_len": "x"}}, "max_seq_len x"),
    ],
)
def test_decomposition_of_another_kind(made, tmp_path, config, message):
    made.write_decomposition(tmp_path, **config)
    with pytest.raises(UserError, match=message):
        decomposition_folder(str(tmp_path))


def test_another_rotary_base(made, tmp_path):
    state = {k: v / 2 if "inv_freq" in k else v for k, v in made.decomposition.items()}
    made.write_decomposition(tmp_path, state)
    with pytest.raises(UserError, match="rotary base"):
        decomposition_folder(str(tmp_path))


def test_run_path_of_a_decomposition(made, target, tmp_path, monkeypatch):
    made.write_decomposition(tmp_path / "runs" / f"spd-{DECOMPOSITION}")
    monkeypatch.setenv("PARAM_DECOMP_OUT_DIR", str(tmp_path))
    assert load_decomposition(DECOMPOSITION, target).window == 10
