"""Make a LoRA adapter of random weights for a Llama: `python adapter_model.py FOLDER MODEL`.

It turns the queries of the first layer far enough to change greedy tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from models import SEED
from safetensors.torch import save_file

RANK = 8


def main(folder: Path, model: Path) -> None:
    torch.manual_seed(SEED)
    config = json.loads((model / "config.json").read_text())
    heads = config["num_attention_heads"] * config["head_dim"]
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{name}.lora_A.weight": torch.randn(RANK, config["hidden_size"]),
        f"{name}.lora_B.weight": torch.randn(heads, RANK),
    }
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(described))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
