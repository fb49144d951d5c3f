from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F

from pipeline.models import head
from pipeline.models.head import token_nll
from pipeline.models.student import build, hidden_states, initialize


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen2"])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (2, 16)])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 16, 1000])
def test_it_is_the_dense_cross_entropy(family, shape, chunk_tokens):
    model = tiny.teacher(family)
    with torch.no_grad():
        model.lm_head.weight[61:] = 50  # padding rows that would win every softmax
        hidden, targets = hidden_states(model, tiny.tokens(*shape)), tiny.tokens(*shape).flip(1)
        dense = F.cross_entropy(model.lm_head(hidden)[..., :61].flatten(0, 1), targets.flatten(), reduction="none")
    nll = token_nll(model, hidden, targets, chunk_tokens)
    assert nll.shape == shape and nll.dtype == torch.float32 and not nll.requires_grad
    torch.testing.assert_close(nll.flatten(), dense, rtol=0, atol=1e-5)


def test_a_compiled_loss_is_the_same_and_is_compiled_once_for_all_candidates(monkeypatch):
    compiled = torch.compile(head._nll, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(head, "_compiled", lambda function: compiled)
    for number, width in enumerate((32, 48)):
        model = build(replace(tiny.config("llama"), n_embd=width), None, False)
        initialize(model, seed=0)
        hidden, targets = torch.randn(2, 16, width), tiny.tokens(2, 16)
        with torch.autocast("cpu", torch.bfloat16), torch._dynamo.config.patch(error_on_recompile=number == 1):
            ours = token_nll(model, hidden, targets, 8, compiled=True)
            assert torch.equal(ours, token_nll(model, hidden, targets, 8))


def test_the_softmax_is_fp32_under_autocast():
    model = tiny.teacher("llama")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = hidden_states(model, tiny.tokens())
        logits = model.lm_head(hidden)[..., :61]
        assert logits.dtype == torch.bfloat16
        nll = token_nll(model, hidden, tiny.tokens(), chunk_tokens=5)
    dense = F.cross_entropy(logits.double().flatten(0, 1), tiny.tokens().flatten(), reduction="none")
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.flatten().double(), dense, rtol=0, atol=1e-5)


def test_no_more_logits_than_a_chunk_exist():
    model, seen = tiny.teacher("llama"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    token_nll(model, torch.zeros(3, 7, 96), torch.zeros(3, 7, dtype=torch.long), chunk_tokens=8)
    assert seen == [8, 8, 5]
