"""Files of a public W&B run, over W&B's GraphQL interface.

`wandb.Api` asks for a login even where a project is public, so the same question is put directly;
WANDB_API_KEY is sent where it is set, for private copies. WANDB_BASE_URL names another server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, replacing
from pd_finetune.goodfire.runs import RunPath

_QUERY = """query Files($entity: String!, $project: String!, $run: String!, $after: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    files(first: 100, after: $after) {
      edges { node { name directUrl sizeBytes md5 } }
      pageInfo { endCursor hasNextPage }
    } } } }"""
_SMALL = ("final_config.yaml", "model_config.yaml", "tokenizer.json")
_SECONDS = 20


def _request(url: str, body: bytes | None = None, signed: bool = False) -> Any:
    headers = {"User-Agent": "pd_finetune"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    key = os.environ.get("WANDB_API_KEY")
    if signed and key:
        token = base64.b64encode(f"api:{key}".encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    request = urllib.request.Request(url, data=body, headers=headers)
    return urllib.request.urlopen(request, timeout=_SECONDS)


def _files(run: RunPath) -> dict[str, dict[str, Any]]:
    """All files of a run by name: address, size in bytes, base64 MD5."""
    base = (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")
    found: dict[str, dict[str, Any]] = {}
    after: str | None = None
    while True:
        variables = {
            "entity": run.entity,
            "project": run.project,
            "run": run.id,
            "after": after,
        }
        body = json.dumps({"query": _QUERY, "variables": variables}).encode()
        with _request(f"{base}/graphql", body, signed=True) as response:
            answer = json.load(response)
        project = (answer.get("data") or {}).get("project")
        if not project or not project.get("run"):
            raise LookupError("W&B knows no such public run")
        files = project["run"]["files"]
        found.update({edge["node"]["name"]: edge["node"] for edge in files["edges"]})
        after = files["pageInfo"]["endCursor"]
        if not files["pageInfo"]["hasNextPage"]:
            return found


def _wanted(names: list[str]) -> list[str]:
    """The small files there are and, last, the checkpoint of the highest step."""
    steps = {
        int(match[1]): name
        for name in names
        if (match := re.fullmatch(r"model\w*_(\d+)\.(?:pt|pth|safetensors)", name))
    }
    if not steps:
        raise LookupError("the run holds no checkpoint model*_<step>.pt or .pth")
    return [name for name in _SMALL if name in names] + [steps[max(steps)]]


def _fetch(file: dict[str, Any], path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    size = int(file["sizeBytes"])
    bar = tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=size < 2**20)
    with replacing(path) as temporary:
        with bar, _request(file["directUrl"]) as response, open(temporary, "wb") as out:
            while chunk := response.read(2**20):
                out.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            written = out.tell()
        expected = file.get("md5")
        if written != size or (expected and base64.b64decode(expected) != digest.digest()):
            raise OSError(f"{path.name} arrived damaged ({written} of {size} bytes)")


def download_run(run: RunPath, option: str) -> Path:
    """Download what is needed of a run into the cache; what is there already stays.

    Raises:
        UserError: no network, no such run, or a file that arrives damaged.
    """
    folder = run.cached()
    try:
        files = _files(run)
        names = _wanted(list(files))
        make_folder(folder)
        for name in names:
            if not (folder / name).is_file():
                _fetch(files[name], folder / name)
    except (OSError, HTTPException, LookupError, ValueError, TypeError, AttributeError) as error:
        # URLError is an OSError; the last ones are answers of another shape
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"cannot download W&B run {run} ({reason}): set {option} to a local folder that holds "
            "its files (*.yaml and model*_<step>.pt or .pth)"
        ) from None
    return folder
