"""Downloading a W&B run: from a server on this machine, and the one line without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from pd_finetune.errors import UserError
from pd_finetune.goodfire.download import download_run
from pd_finetune.goodfire.runs import RunPath
from pd_finetune.loading.target import load_target
from tests.goodfire.writer import Checkpoint

RUN = RunPath("goodfire", "spd", "t-0a1b2c3d")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def answer(folder: Path, more: list[str] = ()) -> None:
    """What W&B would say of a run whose files lie in `folder`."""
    nodes = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(folder))
            digest = hashlib.md5(path.read_bytes()).digest()
            nodes.append(
                {
                    "name": name,
                    "directUrl": f"{{address}}/{folder.name}/{name}",
                    "sizeBytes": path.stat().st_size,
                    "md5": base64.b64encode(digest).decode(),
                }
            )
    page = {"endCursor": None, "hasNextPage": False}
    files = {"edges": [{"node": node} for node in nodes], "pageInfo": page}
    whole = {"data": {"project": {"run": {"files": files}}}}
    (folder.parent / "graphql.json").write_text(json.dumps(whole))


@pytest.fixture
def run(tmp_path, serving, monkeypatch):
    """A run on the server, with files that nobody needs beside those that matter."""
    folder = tmp_path / "server" / "run"
    made = Checkpoint()
    made.write_target(folder)
    made.write_target(folder, step=500)
    for extra in ("output.log", "requirements.txt", "code/_session.py"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_text("x")
    answer(folder)
    address, requests = serving(folder.parent)
    monkeypatch.setenv("WANDB_BASE_URL", address)
    return folder, requests


def test_what_is_needed_is_fetched_once(run):
    _, requests = run
    target = load_target(str(RUN))
    names = sorted(path.name for path in RUN.cached().iterdir())
    wanted = ["final_config.yaml", "model_config.yaml", "model_step_99999.pt", "tokenizer.json"]
    assert names == wanted
    assert json.loads(requests[0])["variables"]["run"] == RUN.id
    assert len(requests) == 1 + len(wanted)
    assert load_target(f"wandb:{RUN}").hash == target.hash
    assert len(requests) == 1 + len(wanted)


@pytest.mark.parametrize("how", ["size", "md5"])
def test_damaged_on_the_way(run, how):
    folder, _ = run
    path = folder / "model_step_99999.pt"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-7] if how == "size" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match="model_step_99999.pt arrived damaged"):
        load_target(str(RUN))
    assert not (RUN.cached() / path.name).exists()
    assert not [name for name in RUN.cached().iterdir() if name.name.startswith(".")]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"data": {"project": None}}, "no such public run"),
        ({"data": {"project": {"run": None}}}, "no such public run"),
        ({"errors": [{"message": "x"}]}, "no such public run"),
        (
            {
                "data": {
                    "project": {
                        "run": {
                            "files": {
                                "edges": [],
                                "pageInfo": {"endCursor": None, "hasNextPage": False},
                            }
                        }
                    }
                }
            },
            "holds no checkpoint",
        ),
        ([], "no attribute"),
    ],
)
def test_what_the_server_may_say(run, reply, reason):
    folder, _ = run
    (folder.parent / "graphql.json").write_text(json.dumps(reply))
    with pytest.raises(UserError, match=reason) as caught:
        download_run(RUN, "model.folder")
    assert "\n" not in str(caught.value)


def test_without_a_network(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        load_target(str(RUN))
    message = str(caught.value)
    assert "goodfire/spd/runs/t-0a1b2c3d" in message and "set model.folder to a local" in message
    assert "\n" not in message
    assert not RUN.cached().exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("goodfire/spd/runs/s-55ea3f9b", ("goodfire", "spd", "s-55ea3f9b")),
        ("goodfire/spd/s-55ea3f9b", ("goodfire", "spd", "s-55ea3f9b")),
        ("wandb:goodfire/spd/s-55ea3f9b", ("goodfire", "spd", "s-55ea3f9b")),
        ("wandb:goodfire/spd/runs/55ea3f9b", ("goodfire", "spd", "55ea3f9b")),
        ("https://wandb.ai/goodfire/spd/runs/s-55ea3f9b", ("goodfire", "spd", "s-55ea3f9b")),
        (
            "https://wandb.ai/goodfire/spd/runs/s-55ea3f9b/files?x",
            ("goodfire", "spd", "s-55ea3f9b"),
        ),
        ("s-55ea3f9b", ("goodfire", "spd", "s-55ea3f9b")),
        ("embedded", None),
        ("runs/mine", None),
        ("some/local/folder", None),
        ("/absolute/spd/runs/s-55ea3f9b", None),
    ],
)
def test_spellings_of_a_run(text, expected):
    assert RunPath.parse(text) == (RunPath(*expected) if expected else None)
