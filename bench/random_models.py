"""Write models with random weights and the layers of larger ones, few of them, for `bench/random_models.toml`.

Their shapes are those of llama-3.2-1b (four layers, float32) and qwen3-0.6b (six layers, bfloat16), with the vocabulary
and the tokenizer of the model that `make model` fetches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

MODELS = Path(".cache/models")


def main(
    folder: Annotated[Path, typer.Option(help="Where the model folders go.")] = MODELS,
    tokenizer: Annotated[Path, typer.Option(help="A model folder whose tokenizer they get.")] = MODELS
    / "smollm2-135m-instruct",
) -> None:
    """Write random-llama and random-qwen3."""
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    common = {"vocab_size": len(tokens), "max_position_embeddings": 8192, "tie_word_embeddings": True}
    llama = LlamaConfig(
        hidden_size=2048,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=8192,
        num_hidden_layers=4,
        initializer_range=0.05,  # the usual 0.02 gives nearly the same attention to every page
        **common,
    )
    qwen3 = Qwen3Config(
        hidden_size=1024,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        num_hidden_layers=6,
        initializer_range=0.05,
        **common,
    )
    torch.manual_seed(0)
    for name, model in {
        "random-llama": LlamaForCausalLM(llama),
        "random-qwen3": Qwen3ForCausalLM(qwen3).bfloat16(),
    }.items():
        model.save_pretrained(folder / name)
        tokens.save_pretrained(folder / name)
        typer.echo(f"{folder / name}: {sum(each.numel() for each in model.parameters()) / 1e6:.0f} million parameters")


if __name__ == "__main__":
    typer.run(main)
