"""Continuation of a prompt, token by token, with a KV cache."""

import logging
from collections.abc import Collection

import torch
from litgpt import GPT

from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states, kv_cache

log = logging.getLogger("sprig")


def warn_of_cut(key: str, tokens: int, context: int) -> None:
    """Says so where a prompt has more tokens than the models' context; `key` is the configuration's name for it."""
    if tokens > context:
        log.warning(f"{key} has {tokens:,} tokens, but the models read only the last {context:,}, their context.")


@torch.no_grad()
def continue_text(
    model: GPT,
    prompt: list[int],
    count: int,
    eos_id: int,
    precision: str,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    further_ends: Collection[int] = (),
) -> list[int]:
    """Up to `count` new token ids, all real entries of the vocabulary; stops before the EOS token, or one of
    `further_ends`.

    Temperature 0 takes the likeliest each time; above it, they are drawn from softmax(logits / temperature) with
    `generator` (of the CPU). Beyond its context the model sees the last tokens alone.
    """
    device, context = model.transformer.wte.weight.device, model.max_seq_length
    ids, seen = list(prompt), 0  # how many tokens the cache holds
    with kv_cache(model, min(len(ids) + count, context)):
        for _ in range(count):
            with autocast(precision, device):
                if len(ids) <= context:
                    hidden = hidden_states(model, torch.tensor([ids[seen:]], device=device), start=seen)
                else:  # every place has moved on, so nothing in the cache is right any more
                    hidden = hidden_states(model, torch.tensor([ids[-context:]], device=device))
                logits = model.lm_head(hidden[:, -1])[0, : model.config.vocab_size]
            seen = len(ids)
            if temperature > 0:
                shares = torch.softmax(logits.float().cpu() / temperature, dim=0)
                token = int(torch.multinomial(shares, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token == eos_id or token in further_ends:
                break
            ids.append(token)
    return ids[len(prompt) :]
