"""One run: the way from a config to a result record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from jaxtyping import Int
from torch import Tensor

from pd_finetune.config import LabelSelection, RunConfig
from pd_finetune.evaluation.evaluate import Evaluation, evaluate
from pd_finetune.finetuning.identity import finished_run, run_directory
from pd_finetune.finetuning.loop import FinetuneResult, finetune
from pd_finetune.finetuning.setting import Setting, load_setting, select
from pd_finetune.results.environment import git_commit, peak_memory_bytes, versions
from pd_finetune.results.record import Hashes, RunRecord, Seconds, TargetTokens, Values
from pd_finetune.results.rundir import RunDirectory
from pd_finetune.results.tracker_process import warm_up
from pd_finetune.results.tracking import Tracker, open_tracker
from pd_finetune.selection.rank import Selection
from pd_finetune.text.budget import TargetSample, protect_pool, target_sample

StepCallback = Callable[[int, dict[str, float]], None]


def build_method(config: RunConfig, setting: Setting, selection: Selection | None) -> Any:
    """The method object of a config, at its starting point."""
    arguments = {k: v for k, v in asdict(config.method).items() if k not in _NOT_THE_METHODS}
    return instantiate({**arguments, "_partial_": True})(
        setting.target,
        setting.decomposition,
        selection.keys if selection else [],
        seed=config.seed,
    )


# of the method's group, but read by the objective and the record
_NOT_THE_METHODS = ("bands", "kl_weight", "tuning_tokens", "tuned_on")


@dataclass
class Prepared:
    """A run with its method at the starting point and its text drawn; nothing is written yet."""

    config: RunConfig
    setting: Setting
    selection: Selection | None
    method: Any
    sample: TargetSample
    pool: Int[Tensor, "pool tokens"]

    @classmethod
    def of(cls, config: RunConfig, setting: Setting) -> Prepared:
        """Select, build the method, draw target sample and protected pool."""
        tokenizer, source = setting.target.tokenizer, setting.source
        languages, objective = config.languages, config.objective
        selection = select(config, setting)
        return cls(
            config,
            setting,
            selection,
            build_method(config, setting, selection),
            target_sample(
                tokenizer,
                source,
                languages.target,
                config.budget,
                config.seed,
                config.token_budget,
            ),
            protect_pool(
                tokenizer,
                source,
                languages.preserve,
                config.seed,
                objective.protect_pool,
                objective.protect_tokens,
            ),
        )

    def finetune(self, on_step: StepCallback | None = None) -> FinetuneResult:
        """Train the method in place."""
        config = self.config
        return finetune(
            self.setting.target,
            self.method,
            self.sample,
            self.pool,
            config.objective,
            config.seed,
            on_step,
            config.progress,
        )

    def evaluate(self) -> Evaluation:
        """Held-out text, before and after the edit."""
        languages = self.config.languages
        return evaluate(
            self.setting.target,
            self.method,
            self.setting.source,
            languages.all,
            languages.preserve,
            self.config.evaluation,
        )


def finetune_run(config: RunConfig) -> tuple[RunRecord, Path, bool]:
    """The record of a run, its directory, and whether it was done just now.

    Raises:
        UserError: something asked for does not exist or does not fit together.
        RunBusy: another process is at work on this run.
    """
    if found := finished_run(config):
        return *found, False
    started = time.monotonic()
    warm_up(config.logger)
    setting = load_setting(config)
    languages = config.languages
    hashes = Hashes(
        setting.target.hash,
        setting.decomposition.hash,
        {name: setting.source.fingerprint(name) for name in languages.all},
    )
    directory = run_directory(config, hashes)
    done = directory.finished_record()
    if done is not None:
        return done, directory.path, False
    # all that can be refused is refused before anything is written
    prepared = Prepared.of(config, setting)
    record = RunRecord(
        status="failed",
        config=asdict(config),
        config_hash=directory.config_hash,
        method=config.method.name,
        budget=config.budget,
        seed=config.seed,
        target_language=languages.target,
        chance_nats=setting.target.chance_nats,
        protected_languages=languages.preserve,
        selection=[str(key) for key in prepared.selection.keys] if prepared.selection else [],
        selection_reason=prepared.selection.reason if prepared.selection else "",
        trainable_parameters=prepared.method.trainable_count,
        target_tokens=_tokens_spent(config, prepared.sample.tokens, prepared.selection),
        versions=versions(),
        git_commit=git_commit(),
        device=str(setting.target.model.device),
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
    """Train, evaluate, and write everything; the record, written last, is what "done" means."""
    loaded = time.monotonic()

    def on_step(step: int, metrics: dict[str, float]) -> None:
        directory.log(step, metrics)
        tracker.log(step, metrics)

    result = prepared.finetune(on_step)
    trained = time.monotonic()
    found = prepared.evaluate()
    prepared.method.save(directory.path)
    record.base, record.edited = Values(found.base_ce_nats), Values(found.edited_ce_nats)
    record.damage_nats = found.damage_nats
    record.damage_standard_error_nats = found.damage_standard_error_nats
    record.to_chance_nats = record.chance_nats - found.edited_ce_nats[record.target_language]
    record.english_kl_nats, record.kl_nats = found.protected_kl_nats, found.kl_nats
    description = prepared.method.record()
    record.masks, record.lora = description.get("masks", {}), description.get("lora")
    record.steps, record.stopped_early = result.steps, result.stopped_early
    directory.write_rollouts(found.rollouts)
    tracker.rollouts(found.rollouts)
    finished = time.monotonic()
    record.seconds = Seconds(
        loaded - started, trained - loaded, finished - trained, finished - started
    )
    record.peak_memory_bytes = peak_memory_bytes()
    record.status = "finished"
    tracker.record(record)
    directory.write_record(record)


def _tokens_spent(config: RunConfig, training: int, selection: Selection | None) -> TargetTokens:
    chosen = selection.selection_tokens if selection else 0
    by_label = isinstance(config.selection, LabelSelection)
    return TargetTokens(
        training=training,
        selection=0 if by_label else chosen,
        labels=chosen if by_label else 0,
        # tuned on another language, the settings cost no token of this one
        tuning=(
            config.method.tuning_tokens if config.method.tuned_on == config.languages.target else 0
        ),
    )
