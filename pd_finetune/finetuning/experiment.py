"""One run: the way from a config to a result record."""

from __future__ import annotations

import inspect
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.utils import get_class
from jaxtyping import Int
from torch import Tensor

from pd_finetune.edits.edit import Edit, Material
from pd_finetune.errors import UserError
from pd_finetune.evaluation.evaluate import Evaluation, evaluate
from pd_finetune.evaluation.held_out import held_out
from pd_finetune.evaluation.metrics import Metric, measure, metrics_of
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.finetuning.identity import finished_run, run_directory
from pd_finetune.finetuning.loop import OnStep, train
from pd_finetune.finetuning.setting import Setting, load_setting, select
from pd_finetune.records.directory import RunDirectory
from pd_finetune.records.environment import git_commit, peak_memory_bytes, versions
from pd_finetune.records.record import RunRecord, Seconds, TargetTokens, Values
from pd_finetune.records.tracking import Tracker, open_tracker
from pd_finetune.selection.rank import Selection
from pd_finetune.text.budget import TargetSample, protect_pool, target_sample


def build_edit(config: RunConfig, material: Material) -> Edit:
    """The edit of a config, at its starting point.

    Raises:
        UserError: the config names no edit, or a setting that it does not take.
    """
    name, arguments = config.method._target_, config.method.arguments()
    try:
        kind = get_class(name)
        inspect.signature(kind).bind(material, **arguments)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"method._target_={name}: {' '.join(str(error).split())}") from None
    built = kind(material, **arguments)
    if not isinstance(built, Edit):
        raise UserError(f"method._target_={name} is no pd_finetune.edits.edit.Edit")
    if built.parameters() and config.method.lr is None:
        raise UserError("method.lr is missing: this edit is trained; give method.lr=...")
    return built


@dataclass
class Prepared:
    """A run with its edit at the starting point and its text drawn; nothing is written yet."""

    config: RunConfig
    setting: Setting
    selection: Selection | None
    edit: Edit
    sample: TargetSample
    pool: Int[Tensor, "pool tokens"]
    metrics: dict[str, Metric]

    @classmethod
    def of(cls, config: RunConfig, setting: Setting) -> Prepared:
        """Select, draw target sample and protected pool, build the edit."""
        target, source = setting.target, setting.source
        languages, objective = config.languages, config.objective
        selection = select(config, setting)
        sample = target_sample(
            target.tokenizer,
            source,
            languages.target,
            config.budget,
            config.seed,
            config.token_budget,
        )
        pool = protect_pool(
            target.tokenizer,
            source,
            languages.preserve,
            config.seed,
            objective.protect_pool,
            objective.protect_tokens,
        )
        keys = selection.keys if selection else []
        material = Material(target, setting.decomposition, keys, sample, pool, config.seed)
        metrics = metrics_of(config.evaluation.metrics)
        edit = build_edit(config, material)
        return cls(config, setting, selection, edit, sample, pool, metrics)

    def fit(self, on_step: OnStep | None = None) -> int:
        """Find the edit's parameters in place; the optimiser steps taken."""
        config = self.config

        def by_objective(edit: Edit) -> int:
            return train(
                self.setting.target,
                edit,
                self.sample,
                self.pool,
                config.objective,
                config.method.lr,
                config.seed,
                on_step,
                config.progress,
            )

        return self.edit.fit(by_objective)

    def evaluate(self) -> Evaluation:
        """Held-out text, before and after the edit."""
        languages = self.config.languages
        return evaluate(
            self.setting.target,
            self.edit,
            self.setting.source,
            languages.all,
            languages.preserve,
            self.config.evaluation,
        )

    def measure(self) -> dict[str, dict[str, dict[str, float]]]:
        """The metrics of `evaluation.metrics`, before and after the edit."""
        if not self.metrics:
            return {}
        target, settings = self.setting.target, self.config.evaluation
        texts = held_out(target, self.setting.source, self.config.languages.all, settings)
        return measure(self.metrics, target, self.edit, texts)


