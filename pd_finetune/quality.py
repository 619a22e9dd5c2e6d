"""The evidence that a decomposition is one: `python -m pd_finetune.quality`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from pd_finetune.decomposition.config import DecompositionConfig, LadderConfig
from pd_finetune.main import stage_main
from pd_finetune.schema import Count, Split, StageConfig
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

if TYPE_CHECKING:
    import numpy as np

    from pd_finetune.targets.load import Target
    from pd_finetune.text.tokens import DocumentSource

RECORD = "quality.json"


@dataclass
class EvidenceConfig(StageConfig):
    """The whole evidence of a stored decomposition: `python -m pd_finetune.quality`."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    split: Split = MISSING  # of the text; never train
    rows_per_language: Count = MISSING  # windows
    batch: Count = MISSING  # windows in a forward
    adversary: LadderConfig = MISSING
    out: str = MISSING


def run(config: EvidenceConfig) -> Path:
    """Measure a stored decomposition on held-out text; write record, table and pictures.

    What is already measured (same settings, model, decomposition and text) is not done again.

    Raises:
        UserError: parts are missing, do not belong together or hold values that are not finite.
    """
    import time
    from dataclasses import asdict

    import numpy as np
    import torch
    from hydra.utils import instantiate

    from pd_finetune.decomposition.evidence.battery import battery
    from pd_finetune.decomposition.evidence.report import page, print_record
    from pd_finetune.files import make_folder, write_json, write_text
    from pd_finetune.loading.decomposition import load_decomposition
    from pd_finetune.loading.target import load_target
    from pd_finetune.plots.evidence.figures import save_figures
    from pd_finetune.records.environment import versions
    from pd_finetune.runtime import device_of, prepare

    started = time.monotonic()
    prepare(config.threads)
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    decomposition = load_decomposition(config.decomposition.folder, target)
    source = instantiate(config.languages.source)
    texts = held_out_windows(config, target, source, decomposition.window)
    out = make_folder(Path(config.out).expanduser())  # before the work, after others' mistakes
    identity = {
        "format": 1,
        "target_hash": target.hash,
        "decomposition_hash": decomposition.hash,
        "text": {
            "split": config.split,
            "window_tokens": decomposition.window,
            "windows": {language: len(rows) for language, rows in texts.items()},
            "fingerprints": {language: source.fingerprint(language) for language in texts},
        },
        "settings": {
            "seed": config.seed,
            "batch": config.batch,
            "dtype": config.model.dtype,
            "adversary": asdict(config.adversary),
        },
    }
    done = _measured(out / RECORD, identity)
    if done is not None:
        print_record(done)
        print(f"already measured with these settings: {out} (remove {RECORD} to do it again)")
        return out
    ids = torch.from_numpy(np.concatenate(list(texts.values()))).to(target.model.device)
    ladder = asdict(config.adversary)
    found = battery(target, decomposition, ids, **ladder, seed=config.seed, batch=config.batch)
    record = identity | found
    record |= {"seconds": round(time.monotonic() - started, 1), "versions": versions()}
    save_figures(record, out)
    write_text(out / "quality.md", page(record))
    write_json(out / RECORD, record)  # last: it says that the rest is there
    print_record(record)
    print(f"evidence: {out}")
    return out


def held_out_windows(
    config: EvidenceConfig, target: Target, source: DocumentSource, window: int
) -> dict[str, np.ndarray]:
    """Windows [rows, window] of each language.

    Raises:
        UserError: a language has less held-out text than one window.
    """
    from pd_finetune.errors import UserError
    from pd_finetune.text.tokens import token_stream, windows

    texts = {}
    for language in config.languages.all:
        stream = token_stream(target.tokenizer, source, language, config.split)
        texts[language] = windows(stream, config.rows_per_language, window)
        if len(texts[language]) == 0:
            raise UserError(
                f"the {config.split} text of '{language}' has {len(stream)} tokens, less than one "
                f"window of {window}: choose another split or leave it out of languages.all"
            )
    return texts


def _measured(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The record at `path` if it is of the same measurement."""
    import json

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(record, dict) and all(record.get(k) == v for k, v in identity.items())
    return record if same else None


if __name__ == "__main__":
    stage_main("quality", EvidenceConfig, run)
