"""Make a tiny Gemma 3 of random weights: `python hybrid_model.py FOLDER TOKENS`.

Five layers of six look back so many tokens, so vLLM keeps several KV groups.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from models import INITIALIZER_RANGE, SEED, write_tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig


def main(folder: Path, window_tokens: int) -> None:
    torch.manual_seed(SEED)
    config = Gemma3TextConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16384,
        sliding_window=window_tokens,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
