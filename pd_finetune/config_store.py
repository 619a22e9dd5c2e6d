"""Hands the schemas to Hydra: each YAML names its own as `/schema/<name>` in its defaults."""

import warnings
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pd_finetune import config, decomposition_configs, stage_configs, toy_configs
from pd_finetune.decomposition.bases import config as bases

SCHEMAS: dict[str, Any] = {
    # stages
    "run": config.RunConfig,
    "pretrain": stage_configs.PretrainConfig,
    "decompose": decomposition_configs.DecomposeConfig,
    "quality": decomposition_configs.EvidenceConfig,
    "corpus": stage_configs.CorpusConfig,
    "harvest": stage_configs.HarvestConfig,
    "export": stage_configs.ExportConfig,
    "figures": stage_configs.FiguresConfig,
    "rollouts": stage_configs.RolloutsConfig,
    # groups
    "model": config.ModelConfig,
    "decomposition": config.DecompositionConfig,
    "decomposition_goodfire": config.GoodfireDecompositionConfig,
    "decomposition_train": decomposition_configs.TrainedDecompositionConfig,
    "decomposition_basis": bases.BasisConfig,
    "decomposition_random": bases.RandomBasisConfig,
    "decomposition_language": bases.LanguageBasisConfig,
    "decomposition_lda": bases.LDABasisConfig,
    "languages": config.LanguagesConfig,
    "selection_top": config.TopSelection,
    "selection_label": config.LabelSelection,
    "selection_keys": config.KeysSelection,
    "selection_random": config.RandomSelection,
    "method_mask": config.MaskConfig,
    "method_lora": config.LoraConfig,
    "token_budget": config.TokenBudgetConfig,
    "objective": config.ObjectiveConfig,
    "evaluation": config.EvaluationConfig,
    "logger": config.LoggerConfig,
    "recipe": decomposition_configs.RecipeConfig,
    "toy": toy_configs.ToyConfig,
    "toy_tms": toy_configs.TMSConfig,
    "toy_residual_mlp": toy_configs.ResidualMLPConfig,
}


def _tuned(name: str, *, _parent_: Any, _root_: Any) -> float:
    """`${tuned:lr}` in a method's config: the value that its bands hold for the run's budget."""
    return float(config.band(_parent_.bands, int(_root_.budget))[name])


def register_schemas() -> None:
    """Store every schema under the group `schema`; calling it twice does no harm."""
    OmegaConf.register_new_resolver("tuned", _tuned, replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(group="schema", name=name, node=schema, provider="pd_finetune")


def expect_launcher_schemas() -> None:
    """Keep Hydra from warning, in this process, of launchers checked by a plugin's own schema.

    Ours have the plugins' names, as users expect, and so their schemas, as is wanted.
    """
    same_name = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
    warnings.filterwarnings("ignore", message=same_name)
