"""A run directory read again: its record, and the target that its edit belongs to."""

from __future__ import annotations

from pathlib import Path

from pd_finetune.errors import UserError
from pd_finetune.loading.target import load_target
from pd_finetune.records.record import RunRecord
from pd_finetune.runtime import device_of
from pd_finetune.targets.load import Target


def record_of(folder: Path) -> RunRecord:
    """The record of a finished run.

    Raises:
        UserError: the folder is missing, half-finished or failed.
    """
    if not folder.is_dir():
        raise UserError(f"run={folder}: there is no such folder; give a finished run directory")
    if not (folder / "result.json").is_file():
        raise UserError(
            f"run={folder} is no finished run: result.json is missing; finish it with "
            "python -m pd_finetune.run and the same values, or give another"
        )
    record = RunRecord.read(folder / "result.json")
    if not record.finished:
        raise UserError(f"run={folder} failed ({record.error}): there is no edit to export")
    return record


def target_of(record: RunRecord, folder: Path, device: str) -> Target:
    """The target that the run edited, checked by its hash.

    Raises:
        UserError: it is not where the record says, or has changed since.
    """
    try:
        path, dtype = (record.config["model"][name] for name in ("folder", "dtype"))
    except (KeyError, TypeError) as error:
        raise UserError(f"'{folder / 'result.json'}' lacks a resolved config: {error}") from None
    try:
        target = load_target(path, device_of(device), dtype)
        if target.hash != record.hashes.target:
            raise UserError(
                f"the target model '{path}' is another one now ({target.hash[:12]}..., "
                f"the record says {record.hashes.target[:12]}...)"
            )
    except UserError as error:
        raise UserError(
            f"cannot load what run={folder} edited: {error} (export from the folder that the run "
            "was started in, with the same files in place)"
        ) from None
    return target
