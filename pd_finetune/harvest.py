"""What each subcomponent fires on, by language: `python -m pd_finetune.harvest`."""

from pathlib import Path

from pd_finetune.main import stage_main
from pd_finetune.selection.config import HarvestConfig


def run(config: HarvestConfig) -> Path:
    """Stream text of every language and write the evidence and labels per subcomponent."""
    from hydra.utils import instantiate

    from pd_finetune.loading.decomposition import load_decomposition
    from pd_finetune.loading.folders import decomposition_folder
    from pd_finetune.loading.target import load_target
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.selection.harvest import harvest, save_harvest
    from pd_finetune.selection.summary import print_harvest

    prepare(config.threads)
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    decomposition = load_decomposition(config.decomposition.folder, target)
    beside = decomposition_folder(config.decomposition.folder) / "harvest"
    out = Path(config.out).expanduser() if config.out else beside
    found = harvest(
        target,
        decomposition,
        instantiate(config.languages.source),
        config.languages.all,
        config.rows_per_language,
        split=config.split,
        batch=config.batch,
        only=config.only,
        token_statistics=config.token_statistics,
        effects=config.effects,
        prices=config.prices,
        precision=config.precision,
    )
    save_harvest(found, out)
    print_harvest(found, config.languages.target)
    print(f"harvest: {out}")
    return out


if __name__ == "__main__":
    stage_main("harvest", HarvestConfig, run)
