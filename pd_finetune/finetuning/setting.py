"""What a run works on, loaded once for many runs: target, decomposition, harvest, labels, text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from hydra.utils import instantiate

from pd_finetune.decomposition.bases.assemble import built
from pd_finetune.decomposition.bases.config import BasisConfig
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.finetuning.config import RunConfig
from pd_finetune.finetuning.identity import published_labels
from pd_finetune.goodfire.harvest_db import HarvestedSubcomponent, read_harvest
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import decomposition_folder, model_folder, remember_hash
from pd_finetune.loading.target import load_target
from pd_finetune.records.record import Hashes
from pd_finetune.runtime import device_of, no_collection, prepare, settle_threads
from pd_finetune.selection.by_text import select_by_text
from pd_finetune.selection.harvest import Harvest, load_harvest
from pd_finetune.selection.rank import Selection
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource

_Stamp = tuple[tuple[str | int, ...], ...]


def _stamp(folder: Path) -> _Stamp:
    """What tells a folder's files from others under the same names: these are loaded anew."""
    if not folder.is_dir():
        return ()
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats)


def _target(folder: str, device: str, dtype: str) -> Target:
    return _target_as_it_is(_stamp(model_folder(folder)), folder, device, dtype)


@lru_cache(maxsize=1)
@no_collection()
def _target_as_it_is(stamp: _Stamp, folder: str, device: str, dtype: str) -> Target:
    target = load_target(folder, device_of(device), dtype)
    path = model_folder(folder)
    if _stamp(path) == stamp:
        remember_hash(path, dtype, target.hash)
    return target


def target_of(config: RunConfig) -> Target:
    """The target of a config, which its run then takes over."""
    return _target(config.model.folder, config.device, config.model.dtype)


def _decomposition(folder: str, model: tuple[str, str, str]) -> Decomposition:
    return _decomposition_as_it_is(_stamp(decomposition_folder(folder)), folder, _target(*model))


@lru_cache(maxsize=1)
def _decomposition_as_it_is(stamp: _Stamp, folder: str, target: Target) -> Decomposition:
    return load_decomposition(folder, target)


def _harvest(folder: str, model: tuple[str, str, str]) -> Harvest:
    root = decomposition_folder(folder) / "harvest"
    return _harvest_as_it_is(_stamp(root), root, _target(*model), _decomposition(folder, model))


@lru_cache(maxsize=1)
@no_collection()
def _harvest_as_it_is(
    stamp: _Stamp, root: Path, target: Target, decomposition: Decomposition
) -> Harvest:
    return load_harvest(root, target, decomposition)


@lru_cache(maxsize=1)
def _harvested(harvest_db: str) -> dict[SubcomponentKey, HarvestedSubcomponent]:
    return read_harvest(harvest_db)


@dataclass
class Setting:
    """What a run works on; loaded once per process and shared by all runs of a sweep."""

    target: Target
    decomposition: Decomposition
    source: DocumentSource
    model: tuple[str, str, str]

    def hashes(self, languages: list[str]) -> Hashes:
        """Of all that goes into a run."""
        text = {name: self.source.fingerprint(name) for name in languages}
        return Hashes(self.target.hash, self.decomposition.hash, text)


def load_setting(config: RunConfig) -> Setting:
    """Load target, decomposition and text source of a config; settle the CPU threads it runs on."""
    prepare(config.threads)
    model = (config.model.folder, config.device, config.model.dtype)
    target = _target(*model)
    source = instantiate(config.languages.source)
    if isinstance(config.decomposition, BasisConfig):
        decomposition = built(config.decomposition, target, source, config.languages.all)
    else:
        decomposition = _decomposition(config.decomposition.folder, model)
    if not config.threads:
        settle_threads(target.device, target.model.num_parameters())
    # a protected window counts its end-of-text token, a target sequence does not
    longest = max(config.token_budget.sequence_tokens + 1, config.objective.protect_tokens)
    if longest > target.context:
        raise UserError(
            f"token_budget.sequence_tokens={config.token_budget.sequence_tokens} (and an "
            f"end-of-text token) or objective.protect_tokens={config.objective.protect_tokens} "
            f"does not fit into the target's context of {target.context}"
        )
    return Setting(target, decomposition, source, model)


def select(config: RunConfig, setting: Setting) -> Selection | None:
    """The subcomponents a run may scale; None for an edit that goes by none."""
    if not config.method.selects:
        return None
    if labels := published_labels(config):
        harvest_db = getattr(config.decomposition, "harvest_db", None)
        return select_by_text(
            labels,
            setting.decomposition,
            config.languages.target,
            _harvested(harvest_db) if harvest_db else {},
        )
    arguments = {k: v for k, v in asdict(config.selection).items() if k != "name"}
    harvested = config.selection.reads_harvest
    chosen: Selection = instantiate({**arguments, "_partial_": True})(
        harvest=_harvest(config.decomposition.folder, setting.model) if harvested else None,
        decomposition=setting.decomposition,
        target_language=config.languages.target,
        seed=config.seed,
    )
    return chosen
