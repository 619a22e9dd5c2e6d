"""Loading a target: the folder's weights and nothing else, or one line about what is wrong."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.activations import NewGELUActivation

from pd_finetune.errors import UserError
from pd_finetune.loading.target import load_target
from pd_finetune.targets.load import fuse_activations, weights_hash
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target, path = tiny.target(), tmp_path / "model"
    target.model.save_pretrained(path)
    target.tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_what_was_saved_is_loaded(folder: Path) -> None:
    saved, loaded = tiny.target(), load_target(str(folder))
    assert loaded.hash == saved.hash
    assert loaded.vocab_size == saved.vocab_size
    assert loaded.chance_nats == pytest.approx(
        torch.tensor(float(saved.vocab_size)).log().item(), rel=1e-6
    )
    assert loaded.context == 64
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    ids = torch.arange(12)[None]
    torch.testing.assert_close(loaded.model(ids).logits, saved.model(ids).logits)
    assert load_target(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_hash_is_of_the_stored_weights(folder: Path) -> None:
    exact, rounded = load_target(str(folder)), load_target(str(folder), dtype="bfloat16")
    assert rounded.hash == exact.hash == weights_hash(exact.model)
    assert weights_hash(rounded.model) != exact.hash


def test_hash_sees_every_weight(folder: Path) -> None:
    model = load_target(str(folder)).model
    before = weights_hash(model)
    for name, parameter in model.named_parameters():
        changed = copy.deepcopy(model)
        changed.get_parameter(name).view(-1)[-1] += 1e-3
        assert weights_hash(changed) != before, name
        assert parameter.numel() > 0
    assert weights_hash(copy.deepcopy(model)) == before


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "the folder"])
def test_missing_files(missing: str, folder: Path) -> None:
    path = folder / "nowhere" if missing == "the folder" else folder
    if path == folder:
        (folder / missing).unlink()
    with pytest.raises(UserError, match=f"no target model at '{path}'.*model.folder"):
        load_target(str(path))


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the target model at"):
        load_target(str(folder))


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_broken_weights(content: bytes | None, folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=f"cannot load the target model at '{folder}'"):
        load_target(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json(name: str, folder: Path) -> None:
    (folder / name).write_text("{")
    what = "target model" if name == "config.json" else "tokenizer"
    with pytest.raises(UserError, match=f"cannot load the {what} at '{folder}'"):
        load_target(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(UserError, match="cannot load the target model at"):
        load_target(str(folder))


def test_weights_that_lack_a_matrix(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="up_proj"):
        load_target(str(folder))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "executed"
    torch.save({"model.embed_tokens.weight": Bomb(mark)}, folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match="cannot load the target model at"):
        load_target(str(folder))
    assert not mark.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert mark.exists()  # it would have


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (folder / "mine.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot load the target model at"):
        load_target(str(folder))
    assert not mark.exists()


def test_fused_activation_is_the_same_function() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(NewGELUActivation()))
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([0.0, -1e-20, 1e-20])])
    x64 = x.double()
    inner = (2 / torch.pi) ** 0.5 * (x64 + 0.044715 * x64**3)
    expected = 0.5 * x64 * (1 + torch.tanh(inner))
    assert isinstance(model[1][0], NewGELUActivation)
    fuse_activations(model)
    assert isinstance(model[1][0], torch.nn.GELU)
    torch.testing.assert_close(model[1](x).double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model[1](x), NewGELUActivation()(x), atol=1e-6, rtol=1e-6)


def test_loaded_models_are_fused(folder: Path) -> None:
    model = load_target(str(folder)).model
    assert not any(isinstance(m, NewGELUActivation) for m in model.modules())
    assert model.config.hidden_act == "gelu_new"
