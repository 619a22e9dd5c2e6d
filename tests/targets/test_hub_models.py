"""Models by Hub name: from the Hub's cache alone where it is whole, one line where it is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pd_finetune.errors import UserError
from pd_finetune.loading.target import load_target, load_tokenizer
from pd_finetune.targets.hub import is_hub_name
from tests import families

NAME = "someone/small-model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache in its own layout, with one model in it."""
    from huggingface_hub import HfApi, constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nto anywhere")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    root = cache / "models--someone--small-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    families.folder("gpt2", root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    return root / "snapshots" / commit


def test_a_cached_model_needs_no_network(hub: Path) -> None:
    target = load_target(NAME)
    assert target.name == NAME
    assert target.hash == families.target("gpt2").hash
    assert load_tokenizer(NAME).to_str() == target.tokenizer.to_str()


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors", "all"])
def test_without_a_network_one_line(missing: str, hub: Path) -> None:
    if missing == "all":
        shutil.rmtree(hub.parents[1])
    else:
        (hub / missing).unlink()
    with pytest.raises(UserError) as caught:
        load_target(NAME)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no target model at '{NAME}': there is no such folder")
    assert "no route" in message and "set model.folder to a local copy" in message


def test_a_missing_shard_is_noticed(hub: Path) -> None:
    families.target("gpt2").model.save_pretrained(hub, max_shard_size="4KB")
    (hub / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(hub.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert load_target(NAME).hash == families.target("gpt2").hash
    shards[1].unlink()
    with pytest.raises(UserError, match="no route"):
        load_target(NAME)


def test_a_folder_wins_over_a_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub.parents[4])
    families.folder("llama", Path("someone") / "small-model")
    assert load_target(NAME).hash == families.target("llama").hash


def test_names() -> None:
    assert is_hub_name("gpt2") and is_hub_name("EleutherAI/pythia-70m-deduped")
    for path in ("/models/gpt2", "./gpt2", "../gpt2", "a/b/c", "", "a b", "models/gpt2/"):
        assert not is_hub_name(path)
