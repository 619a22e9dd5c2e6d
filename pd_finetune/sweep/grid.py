"""The jobs of a sweep, and the config of each."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from pd_finetune.errors import UserError


@dataclass(frozen=True)
class Job:
    """One combination of a sweep's values.

    Args:
        number: its place in the whole sweep, whatever part of it is done here.
        name: the values that differ between jobs, as on the command line.
        overrides: all of them, for Hydra.
    """

    number: int
    name: str
    overrides: tuple[str, ...]


class Grid:
    """Every combination of swept values, in Hydra's order: the last one given runs fastest.

    Args:
        loader: composes configs.
        master: the sweep's own config.
        arguments: overrides, those of `hydra.sweeper.params` first.

    Raises:
        UserError: `shard` has several values.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        overrides = self._parser.parse_overrides(arguments)
        if any(o.key_or_group == "shard" and o.is_sweep_override() for o in overrides):
            raise UserError("shard takes one value: start a process for each")
        # which part is done here is no property of a job
        overrides = [override for override in overrides if override.key_or_group != "shard"]
        last = {override.get_key_element(): override for override in overrides}
        swept = {key for key, override in last.items() if override.is_sweep_override()}
        (combinations,) = BasicSweeper.split_arguments(overrides, None)
        self.jobs = [
            Job(
                number,
                " ".join(word for word in words if word.partition("=")[0] in swept) or "defaults",
                tuple(words),
            )
            for number, words in enumerate(combinations)
        ]
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def name(self, experiment: str | None) -> str:
        """A name for the whole sweep, the same for all its parts and repetitions."""
        names = json.dumps([job.name for job in self.jobs])
        return f"{experiment or 'sweep'}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"

    def _override(self, word: str) -> Override:
        if word not in self._parsed:
            (self._parsed[word],) = self._parser.parse_overrides([word])
        return self._parsed[word]

    def _is_value(self, override: Override) -> bool:
        """Whether it sets the value of a key and chooses no config: it takes effect at the end."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not isinstance(override.value(), dict)
            and not any(s.is_group(override.key_or_group) for s in self._loader.get_sources())
        )

    def config(self, job: Job) -> DictConfig:
        """The job's config, as Hydra composes it.

        Hydra takes a third of a second for each; jobs that choose the same files and differ in
        values alone share one composition.

        Raises:
            HydraException, OmegaConfBaseException: a key or a choice does not exist, or a value is
                of another type than its key.
        """
        overrides = [self._override(word) for word in job.overrides]
        values = [override for override in overrides if self._is_value(override)]
        chosen = tuple(o.input_line or "" for o in overrides if o not in values)
        if chosen not in self._bases:
            composed = self._loader.load_sweep_config(self._master, list(job.overrides))
            with open_dict(composed):
                del composed["hydra"]
            self._bases[chosen] = composed
            return copy.deepcopy(composed)
        config = copy.deepcopy(self._bases[chosen])
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config
