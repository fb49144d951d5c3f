"""Whole runs that several test files start or change."""

import json
from pathlib import Path

import torch

import pipeline
from pipeline.command_line.overrides import key_of
from pipeline.models.tokenizer import write_bytes


def changed(words: list[str], *overrides: str) -> list[str]:
    """The words of a command with others in place of those of the same keys, which a command takes once."""
    return list({key_of(word): word for word in (*words, *overrides)}.values())


def smoke(outputs: Path, *overrides: str) -> pipeline.config.Config:
    """experiment=smoke into a folder of the test's own."""
    # One process tokenises so little text sooner than two.
    words = ["experiment=smoke", f"outputs={outputs}", "precision=fp32", "data.workers=1"]
    return pipeline.compose(changed(words, *overrides))


def half_trained(artifact: Path) -> Path:
    """Puts a model's training back to 2,048 tokens, as a kill leaves it, the last line of its metrics cut short; the
    folder."""
    partial = artifact.resolve().rename(f"{artifact.resolve()}.partial")
    for name in ("manifest.json", "lit_model.pth"):
        (partial / name).unlink()
    lines = (partial / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["tokens"] <= 2_048]
    (partial / "metrics.jsonl").write_text("".join(kept) + lines[len(kept)][:9])
    return partial


def write_llama(folder: Path) -> None:
    """A random Llama of 291,776 parameters over bytes, as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            eos_token_id=256,
        )
    ).save_pretrained(folder)
    write_bytes(folder)


def write_texts(folder: Path) -> None:
    """40 documents."""
    folder.mkdir()
    for number in range(40):
        sentence = f"The house on hill number {number} is old, and the sea is far away. "
        (folder / f"{number}.txt").write_text(sentence * 40)
