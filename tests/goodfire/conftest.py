"""One thread, an own cache, and the fixture made by Goodfire's own code, loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.target import load_target
from pd_finetune.targets.load import Target
from tests.goodfire.fixture import ABSENT, fixture_folder


@pytest.fixture(scope="session", autouse=True)
def one_thread_own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PD_FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("SPD_OUT_DIR", "PARAM_DECOMP_OUT_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("nothing")))
        yield


@dataclass
class Published:
    """The fixture: what Goodfire's code wrote, and what ours makes of its files."""

    folder: Path
    target: Target
    decomposition: Decomposition
    arrays: dict[str, Tensor]
    described: dict[str, Any]

    @property
    def ids(self) -> Tensor:
        return self.arrays["input_ids"]

    @property
    def metrics(self) -> dict[str, float]:
        return self.described["metrics"]

    @property
    def sites(self) -> list[str]:
        return self.decomposition.ci_function.order

    @cached_property
    def recon(self) -> Reconstruction:
        parts = self.decomposition
        return Reconstruction(self.target.model, parts.components, parts.ci_function, self.ids)

    @cached_property
    def pre_sigmoid(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.decomposition.ci_function.split(self.recon.pre_sigmoid())

    def at_sites(self, kind: str) -> dict[str, Tensor]:
        """One expected array a site."""
        return {name: self.arrays[f"{kind}/{name}"] for name in self.sites}


@pytest.fixture(scope="session")
def published() -> Published:
    folder = fixture_folder()
    if folder is None:
        pytest.skip(ABSENT)
    target = load_target(str(folder / "t-f1xa0000"))
    decomposition = load_decomposition(str(folder / "s-f1xa0000"), target)
    with np.load(folder / "expected.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    described = json.loads((folder / "expected_metrics.json").read_text())
    return Published(folder, target, decomposition, arrays, described)


@pytest.fixture
def serving() -> Iterator[Callable[[Path], tuple[str, list[str]]]]:
    """Serve a folder on this machine: its address, and the paths that were asked for."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> tuple[str, list[str]]:
        requests: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def do_GET(self) -> None:
                requests.append(self.path)
                super().do_GET()

            def do_POST(self) -> None:
                """GraphQL: the answer kept in `graphql.json`, `{address}` filled in."""
                length = int(self.headers["Content-Length"])
                requests.append(self.rfile.read(length).decode())
                text = (folder / "graphql.json").read_text().replace("{address}", address)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None:
                """Nothing on the terminal."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        address = f"http://127.0.0.1:{server.server_address[1]}"
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return address, requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
