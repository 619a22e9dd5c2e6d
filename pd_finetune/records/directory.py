"""Run directories named by content: a finished run is recognised, a half-finished one redone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, write_text
from pd_finetune.records.record import RunRecord

# what changes how or where a run is done, but not what it finds
_WITHOUT_EFFECT = (
    "logger",
    "paths",
    "device",
    "threads",
    "progress",
    "shard",
    "hydra",
)
_LOCK = ".lock"
_TRIES, _TRY_SECONDS = 20, 0.5
# a finished sweep reads hundreds of configs again; libyaml's reader takes a tenth of the time
_YamlReader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RunBusy(UserError):
    """Another process is at work on this very run, or finished it a moment ago."""


def relevant_config(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved config without logger, paths, device, threads, progress and shard."""
    kept = {name: value for name, value in config.items() if name not in _WITHOUT_EFFECT}
    if isinstance(arm := kept.get("arm"), dict):
        kept["arm"] = arm.get("name")  # label, order and colour are for figures
    return kept


def config_hash(config: dict[str, Any], hashes: dict[str, Any] | None = None) -> str:
    """10 hex digits over the config that matters and the hashes of what goes in.

    Args:
        config: the whole resolved config, plain containers.
        hashes: of target, decomposition and text, where known; other content, other directory.
    """
    content = {"config": relevant_config(config), "hashes": hashes or {}}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _remove_folder(folder: Path) -> None:
    """Delete a folder that a killed run's tracker may be writing its last lines to."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_TRY_SECONDS)
    shutil.rmtree(folder)


class RunDirectory:
    """`<root>/<arm>_b<budget>_s<seed>-<hash>/`; a context manager while the run works in it.

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
        arm: str,
        budget: int,
        seed: int,
        config: dict[str, Any],
        hashes: dict[str, Any] | None = None,
    ) -> None:
        self.config_hash = config_hash(config, hashes)
        self.path = root / f"{arm}_b{budget}_s{seed}-{self.config_hash}"
        self._config = config
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
            there = yaml.load(path.read_text(encoding="utf-8"), _YamlReader)
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
        self._take_lock()
        try:
            if self.finished_record() is not None:
                raise RunBusy(f"another process has just finished '{self.path}': read its record")
            self._compare()
            self._clean()
            text = yaml.safe_dump(self._config, sort_keys=True, allow_unicode=True)
            write_text(self.path / "config.yaml", text)
            self._metrics = open(self.path / "metrics.jsonl", "w", encoding="utf-8", buffering=1)
        except BaseException:
            (self.path / _LOCK).unlink(missing_ok=True)
            self._lock.close()
            raise
        return self

    def _take_lock(self) -> None:
        path = self.path / _LOCK
        while True:
            self._lock = open(path, "w")  # noqa: SIM115
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise RunBusy(f"another process is at work in '{self.path}': wait for it") from None
            # between opening and locking its holder may have removed it: then this locks nothing
            try:
                if os.fstat(self._lock.fileno()).st_ino == path.stat().st_ino:
                    return
            except FileNotFoundError:
                pass
            self._lock.close()

    def _clean(self) -> None:
        for left in self.path.iterdir():
            if left.name == _LOCK:
                continue
            if left.is_dir() and not left.is_symlink():
                _remove_folder(left)
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
