"""Mirrors of a run's local files: none, or W&B, which never asks for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError
from pd_finetune.files import json_text
from pd_finetune.records.config import LoggerConfig
from pd_finetune.records.record import RunRecord
from pd_finetune.records.wandb_login import has_login


class Tracker:
    """Somewhere that a run is mirrored to, the local files staying the truth; here nowhere."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one training step."""

    def record(self, record: RunRecord) -> None:
        """The result."""

    def rollouts(self, rollouts: dict[str, dict[str, str]]) -> None:
        """Texts before and after, by language."""

    def finish(self, exit_code: int) -> None:
        """To be called in a `finally`: 0 marks the run finished, anything else failed."""


def _tags(config: dict[str, Any]) -> list[str]:
    """What runs are picked out by in W&B: arm, method, selection, budget, seed, target language."""
    facts = {name: (config.get(name) or {}).get("name") for name in ("arm", "method", "selection")}
    facts |= {name: config.get(name) for name in ("budget", "seed")}
    facts["target"] = config.get("languages", {}).get("target")
    return [f"{name}:{value}" for name, value in facts.items() if value not in (None, "")]


_QUIET: dict[str, Any] = {
    "silent": True,
    "quiet": True,
    "console": "off",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "disable_git": True,
    "disable_code": True,
}


class WandbTracker(Tracker):
    """One W&B run; metrics are named `section/name`, see docs/wandb.md.

    Args:
        settings: project, group and whether it is online.
        folder: run directory; W&B's own folder goes inside it.
        name: the run's name in W&B.
        config: resolved config.

    Raises:
        UserError: online mode without a stored login, or W&B cannot start.
    """

    def __init__(
        self, settings: LoggerConfig, folder: Path, name: str, config: dict[str, Any]
    ) -> None:
        import wandb

        online = settings.kind == "wandb_online"
        if online and not has_login():
            raise UserError("logger=wandb_online needs a login: run `wandb login` or take another")
        self._wandb, self._name = wandb, name
        try:
            self._run = wandb.init(
                project=settings.project,
                group=settings.group,
                name=name,
                tags=_tags(config),
                dir=str(folder),
                config=config,
                mode="online" if online else "offline",
                # a second run of one process is another run, not a continuation
                reinit="create_new",
                settings=wandb.Settings(**_QUIET),
            )
        except (wandb.errors.Error, OSError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise UserError(f"logger={settings.kind}: W&B cannot start ({line})") from None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def record(self, record: RunRecord) -> None:
        """The result: summary values, and `result.json` as an artifact of the run's name."""
        values: dict[str, Any] = {
            "result/to_chance_nats": record.to_chance_nats,
            "result/english_kl_nats": record.english_kl_nats,
            "result/trainable_parameters": record.trainable_parameters,
            "result/total_seconds": record.seconds.total,
        }
        for name, damage in record.damage_nats.items():
            values[f"damage_nats/{name}"] = damage
            values[f"base_ce_nats/{name}"] = record.base.ce_nats[name]
            values[f"edited_ce_nats/{name}"] = record.edited.ce_nats[name]
        for name, measured in record.metrics.items():
            values |= {f"{name}/{key}": value for key, value in measured["edited"].items()}
        for key, value in record.masks.items():
            values[f"masks/{key}"] = value
        self._run.summary.update({name: v for name, v in values.items() if v is not None})
        artifact = self._wandb.Artifact(self._name, type="result")
        with artifact.new_file("result.json", mode="w", encoding="utf-8") as handle:
            handle.write(json_text(record.to_dict()))
        self._run.log_artifact(artifact)

    def rollouts(self, rollouts: dict[str, dict[str, str]]) -> None:
        """A table of prompts and continuations before and after."""
        columns: list[str | int] = ["language", "prompt", "before", "after"]
        rows: list[Any] = [
            [language, t["prompt"], t["before"], t["after"]] for language, t in rollouts.items()
        ]
        self._run.log({"rollouts/texts": self._wandb.Table(columns=columns, data=rows)})

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


def open_tracker(
    settings: LoggerConfig, folder: Path, name: str, config: dict[str, Any]
) -> Tracker:
    """The tracker for `logger=none|wandb_offline|wandb_online`; wandb is imported only if used."""
    if settings.kind == "none":
        return Tracker()
    return WandbTracker(settings, folder, name, config)
