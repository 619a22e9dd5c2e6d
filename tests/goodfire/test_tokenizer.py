"""The tokenizer of a run without tokenizer.json: the one that its config names, from the Hub."""

from __future__ import annotations

import pytest
import yaml

from pd_finetune.errors import UserError
from pd_finetune.goodfire.target import tokenizer_name
from pd_finetune.loading.target import load_target
from pd_finetune.text import pile_tokenizer
from tests.goodfire.writer import Checkpoint, fresh_tokenizer


@pytest.fixture
def folder(tmp_path):
    Checkpoint(seed=9).write_target(tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").unlink()
    return tmp_path / "run"


def test_from_the_hub(folder, tmp_path, monkeypatch):
    asked = []

    def hub(name: str) -> str:
        asked.append(name)
        fresh_tokenizer(53).save(str(tmp_path / "hub.json"))
        return str(tmp_path / "hub.json")

    monkeypatch.setattr(pile_tokenizer, "_from_hub", hub)
    assert load_target(str(folder)).vocab_size == 53
    assert asked == ["EleutherAI/gpt-neox-20b"]


def test_hub_out_of_reach(folder, monkeypatch):
    def hub(name: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(pile_tokenizer, "_from_hub", hub)
    with pytest.raises(UserError) as caught:
        load_target(str(folder))
    message = str(caught.value)
    assert "'EleutherAI/gpt-neox-20b' (no route to host)" in message and "\n" not in message
    assert f"put a working tokenizer.json of it into '{folder}'" in message


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"train_dataset_config": {"hf_tokenizer_path": "some/one"}}, "some/one"),
        ({"data": {"tokenizer_name": "some/other"}}, "some/other"),
        ({"seed": 0}, "EleutherAI/gpt-neox-20b"),
        (None, "EleutherAI/gpt-neox-20b"),
    ],
)
def test_name(tmp_path, config, name):
    if config is not None:
        (tmp_path / "final_config.yaml").write_text(yaml.safe_dump(config))
    assert tokenizer_name(tmp_path) == name