def finetune_run(config: RunConfig) -> tuple[RunRecord, Path, bool]:
    """The record of a run, its directory, and whether it was done just now.

    Raises:
        UserError: something asked for does not exist or does not fit together.
        RunBusy: another process is at work on this run.
    """
    if found := finished_run(config):
        return *found, False
    started = time.monotonic()
    setting = load_setting(config)
    hashes = setting.hashes(config.languages.all)
    directory = run_directory(config, hashes)
    done = directory.finished_record()
    if done is not None:  # seen only now: a model that was never loaded has no known hash
        return done, directory.path, False
    # all that can be refused is refused before anything is written
    prepared = Prepared.of(config, setting)
    selection = prepared.selection
    record = RunRecord(
        status="failed",
        config=asdict(config),
        config_hash=directory.config_hash,
        arm=config.arm.name,
        method=config.method.name,
        budget=config.budget,
        seed=config.seed,
        target_language=config.languages.target,
        chance_nats=setting.target.chance_nats,
        protected_languages=config.languages.preserve,
        selection=[str(key) for key in selection.keys] if selection else [],
        selection_reason=selection.reason if selection else "",
        trainable_parameters=prepared.edit.trainable_count,
        target_tokens=_tokens_spent(config, prepared.sample.tokens, selection),
        versions=versions(),
        git_commit=git_commit(),
        device=str(setting.target.device),
        hashes=hashes,
    )
    with directory:
        tracker = open_tracker(config.logger, directory.path, directory.path.name, asdict(config))
        exit_code = 1
        try:
            _carry_out(prepared, directory, tracker, record, started)
            exit_code = 0
        except Exception as error:
            record.status, record.error = "failed", f"{type(error).__name__}: {error}"
            directory.write_record(record)
            raise
        finally:
            tracker.finish(exit_code)
    return record, directory.path, True


def _carry_out(
    prepared: Prepared,
    directory: RunDirectory,
    tracker: Tracker,
    record: RunRecord,
    started: float,
) -> None:
    """Fit, evaluate, and write everything; the record, written last, is what "done" means."""
    loaded = time.monotonic()

    def on_step(step: int, metrics: dict[str, float]) -> None:
        directory.log(step, metrics)
        tracker.log(step, metrics)

    record.steps = prepared.fit(on_step)
    fitted = time.monotonic()
    found = prepared.evaluate()
    record.metrics = prepared.measure()
    edit = prepared.edit
    edit.save(directory.path)
    record.base, record.edited = Values(found.base_ce_nats), Values(found.edited_ce_nats)
    record.damage_nats = found.damage_nats
    record.damage_standard_error_nats = found.damage_standard_error_nats
    record.to_chance_nats = record.chance_nats - found.edited_ce_nats[record.target_language]
    record.english_kl_nats, record.kl_nats = found.protected_kl_nats, found.kl_nats
    record.masks, record.edit = edit.scalars(), edit.describe()
    directory.write_rollouts(found.rollouts)
    tracker.rollouts(found.rollouts)
    ended = time.monotonic()
    record.seconds = Seconds(loaded - started, fitted - loaded, ended - fitted, ended - started)
    record.peak_memory_bytes = peak_memory_bytes()
    record.status = "finished"
    tracker.record(record)
    directory.write_record(record)


def _tokens_spent(config: RunConfig, training: int, selection: Selection | None) -> TargetTokens:
    chosen = selection.selection_tokens if selection else 0
    by_label = selection is not None and selection.by_label
    return TargetTokens(
        training=training,
        selection=0 if by_label else chosen,
        labels=chosen if by_label else 0,
        # tuned on another language, the settings cost no token of this one
        tuning=(
            config.method.tuning_tokens if config.method.tuned_on == config.languages.target else 0
        ),
    )
