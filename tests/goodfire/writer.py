"""Random checkpoints in the layout of Goodfire's W&B runs, and a plain reading of their maths."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

TARGET, DECOMPOSITION = "t-0a1b2c3d", "s-0a1b2c3d"


def fresh_tokenizer(vocab: int) -> Tokenizer:
    words = {"<|endoftext|>": 0, **{f"w{i}": i for i in range(1, vocab)}}
    made = Tokenizer(models.WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<|endoftext|>"])
    return made


@dataclass
class Checkpoint:
    """A target, its decomposition and configs; shapes that are all different."""

    vocab: int = 53
    width: int = 12
    layers: int = 2
    heads: int = 2
    inner: int = 20
    context: int = 10
    ci_width: int = 16
    ci_blocks: int = 2
    ci_heads: int = 2
    ci_inner: int = 14
    seed: int = 0
    C: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        kinds = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj"]
        kinds += ["mlp.c_fc", "mlp.down_proj"]
        names = [f"h.{i}.{kind}" for i in range(self.layers) for kind in kinds]
        self.C = self.C or {name: 3 + i for i, name in enumerate(names)}
        self.target = self._target()
        self.decomposition = self._decomposition()

    def _normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * scale

    def shape(self, site: str) -> tuple[int, int]:
        """[d_out, d_in]."""
        inner = {"mlp.c_fc": (self.inner, self.width), "mlp.down_proj": (self.width, self.inner)}
        return inner.get(site.split(".", 2)[2], (self.width, self.width))

    def _target(self) -> dict[str, Tensor]:
        embedding = self._normal(self.vocab, self.width)
        state = {"wte.weight": embedding}
        for i in range(self.layers):
            for norm in ("rms_1", "rms_2"):
                state[f"h.{i}.{norm}.weight"] = 1 + self._normal(self.width, scale=0.2)
        for site in self.C:
            d_out, d_in = self.shape(site)
            state[f"{site}.weight"] = self._normal(d_out, d_in, scale=1.3 / math.sqrt(d_in))
        state["ln_f.weight"] = 1 + self._normal(self.width, scale=0.2)
        state["lm_head.weight"] = embedding
        return state

    def _decomposition(self) -> dict[str, Tensor]:
        state = {f"target_model.{name}": tensor for name, tensor in self.target.items()}
        for site in sorted(self.C):
            d_out, d_in = self.shape(site)
            name = f"_components.{site.replace('.', '-')}"
            state[f"{name}.V"] = self._normal(d_in, self.C[site], scale=0.5)
            state[f"{name}.U"] = self._normal(self.C[site], d_out, scale=0.5)
        width, inner, total = self.ci_width, self.ci_inner, sum(self.C.values())
        inputs = sum(self.shape(site)[1] for site in self.C)
        ci = {
            "_input_projector.W": self._normal(inputs, width, scale=inputs**-0.5),
            "_input_projector.b": self._normal(width, scale=0.3),
            "_output_head.W": self._normal(width, total, scale=width**-0.5),
            "_output_head.b": self._normal(total, scale=0.3),
        }
        half = width // self.ci_heads // 2
        for i in range(self.ci_blocks):
            block = f"_blocks.{i}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                weight = self._normal(width, width, scale=1.5 * width**-0.5)
                ci[f"{block}.attn.{part}.weight"] = weight
            ci[f"{block}.attn.rope.inv_freq"] = 10000.0 ** (-torch.arange(half) / half)
            ci[f"{block}.mlp.0.W"] = self._normal(width, inner, scale=width**-0.5)
            ci[f"{block}.mlp.0.b"] = self._normal(inner, scale=0.3)
            ci[f"{block}.mlp.2.W"] = self._normal(inner, width, scale=inner**-0.5)
            ci[f"{block}.mlp.2.b"] = self._normal(width, scale=0.3)
        state |= {f"ci_fn._global_ci_fn.{name}": tensor for name, tensor in ci.items()}
        return state

    # -------------------------------------------------------------- files

    def model_config(self) -> dict[str, Any]:
        return {
            "attn_bias": False,
            "block_size": self.context,
            "flash_attention": False,
            "mlp_bias": False,
            "model_type": "LlamaSimpleMLP",
            "n_ctx": self.context,
            "n_embd": self.width,
            "n_head": self.heads,
            "n_intermediate": self.inner,
            "n_key_value_heads": self.heads,
            "n_layer": self.layers,
            "rms_norm_eps": 1e-6,
            "rotary_adjacent_pairs": False,
            "rotary_base": 10000,
            "rotary_dim": 4,
            "use_grouped_query_attention": True,
            "vocab_size": self.vocab,
        }

    def final_config(self) -> dict[str, Any]:
        return {
            "seed": 0,
            "ci_config": {
                "mode": "global",
                "fn_type": "global_shared_transformer",
                "simple_transformer_ci_cfg": {
                    "d_model": self.ci_width,
                    "n_blocks": self.ci_blocks,
                    "mlp_hidden_dim": [self.ci_inner],
                    "attn_config": {
                        "n_heads": self.ci_heads,
                        "max_len": self.context,
                        "rope_base": 10000.0,
                    },
                },
            },
            "sigmoid_type": "leaky_hard",
            "module_info": [{"module_pattern": n, "C": c} for n, c in reversed(self.C.items())],
            "identity_module_info": None,
            "pretrained_model_name": f"goodfire/spd/runs/{TARGET}",
            "tokenizer_name": "EleutherAI/gpt-neox-20b",
            "task_config": {"task_name": "lm", "max_seq_len": self.context},
        }

    def write_target(
        self, folder: Path, nested: bool = False, suffix: str = ".pt", step: int = 99999
    ) -> Path:
        """A pretraining run's files; returns the checkpoint."""
        from safetensors.torch import save_file

        place = folder / "checkpoints" if nested else folder
        place.mkdir(parents=True, exist_ok=True)
        (folder / "model_config.yaml").write_text(yaml.safe_dump(self.model_config()))
        training = {"train_dataset_config": {"hf_tokenizer_path": "EleutherAI/gpt-neox-20b"}}
        (folder / "final_config.yaml").write_text(yaml.safe_dump(training))
        fresh_tokenizer(self.vocab).save(str(folder / "tokenizer.json"))
        path = place / f"model_step_{step}{suffix}"
        if suffix == ".safetensors":
            save_file({k: v for k, v in self.target.items() if k != "lm_head.weight"}, path)
        else:
            torch.save(self.target, path)
        return path

    def write_decomposition(
        self, folder: Path, state: dict[str, Any] | None = None, **config: Any
    ) -> Path:
        """A decomposition run's files; returns the checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {**self.final_config(), **config}
        (folder / "final_config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        path = folder / "model_400000.pth"
        torch.save(self.decomposition if state is None else state, path)
        return path

    # -------------------------------------------------------------- maths

    def forward(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what each site reads."""
        W, reads = self.target, {}
        x = W["wte.weight"][ids]
        causal = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        for i in range(self.layers):
            y = _rms(x, 1e-6) * W[f"h.{i}.rms_1.weight"]
            heads = {}
            for part in "qkv":
                site = f"h.{i}.attn.{part}_proj"
                reads[site], heads[part] = y, y @ W[f"{site}.weight"].T
            y = _attention(heads["q"], heads["k"], heads["v"], self.heads, causal)
            reads[f"h.{i}.attn.o_proj"] = y
            x = x + y @ W[f"h.{i}.attn.o_proj.weight"].T
            y = _rms(x, 1e-6) * W[f"h.{i}.rms_2.weight"]
            reads[f"h.{i}.mlp.c_fc"] = y
            y = F.gelu(y @ W[f"h.{i}.mlp.c_fc.weight"].T, approximate="tanh")
            reads[f"h.{i}.mlp.down_proj"] = y
            x = x + y @ W[f"h.{i}.mlp.down_proj.weight"].T
        return _rms(x, 1e-6) * W["ln_f.weight"] @ W["lm_head.weight"].T, reads

    def pre_sigmoid(self, reads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the CI function by site, as its state dict says: q, k, v read three times."""
        P = {k.rpartition("_global_ci_fn.")[2]: v for k, v in self.decomposition.items()}
        eps = torch.finfo(torch.float32).eps
        x = torch.cat([_rms(reads[site], eps) for site in sorted(self.C)], -1)
        x = x @ P["_input_projector.W"] + P["_input_projector.b"]
        for i in range(self.ci_blocks):
            block, y = f"_blocks.{i}", _rms(x, eps)
            q, k, v = (y @ P[f"{block}.attn.{part}_proj.weight"].T for part in "qkv")
            x = x + _attention(q, k, v, self.ci_heads, None) @ P[f"{block}.attn.out_proj.weight"].T
            y = _rms(x, eps) @ P[f"{block}.mlp.0.W"] + P[f"{block}.mlp.0.b"]
            x = x + F.gelu(y) @ P[f"{block}.mlp.2.W"] + P[f"{block}.mlp.2.b"]
        x = x @ P["_output_head.W"] + P["_output_head.b"]
        names = sorted(self.C)
        return dict(zip(names, x.split([self.C[name] for name in names], -1), strict=True))


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def turn(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    q, k, v = turn(split(q)), turn(split(k)), split(v)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)


# ------------------------------------------------------------------ databases


def write_interp_db(path: Path, labels: dict[str, str], confidence: bool = True) -> Path:
    """`interp.db` in the older schema, or in the one without confidence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = ", confidence TEXT NOT NULL" if confidence else ""
    values = ["medium"] if confidence else []
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE interpretations (component_key TEXT PRIMARY KEY, label TEXT NOT NULL"
            f"{extra}, reasoning TEXT NOT NULL, raw_response TEXT, prompt TEXT)"
        )
        for key, label in labels.items():
            row = [key, label, *values, "because", "{}", "?"]
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO interpretations VALUES ({marks})", row)
    connection.close()
    return path
