"""Make small Llamas of random weights and their tokenizers, without any download.

`python models.py FOLDER NAME...` writes FOLDER/NAME; what is already there is left alone. The weights come from a fixed seed.
They are drawn wider than usual (`initializer_range` 0.05): with 0.02 the greedy output of a random model is one token
for ever, and equal outputs would prove nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

INITIALIZER_RANGE = 0.05
SEED = 0
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
TRAINING_FILES = 60

# 2.9 M parameters, 2 KiB of KV per token and layer pair in float32: an engine starts in seconds.
# 210 M parameters: a prompt of 4k tokens takes seconds to prefill, so that loading it instead can be measured.
SHAPES = {
    "tiny-llama": {
        "vocab_size": 1024,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
    },
    "mid-llama": {
        "vocab_size": 8192,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
    },
}


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Train a byte-level BPE on the sources of the standard library: text that is there on every machine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:TRAINING_FILES]
    tokenizer.train([str(source) for source in sources], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def write_model(folder: Path, name: str) -> None:
    """Write model and tokenizer to a folder beside, then move it into place: an interrupted run leaves nothing half made."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        **SHAPES[name],
        head_dim=64,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(partial)
    write_tokenizer(partial, config.vocab_size)
    partial.rename(folder)


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or any(name not in SHAPES for name in arguments[1:]):
        print(f"usage: models.py FOLDER NAME...; the names are {', '.join(SHAPES)}", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    root.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:]:
        write_model(root / name, name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
