"""A harvest: what is known of each subcomponent from text, and its folder of parquet and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, make_folder, replacing, write_json
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
_TABLES = ("subcomponents", "tokens", "examples")


@dataclass
class Harvest:
    """Statistics of all harvested subcomponents over text in several languages.

    Args:
        subcomponents: one row each, in the order of `Decomposition.all_keys`: key, site, index,
            mean_ci_<language>, firing_<language> and strong_firing_<language> (fractions of
            tokens), mean_ci (mean over languages), mean_activation, mean_abs_activation, norm,
            top_language, share, languages (comma-joined), exclusive, general, label (empty where
            dead), effect_nats (nan where not exclusive),
            price_scale and price_nats (nan where not measured).
        tokens: key, side (in | out), token, token_id, pmi (nats), count, pmi_rank, weight_rank.
        examples: key, rank, language, row, position, before, at, after, ci.
        config: languages, tokens_per_language, thresholds, `hashes` of target, tokenizer,
            decomposition and text, and the settings it was made with.
    """

    subcomponents: pd.DataFrame
    tokens: pd.DataFrame
    examples: pd.DataFrame
    config: dict[str, Any]

    @property
    def languages(self) -> list[str]:
        return list(self.config["languages"])

    def tokens_spent(self, language: str) -> int:
        """Tokens of one language that the harvest read; 0 where it read none."""
        return int(self.config["tokens_per_language"].get(language, 0))

    def evidence(self, key: SubcomponentKey) -> dict[str, pd.DataFrame]:
        """The rows of the three tables that speak of one subcomponent, by table name."""
        return {
            name: getattr(self, name)[getattr(self, name)["key"] == str(key)] for name in _TABLES
        }


def identity(target: Target, decomposition: Decomposition) -> dict[str, str]:
    """Hashes (hex SHA-256) of what a harvest belongs to."""
    import hashlib

    return {
        "target": target.hash,
        "tokenizer": hashlib.sha256(target.tokenizer.to_str().encode()).hexdigest(),
        "decomposition": decomposition.hash,
    }


def save_harvest(harvest: Harvest, folder: Path) -> None:
    """Write the three tables, then `harvest.json` with their hashes: it is what "complete" means.

    Raises:
        UserError: the decomposition has no hash, or the folder cannot be written.
    """
    if not harvest.config["hashes"]["decomposition"]:
        raise UserError("this harvest's decomposition has no hash: store the decomposition first")
    make_folder(folder)
    files = {}
    for name in _TABLES:
        path = folder / f"{name}.parquet"
        with replacing(path) as temporary:
            getattr(harvest, name).to_parquet(temporary, index=False)
        files[path.name] = file_sha256(path)
    write_json(folder / "harvest.json", {"format": FORMAT, **harvest.config, "files": files})


def load_harvest(folder: Path, target: Target, decomposition: Decomposition) -> Harvest:
    """Read a harvest of just this target and decomposition.

    Raises:
        UserError: it is missing, incomplete, of another format, target or decomposition.
    """
    import pandas as pd

    path = folder / "harvest.json"
    again = "run python -m pd_finetune.harvest to make it"
    if decomposition.stored_ci_function is None:
        again = "make it of the whole decomposition, and run scripts/slim_decomposition.py"
    if not path.is_file():
        raise UserError(f"no harvest in '{folder}': {again}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"'{path}' is not JSON: {again} anew") from None
    if not isinstance(config, dict) or config.pop("format", None) != FORMAT:
        raise UserError(f"'{path}' is not of harvest format {FORMAT}: {again} anew")
    files = config.pop("files")
    for name, expected in identity(target, decomposition).items():
        given = config["hashes"][name]
        if given != expected:
            raise UserError(
                f"the harvest in '{folder}' is of another {name} ({given[:12]}, "
                f"this one is {expected[:12] or 'unhashed'}): {again} anew"
            )
    for file, sha in files.items():
        if not (folder / file).is_file() or file_sha256(folder / file) != sha:
            raise UserError(f"'{folder / file}' is missing or does not belong here: {again} anew")
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES}
    return Harvest(**tables, config=config)
