"""Hands the schemas to Hydra: each YAML names its own as `/schema/<name>` in its defaults."""

import warnings
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pd_finetune.decomposition import config as decomposition
from pd_finetune.decomposition import toy_config as toys
from pd_finetune.decomposition.bases import config as bases
from pd_finetune.edits import config as edits
from pd_finetune.evaluation import config as evaluation
from pd_finetune.files import config_folder
from pd_finetune.finetuning import config as finetuning
from pd_finetune.goodfire import config as goodfire
from pd_finetune.records import config as records
from pd_finetune.selection import config as selection
from pd_finetune.targets import config as targets
from pd_finetune.text import config as text

GROUPS: dict[str, Any] = {
    "model": targets.ModelConfig,
    "decomposition": decomposition.DecompositionConfig,
    "decomposition_goodfire": goodfire.GoodfireDecompositionConfig,
    "decomposition_train": decomposition.TrainedDecompositionConfig,
    "decomposition_basis": bases.BasisConfig,
    "decomposition_random": bases.RandomBasisConfig,
    "decomposition_language": bases.LanguageBasisConfig,
    "decomposition_lda": bases.LDABasisConfig,
    "languages": text.LanguagesConfig,
    "selection_top": selection.TopSelection,
    "selection_label": selection.LabelSelection,
    "selection_keys": selection.KeysSelection,
    "selection_random": selection.RandomSelection,
    "method_mask": edits.MaskConfig,
    "method_lora": edits.LoraConfig,
    "arm": finetuning.ArmConfig,
    "token_budget": text.TokenBudgetConfig,
    "objective": finetuning.ObjectiveConfig,
    "evaluation": evaluation.EvaluationConfig,
    "logger": records.LoggerConfig,
    "recipe": decomposition.RecipeConfig,
    "ci_function": decomposition.CIFunctionConfig,
    "toy": toys.ToyConfig,
    "toy_tms": toys.TMSConfig,
    "toy_residual_mlp": toys.ResidualMLPConfig,
}


def _tuned(name: str, *, _parent_: Any, _root_: Any) -> float:
    """`${tuned:lr}` in a method's config: the value that its bands hold for the run's budget."""
    return float(edits.band(_parent_.bands, int(_root_.budget))[name])


def _arm_of(method: str, selection: str, where: str, keys: Any) -> str:
    """`${arm_of:...}`: the committed arm that is just this method and selection, or both names.

    One key given by hand is an arm of its own; for an edit of all matrices nothing is selected.
    """
    wanted = {"override /method": method, "override /selection": selection}
    if where == "all":
        del wanted["override /selection"]
    for path in sorted((config_folder() / "arm").glob("*.yaml")):
        arm = yaml.safe_load(path.read_text(encoding="utf-8"))
        made_of = {k: v for entry in arm["defaults"] for k, v in entry.items()}
        if wanted.items() <= made_of.items() and set(arm) <= {"defaults", "arm"}:
            return path.stem
    if where == "all":
        return method
    one = f"-{keys[0]}".replace(":", "-") if keys and len(keys) == 1 else ""
    return f"{method}-{selection}{one}"


def register(stage: str | None = None, schema: Any = None) -> None:
    """Store the groups' schemas, and a stage's own; calling it again does no harm."""
    OmegaConf.register_new_resolver("tuned", _tuned, replace=True)
    OmegaConf.register_new_resolver("arm_of", _arm_of, replace=True)
    store = ConfigStore.instance()
    for name, node in {**GROUPS, **({stage: schema} if stage else {})}.items():
        store.store(group="schema", name=name, node=node, provider="pd_finetune")


def expect_launcher_schemas() -> None:
    """Keep Hydra from warning, in this process, of launchers checked by a plugin's own schema.

    Ours have the plugins' names, as users expect, and so their schemas, as is wanted.
    """
    same_name = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
    warnings.filterwarnings("ignore", message=same_name)
