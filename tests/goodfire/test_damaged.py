"""Damaged and contradictory files: one line that names file and field, and nothing in the cache."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pd_finetune.errors import UserError
from pd_finetune.goodfire import decomposition
from pd_finetune.goodfire.architecture import Architecture
from pd_finetune.goodfire.cache import goodfire_cache
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import decomposition_folder, model_folder
from pd_finetune.loading.target import load_target
from tests.goodfire.writer import TARGET, Checkpoint

CI = "ci_fn._global_ci_fn."
V, U = "_components.h-0-attn-q_proj.V", "_components.h-0-attn-q_proj.U"
HEAD, MLP, RATES = f"{CI}_output_head.b", f"{CI}_blocks.0.mlp.0.W", "attn.rope.inv_freq"


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    return Checkpoint()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))


def refused(read: Callable[[str], Any], folder: Path, *words: str) -> None:
    """The folder is refused in one line that has these words, and no conversion is kept."""
    with pytest.raises(UserError) as caught:
        read(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not [*goodfire_cache().glob("*/[!.]*"), *goodfire_cache().glob("*/.*.tmp")]


def damaged(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


# ------------------------------------------------------------------ tensors


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (HEAD, lambda t: t[:-1], ["has shape [101]", "not [102]"]),
        (MLP, lambda t: t.T, ["has shape [14, 16]"]),
        (f"{CI}_blocks.1.attn.q_proj.weight", lambda t: t[:, :-1], ["[16, 15]", "[16, 16]"]),
        (f"{CI}_input_projector.W", lambda t: t[:-1], ["has shape"]),
        (f"{CI}_blocks.0.{RATES}", lambda t: t[:0], ["has shape [0]"]),
        (f"{CI}_blocks.1.{RATES}", lambda t: t[:-1], ["has shape [3]"]),
        (f"{CI}_blocks.1.{RATES}", lambda t: t / 2, ["rotary base"]),
        (V, lambda t: t[:, 0], ["has shape [12]"]),
        (V, lambda t: t[:, :0], ["has shape [12, 0]"]),
        (V, lambda t: t[:-1], ["has shape [11, 3]"]),
        (U, lambda t: t.T, ["has shape [12, 3]"]),
        (V, lambda t: t.to(torch.complex64), ["complex64"]),
        (U, lambda t: (10 * t).to(torch.int8), ["int8"]),
        (V, lambda t: damaged(t, float("nan")), ["NaN or infinity"]),
        (HEAD, lambda t: damaged(t, float("inf")), ["NaN or infinity"]),
        (U, lambda t: damaged(t.double(), 1e300), ["NaN or infinity"]),
        ("target_model.h.1.rms_2.weight", lambda t: damaged(t, float("nan")), ["NaN"]),
        ("target_model.h.1.mlp.down_proj.weight", lambda t: t[:, :-1], ["has shape [12, 19]"]),
        ("target_model.wte.weight", lambda t: t[0], ["has shape [12]"]),
        (V.replace(".V", ".Z"), lambda t: torch.ones(3, 3), ["unknown tensors"]),
        (V.replace("q_proj.V", "q_proj.bias"), lambda t: torch.ones(12), ["unknown tensors"]),
    ],
)
def test_a_damaged_tensor(made, tmp_path, name, change, words):
    whole = made.decomposition
    state = {**whole, name: change(whole.get(name, torch.empty(0))).contiguous()}
    made.write_decomposition(tmp_path / "run", state)
    refused(decomposition_folder, tmp_path / "run", "model_400000.pth", name, *words)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_target_that_is_not_finite(made, tmp_path, suffix):
    path = made.write_target(tmp_path / "run", suffix=suffix)
    state = {**made.target, "ln_f.weight": damaged(made.target["ln_f.weight"], float("nan"))}
    del state["lm_head.weight"]
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    refused(load_target, tmp_path / "run", path.name, "ln_f.weight holds NaN or infinity")


def test_a_transformers_folder_that_is_not_finite(made, tmp_path):
    made.write_target(tmp_path / "run")
    folder = model_folder(str(tmp_path / "run"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"'{folder}' are damaged: model.norm.weight holds NaN"):
        load_target(str(folder))


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("how", ["flipped", "cut", "cut early", "empty"])
@pytest.mark.parametrize("kind", ["target", "decomposition"])
def test_bytes_of_a_checkpoint(made, tmp_path, kind, how):
    folder = tmp_path / "run"
    write = made.write_target if kind == "target" else made.write_decomposition
    path = write(folder)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    if how == "flipped":
        content[member.header_offset + 200 + member.file_size // 2] ^= 1
    else:
        content = content[: {"cut": -100, "cut early": 3, "empty": 0}[how]]
    path.write_bytes(content)
    read = load_target if kind == "target" else decomposition_folder
    refused(read, folder, path.name, *(["checksum"] if how == "flipped" else []))


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("target", "model_config.yaml"),
        ("target", "model_step_99999.pt"),
        ("decomposition", "final_config.yaml"),
        ("decomposition", "model_400000.pth"),
    ],
)
def test_a_missing_file_is_the_one_that_is_named(made, tmp_path, kind, missing):
    folder = tmp_path / "run"
    write = made.write_target if kind == "target" else made.write_decomposition
    write(folder)
    (folder / missing).unlink()
    named = {"model_step_99999.pt": "model_step_<n>.pt", "model_400000.pth": "model_<step>.pth"}
    read = load_target if kind == "target" else decomposition_folder
    refused(read, folder, f"'{folder}'", f"{named.get(missing, missing)} is missing beside", "set ")


def test_swapped_folders(made, tmp_path):
    made.write_target(tmp_path / "t")
    made.write_decomposition(tmp_path / "s")
    refused(load_target, tmp_path / "s", "model_config.yaml is missing beside model_400000.pth")
    refused(decomposition_folder, tmp_path / "t", "final_config.yaml", "a decomposition's run?")


# ------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    ("block", "name", "value"),
    [
        ("", "ci_config", "global"),
        ("", "task_config", [512]),
        ("", "pretrained_model_name", 5),
        ("", "sigmoid_type", 3),
        ("ci_config", "fn_type", None),
        ("ci_config", "simple_transformer_ci_cfg", 7),
        ("simple", "mlp_hidden_dim", 44),
        ("simple", "mlp_hidden_dim", [14, 14]),
        ("simple", "mlp_hidden_dim", ["wide"]),
        ("simple", "d_model", "16"),
        ("simple", "n_blocks", 0),
        ("simple", "attn_config", "two"),
        ("attn_config", "n_heads", 2.0),
        ("attn_config", "n_heads", 4),
        ("attn_config", "rope_base", 500.0),
        ("attn_config", "rope_base", "ten"),
        ("task_config", "max_seq_len", -1),
        ("task_config", "max_seq_len", True),
    ],
)
def test_a_field_of_final_config(made, tmp_path, block, name, value):
    made.write_decomposition(tmp_path / "run")
    config = made.final_config()
    ci = config["ci_config"]
    simple = ci["simple_transformer_ci_cfg"]
    places = {"": config, "ci_config": ci, "simple": simple, "attn_config": simple["attn_config"]}
    {**places, "task_config": config["task_config"]}[block][name] = value
    path = tmp_path / "run" / "final_config.yaml"
    path.write_text(yaml.safe_dump(config))
    refused(decomposition_folder, tmp_path / "run", f"'{path}'", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", [1e-6]),
        ("rotary_base", -1),
        ("rotary_base", float("inf")),
        ("n_embd", "12"),
        ("n_layer", True),
        ("n_ctx", 0),
        ("n_key_value_heads", 3),
        ("attn_bias", "no"),
    ],
)
def test_a_field_of_model_config(made, tmp_path, name, value):
    made.write_target(tmp_path / "run")
    path = tmp_path / "run" / "model_config.yaml"
    path.write_text(yaml.safe_dump({**made.model_config(), name: value}))
    refused(load_target, tmp_path / "run", f"'{path}': {name} {value} ")


@pytest.mark.parametrize("content", ["", "- a list", "a: [", "\0"])
@pytest.mark.parametrize("name", ["model_config.yaml", "final_config.yaml"])
def test_a_config_that_is_no_mapping(made, tmp_path, name, content):
    made.write_target(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    refused(load_target, tmp_path / "run", f"'{tmp_path / 'run' / name}'")


# ------------------------------------------------------------------ another function


OTHERS = [("rms_norm_eps", 1e-3), ("rotary_base", 500), ("n_head", 3)]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_configs_of_a_target_that_contradict_each_other(made, tmp_path, name, value):
    made.write_target(tmp_path)
    values = made.model_config()
    heads = {"n_key_value_heads": value} if name == "n_head" else {}
    changed = {**values, name: value, **heads}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(changed))
    (tmp_path / "final_config.yaml").write_text(yaml.safe_dump({"model": values}))
    must = f"model_config.yaml': {name} {value} must be {values[name]}, as final_config.yaml"
    refused(load_target, tmp_path, must)


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_published_decomposition_knows_its_target(made, tmp_path, monkeypatch, name, value):
    """Equal weights, and no config but the target's own: what is known of the run decides."""
    values = made.model_config()
    names = [field.name for field in fields(Architecture)]
    known = Architecture(**{name: values[name] for name in names})
    monkeypatch.setattr(decomposition, "PUBLISHED", {TARGET: known})
    made.write_target(tmp_path / "t")
    made.write_decomposition(tmp_path / "s")
    assert load_decomposition(str(tmp_path / "s"), load_target(str(tmp_path / "t"))).window == 10
    heads = {"n_key_value_heads": value} if name == "n_head" else {}
    changed = {**values, name: value, **heads}
    (tmp_path / "t" / "model_config.yaml").write_text(yaml.safe_dump(changed))
    other = load_target(str(tmp_path / "t"))
    ours = {"rotary_base": "rope_parameters", "n_head": "head_dim"}.get(name, name)
    with pytest.raises(UserError, match=f"is of a target with {ours}.*model.folder") as caught:
        load_decomposition(str(tmp_path / "s"), other)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ leftovers

KILLED = """
import sys, time
import safetensors.torch
def save_file(*args, **kwargs):
    print("converting", flush=True)
    time.sleep(60)
safetensors.torch.save_file = save_file
model_folder(sys.argv[1])
"""


def test_what_a_killed_conversion_left_is_removed_by_the_next(made, tmp_path):
    made.write_target(tmp_path / "run")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "converting\n"
        process.send_signal(signal.SIGKILL)
    (left,) = goodfire_cache().glob("targets/.*.tmp")
    assert (left / "config.json").is_file()
    Checkpoint(seed=1).write_target(tmp_path / "another")
    assert model_folder(str(tmp_path / "another")).is_dir()
    assert not list(goodfire_cache().glob("targets/.*.tmp"))
