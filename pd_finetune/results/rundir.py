"""Run directories named by content: a finished run is recognised, a half-finished one redone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.results.record import RunRecord

# what changes how or where a run is done, but not what it finds
_WITHOUT_EFFECT = ("logger", "paths", "device", "threads", "progress", "hydra")
_LOCK = ".lock"


def relevant_config(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved config without logger, paths, device, threads and progress."""
    return {name: value for name, value in config.items() if name not in _WITHOUT_EFFECT}


def config_hash(config: dict[str, Any], hashes: dict[str, Any] | None = None) -> str:
    """10 hex digits over the config that matters and the hashes of what goes in.

    Args:
        config: the whole resolved config, plain containers.
        hashes: of target, decomposition and text, where known; other content, other directory.
    """
    content = {"config": relevant_config(config), "hashes": hashes or {}}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class RunDirectory:
    """`<root>/<method>_b<budget>_s<seed>-<hash>/`; a context manager while the run works in it.

    Entering makes the directory, or cleans what a half-finished or failed run left, and writes
    `config.yaml`; other processes are kept out until it is left. An exception that passes through
    leaves `error.txt`.

    Args:
        root: folder of run directories.
        config: the whole resolved config, plain containers.
        hashes: see `config_hash`.
    """

    def __init__(
        self,
        root: Path,
        method: str,
        budget: int,
        seed: int,
        config: dict[str, Any],
        hashes: dict[str, Any] | None = None,
    ) -> None:
        self.config_hash = config_hash(config, hashes)
        self.path = root / f"{method}_b{budget}_s{seed}-{self.config_hash}"
        self._config = yaml.safe_dump(config, sort_keys=True, allow_unicode=True)
        self._relevant = relevant_config(config)
        self._lock: Any = None

    def finished_record(self) -> RunRecord | None:
        """The record where this very run is done, else None.

        Raises:
            UserError: the directory holds another config (edited by hand, or a damaged record).
        """
        if not (self.path / "result.json").is_file():
            return None
        self._compare()
        record = RunRecord.read(self.path / "result.json")
        return record if record.finished else None

    def _compare(self) -> None:
        path = self.path / "config.yaml"
        if not path.is_file():
            return
        try:
            there = yaml.safe_load(path.read_text(encoding="utf-8"))
            same = relevant_config(there) == self._relevant
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            same = False
        if not same:
            raise UserError(
                f"'{path}' is not the config that this run directory is named after: "
                "move the directory away, or set paths.runs to another folder"
            )

    def __enter__(self) -> RunDirectory:
        make_folder(self.path)
        self._lock = open(self.path / _LOCK, "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"another process is at work in '{self.path}': wait for it") from None
        try:
            self._compare()
            self._clean()
            write_text(self.path / "config.yaml", self._config)
            self._metrics = open(self.path / "metrics.jsonl", "w", encoding="utf-8", buffering=1)
        except BaseException:
            self._lock.close()
            raise
        return self

    def _clean(self) -> None:
        for left in self.path.iterdir():
            if left.name == _LOCK:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line to `metrics.jsonl`."""
        line = json.dumps({"step": step, **metrics}, ensure_ascii=False, allow_nan=False)
        self._metrics.write(line + "\n")

    def write_rollouts(self, rollouts: dict[str, dict[str, str]]) -> None:
        """Write `rollouts.jsonl`: language, prompt, before, after."""
        lines = [
            json.dumps({"language": language, **texts}, ensure_ascii=False)
            for language, texts in rollouts.items()
        ]
        write_text(self.path / "rollouts.jsonl", "".join(line + "\n" for line in lines))

    def write_record(self, record: RunRecord) -> None:
        """Write `result.json`; with status finished this is what "done" means, so it comes last."""
        self._metrics.flush()
        record.write(self.path / "result.json")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._metrics.close()
            if error is not None:
                text = "".join(traceback.format_exception(kind, error, trace))
                write_text(self.path / "error.txt", text)
        finally:
            (self.path / _LOCK).unlink(missing_ok=True)
            self._lock.close()
