"""Write what the embedded target makes of the embedded held-out text, so that no first run has to.

    python scripts/ship_base_values.py

The values are keyed by weights, tokenizer, text and settings, as in the cache, and used for nothing
else; tests compute them anew.
"""

import json
import os
import tempfile
from pathlib import Path

from pd_finetune.cli.compose import stage_config
from pd_finetune.finetuning.config import RunConfig


def main() -> None:
    """Compute cross-entropies and rollouts of the defaults into an empty cache, and collect it."""
    config = stage_config("run", RunConfig, [])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PD_FINETUNE_CACHE"] = folder
        from pd_finetune.evaluation import base
        from pd_finetune.evaluation.evaluate import base_rollouts, base_values
        from pd_finetune.evaluation.held_out import held_out
        from pd_finetune.files import write_json
        from pd_finetune.finetuning.setting import load_setting

        base.SHIPPED.unlink(missing_ok=True)
        setting = load_setting(config)
        texts = held_out(setting.target, setting.source, config.languages.all, config.evaluation)
        base_values(setting.target, texts, config.evaluation)
        base_rollouts(setting.target, config.evaluation)
        files = sorted((Path(folder) / "evaluation").glob("*.json"))
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        write_json(base.SHIPPED, {content["key"]: content["value"] for content in contents})
        print(f"{len(contents)} entries in {base.SHIPPED.name}")


if __name__ == "__main__":
    main()
