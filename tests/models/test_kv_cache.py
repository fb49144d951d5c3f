"""Continuations with a KV cache against whole forward passes, and draws against the distribution they come from."""

from itertools import product

import exports
import pytest
import tiny
import torch
from covering import grid

from pipeline.evaluation.sampling import continue_text
from pipeline.models.families import architecture_of
from pipeline.models.student import hidden_states, kv_cache
from pipeline.subnetwork.counting import kv_bytes_per_token

SHAPES = (exports.uniform, exports.layerwise)


@torch.no_grad()
def greedily(model, prompt: list[int], count: int) -> list[int]:
    """One whole forward pass a token, over what the context holds."""
    ids = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([ids[-model.max_seq_length :]]))[0, -1, : model.config.vocab_size]
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.proves("generation with a KV cache", lambda family: family)
@pytest.mark.parametrize(("family", "shape"), [*product(tiny.FIRST, SHAPES), *grid(tiny.LATER, SHAPES)])
@torch.no_grad()
def test_the_cache_changes_nothing(family, shape):
    """Logits and tokens, for students whose layers have caches of their own sizes."""
    model = exports.student(family, shape(family, cut_head=True), tied=False)
    tokens = exports.tokens(1)
    with kv_cache(model, tokens.size(1)):
        parts = [hidden_states(model, tokens[:, a:b], start=a) for a, b in ((0, 9), (9, 10), (10, 24))]
    torch.testing.assert_close(model.lm_head(torch.cat(parts, dim=1)), model(tokens), atol=1e-4, rtol=0)
    prompt = tokens[0, :7].tolist()
    assert continue_text(model, prompt, 20, eos_id=256, precision="fp32") == greedily(model, prompt, 20)
    assert all(block.attn.kv_cache is None for block in model.transformer.h)


@pytest.mark.parametrize("length", [30, 32, 40])
def test_beyond_its_context_a_model_sees_the_last_tokens(length):
    model = tiny.teacher("llama")
    prompt = tiny.tokens(1, length)[0].tolist()
    assert continue_text(model, prompt, 6, eos_id=-1, precision="fp32") == greedily(model, prompt, 6)


def test_a_text_ends_before_the_token_that_ends_it():
    model, prompt = tiny.teacher("llama"), [3, 1, 4]
    tokens = greedily(model, prompt, 8)
    end = tokens[5]
    assert continue_text(model, prompt, 8, eos_id=end, precision="fp32") == tokens[: tokens.index(end)]


def test_draws_follow_the_temperature():
    model, prompt = tiny.teacher("llama"), [3, 1, 4]
    with torch.no_grad():
        logits = model(torch.tensor([prompt]))[0, -1, :61]
    generator = torch.Generator().manual_seed(0)
    drawn = [continue_text(model, prompt, 1, -1, "fp32", 2.0, generator)[0] for _ in range(600)]
    shares = torch.softmax(logits / 2.0, dim=0)
    seen = torch.bincount(torch.tensor(drawn), minlength=61) / 600
    assert ((seen - shares).abs() <= 5 * (shares * (1 - shares) / 600).sqrt() + 1e-3).all()
    assert shares.max() < 0.9, "one token that is nearly certain would prove nothing"
    one, two, other = (
        continue_text(model, prompt, 20, -1, "fp32", 2.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one == two != other


@pytest.mark.parametrize("family", tiny.families())
def test_the_cache_has_the_counted_bytes(family):
    sub = exports.layerwise(family, cut_head=True)
    model = exports.student(family, sub, tied=False)
    whole = exports.teacher(family, tied=False)
    for each, cut in ((model, sub), (whole, None)):
        with kv_cache(each, 24):
            held = sum(buffer.nbytes for block in each.transformer.h for buffer in block.attn.kv_cache.buffers())
        architecture = architecture_of(whole.config, tied=False)
        assert held == 24 * kv_bytes_per_token(architecture, cut, value_bytes=4)
