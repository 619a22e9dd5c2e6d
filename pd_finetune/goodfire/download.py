"""Files of public W&B runs, over W&B's GraphQL interface, and of Goodfire's published page.

`wandb.Api` asks for a login even where a project is public, so the same question is put directly;
WANDB_API_KEY is sent where it is set, for private copies. WANDB_BASE_URL names another server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from pd_finetune.errors import UserError, first_line
from pd_finetune.files import alone, make_folder, replacing
from pd_finetune.goodfire.cache import goodfire_cache, remove_leftovers
from pd_finetune.goodfire.checkpoint import checkpoint_at, latest_checkpoint
from pd_finetune.goodfire.runs import RunPath

_QUERY = """query Files($entity: String!, $project: String!, $run: String!, $after: String) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    files(first: 100, after: $after) {
      edges { node { name directUrl sizeBytes md5 } }
      pageInfo { endCursor hasNextPage }
    } } } }"""
_SMALL = ("final_config.yaml", "model_config.yaml", "tokenizer.json")
_SECONDS = 20
# no network, a broken connection, and answers of another shape (a URLError is an OSError)
_FAILURES = (OSError, HTTPException, LookupError, ValueError, TypeError, AttributeError)


def _request(url: str, body: bytes | None = None) -> Any:
    """Open an address; with a body, as a question to W&B."""
    headers = {"User-Agent": "pd_finetune"}
    if body is not None:
        headers["Content-Type"] = "application/json"
        if key := os.environ.get("WANDB_API_KEY"):
            headers["Authorization"] = f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}"
    request = urllib.request.Request(url, data=body, headers=headers)
    return urllib.request.urlopen(request, timeout=_SECONDS)


def _files(run: RunPath) -> dict[str, dict[str, Any]]:
    """All files of a run by name: address, size in bytes, base64 MD5."""
    base = (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")
    found: dict[str, dict[str, Any]] = {}
    asked = {"entity": run.entity, "project": run.project, "run": run.id, "after": None}
    while True:
        body = json.dumps({"query": _QUERY, "variables": asked}).encode()
        with _request(f"{base}/graphql", body) as response:
            answer = json.load(response)
        project = (answer.get("data") or {}).get("project")
        if not project or not project.get("run"):
            raise LookupError("W&B knows no such public run")
        files = project["run"]["files"]
        found.update({edge["node"]["name"]: edge["node"] for edge in files["edges"]})
        asked["after"] = files["pageInfo"]["endCursor"]
        if not files["pageInfo"]["hasNextPage"]:
            return found


def _save(url: str, path: Path, size_bytes: int | None = None, md5: str | None = None) -> None:
    """Save what an address holds; size and base64 MD5 are compared where they are known."""
    digest = hashlib.md5(usedforsecurity=False)
    small = size_bytes is None or size_bytes < 2**20
    bar = tqdm(total=size_bytes, desc=path.name, unit="B", unit_scale=True, disable=small)
    with replacing(path) as temporary:
        with bar, _request(url) as response, open(temporary, "wb") as out:
            while chunk := response.read(2**20):
                out.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            written = out.tell()
        if size_bytes not in (None, written) or (md5 and base64.b64decode(md5) != digest.digest()):
            raise OSError(f"{path.name} arrived damaged ({written} of {size_bytes} bytes)")


def download_run(run: RunPath, option: str) -> Path:
    """Download what is needed of a run into the cache; what is there already stays.

    Raises:
        UserError: no network, no such run, or a file that arrives damaged.
    """
    folder = run.cached()
    try:
        files = _files(run)
        checkpoint = latest_checkpoint(list(files))
        if checkpoint is None:
            raise LookupError("the run holds no checkpoint model*_<step>.pt or .pth")
        with alone(folder.parent):
            remove_leftovers(make_folder(folder))
            # the checkpoint last: it takes the longest
            for name in [*(name for name in _SMALL if name in files), checkpoint]:
                if not (folder / name).is_file():
                    file = files[name]
                    size = int(file["sizeBytes"])
                    _save(file["directUrl"], folder / name, size, file.get("md5"))
    except _FAILURES as error:
        raise UserError(
            f"cannot download W&B run {run} ({first_line(error, 160)}): set {option} to a local "
            "folder that holds its files (*.yaml and model*_<step>.pt or .pth)"
        ) from None
    return folder


def fetch_labels(address: str) -> Path:
    """The local copy of a label file on the web, fetched once.

    Raises:
        UserError: it cannot be reached.
    """
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = goodfire_cache() / "published" / key / Path(urlsplit(address).path).name
    if path.is_file():
        return path
    try:
        make_folder(path.parent)
        _save(address, path)
    except _FAILURES as error:
        raise UserError(
            f"cannot fetch labels from '{address}' ({first_line(error, 160)}): set "
            "decomposition.labels to a local copy, an interp.db or a JSON file of {key: label}, or "
            "name the subcomponent by selection=keys, as in selection.keys=[h.3.attn.v_proj:513]"
        ) from None
    return path


def run_folder(given: str, option: str, config: str) -> Path:
    """The local folder or file meant by `given`, downloaded first where it is a W&B run.

    A path that exists wins over a run of the same spelling; one that is neither comes back as it
    is.

    Args:
        option: the setting that named it, for messages (`model.folder`).
        config: file that a complete folder holds beside its checkpoint.

    Raises:
        UserError: the run cannot be downloaded.
    """
    path = Path(given).expanduser()
    run = None if path.exists() else RunPath.parse(given)
    if run is None:
        return path
    for folder in run.local_folders():
        if (folder / config).is_file() and checkpoint_at(folder):
            return folder
    return download_run(run, option)
