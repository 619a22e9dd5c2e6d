"""What is needed of a decomposition run's `final_config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError


class Settings:
    """What is needed of a run's `final_config.yaml`, flat or with later code's blocks.

    Raises:
        UserError: the decomposition is of a kind that is not read.
    """

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        inner = values.get("pd")
        flat = {**values, **inner} if isinstance(inner, dict) else values
        ci = flat.get("ci_config") or {}
        kind = ci.get("fn_type", "global_shared_transformer")
        if kind != "global_shared_transformer":
            raise UserError(f"'{path}': ci_config.fn_type {kind} is not read")
        if flat.get("sigmoid_type", "leaky_hard") != "leaky_hard":
            raise UserError(f"'{path}': sigmoid_type {flat['sigmoid_type']} is not read")
        if flat.get("identity_module_info"):
            raise UserError(f"'{path}': identity_module_info is not read")
        self.ci: dict[str, Any] = ci.get("simple_transformer_ci_cfg") or {}
        hidden = self.ci.get("mlp_hidden_dim") or [0]
        if len(hidden) != 1:
            raise UserError(f"'{path}': mlp_hidden_dim {hidden} has more than one layer")
        task = values.get("task_config") or values.get("data") or {}
        attention = self.ci.get("attn_config") or {}
        window = task.get("max_seq_len") or attention.get("max_len")
        if not isinstance(window, int) or window < 1:
            raise UserError(f"'{path}': task_config.max_seq_len {window} must be a whole number")
        self.window = window
        target = values.get("target") or {}
        self.target_run = values.get("pretrained_model_name") or target.get("model_name") or ""
