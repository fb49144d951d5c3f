"""The chunked loss against the dense formula, written out here in float64 for autograd to differentiate."""

from functools import partial

import pytest
import torch
from tiny_training import student, teacher
from torch import nn

from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.models.head import CappedHead
from pipeline.training import losses
from pipeline.training.batch import Batch
from pipeline.training.losses import check_vocabularies, chunked_loss, distillation_loss, head_reference

VOCABULARY, WIDTH, TEACHER_WIDTH = 167, 24, 40


def case(tokens=423, rows=176, bias=False, seed=0, cap=None):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    linear = nn.Linear if cap is None else partial(CappedHead, cap=cap)
    head, teacher_head = linear(WIDTH, rows, bias=bias), linear(TEACHER_WIDTH, 192, bias=False)
    for parameter in (*head.parameters(), *teacher_head.parameters()):
        parameter.data = normal(*parameter.shape)
    hidden, teacher_hidden = normal(tokens, WIDTH).requires_grad_(), normal(tokens, TEACHER_WIDTH) / 2
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    return head, hidden, targets, teacher_head.requires_grad_(False), teacher_hidden


def dense(head, hidden, targets, teacher_head, teacher_hidden, config):
    """Probabilities from their definition, in float64, all tokens at once; gradients of hidden, weight and bias."""
    parameters = [hidden, *head.parameters()]
    hidden, *rest = [tensor.detach().double().requires_grad_() for tensor in parameters]
    logits = hidden @ rest[0].T + (rest[1] if len(rest) > 1 else 0)
    logits = logits[:, :VOCABULARY]
    theirs = (teacher_hidden.double() @ teacher_head.weight.double().T)[:, :VOCABULARY]
    if isinstance(head, CappedHead):
        logits, theirs = (head.cap * torch.tanh(each / head.cap) for each in (logits, theirs))

    def softmax(values):
        powers = (values - values.max(dim=1, keepdim=True).values).exp()
        return powers / powers.sum(dim=1, keepdim=True)

    def kl(p, q):
        return (p * (p / q).log()).sum(dim=1).mean()

    ce = -softmax(logits)[range(len(targets)), targets].log().mean()
    p, q = softmax(theirs / config.temperature), softmax(logits / config.temperature)
    mixture = config.js_weight * p + (1 - config.js_weight) * q
    distance = {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "js": lambda: config.js_weight * kl(p, mixture) + (1 - config.js_weight) * kl(q, mixture),
        "ce": lambda: torch.zeros(()),
    }[config.loss]()
    loss = ce if config.loss == "ce" else config.alpha * ce + config.beta * config.temperature**2 * distance
    return (loss, ce, distance), torch.autograd.grad(loss, [hidden, *rest])


def chunked(head, hidden, targets, teacher_head, teacher_hidden, config):
    reference = head_reference(teacher_head, teacher_hidden, VOCABULARY, config) if config.distils else None
    values = chunked_loss(head, hidden, targets, VOCABULARY, config, reference)
    return values, torch.autograd.grad(values[0], [hidden, *head.parameters()])


def config(**values):
    return DistillConfig(tokens=1, **values)


KINDS = [{"loss": "forward_kl"}, {"loss": "reverse_kl"}, *({"loss": "js", "js_weight": w} for w in (0.1, 0.5, 0.9))]


@pytest.mark.parametrize("kind", [*KINDS, {"loss": "ce"}], ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha, beta", [(0.0, 1.0), (0.3, 0.7), (2.0, 0.5), (1.0, 0.0)])
def test_equals_the_dense_formula(kind, temperature, alpha, beta):
    settings = partial(config, alpha=alpha, beta=beta, temperature=temperature, **kind)
    for tokens, chunk, bias in [(423, 50, False), (423, 1000, False), (167, 64, True), (167, 167, False)]:
        given = case(tokens, bias=bias)
        values, gradients = chunked(*given, settings(chunk_tokens=chunk))
        expected, expected_gradients = dense(*given, settings())
        if beta == 0:
            expected = (*expected[:2], torch.zeros(()))
        for value, wanted in zip((*values, *gradients), (*expected, *expected_gradients), strict=True):
            torch.testing.assert_close(value.double(), wanted.double(), rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("kind", [*KINDS, {"loss": "ce"}], ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("bias", [False, True])
def test_soft_capped_heads_equal_the_dense_formula(kind, bias):
    settings = config(alpha=0.5, beta=0.5, temperature=2.0, chunk_tokens=50, **kind)
    given = case(bias=bias, cap=4.0)
    values, gradients = chunked(*given, settings)
    expected, expected_gradients = dense(*given, settings)
    for value, wanted in zip((*values, *gradients), (*expected, *expected_gradients), strict=True):
        torch.testing.assert_close(value.double(), wanted.double(), rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_near_the_dense_formula(kind, temperature, autocast):
    settings = config(alpha=0.5, beta=0.5, temperature=temperature, chunk_tokens=100, **kind)
    given = case(bias=True)
    expected, expected_gradients = dense(*given, settings)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            values, gradients = chunked(*given, settings)
    else:
        head, hidden, targets, teacher_head, teacher_hidden = given
        lower = head.bfloat16(), hidden.bfloat16(), targets, teacher_head.bfloat16(), teacher_hidden.bfloat16()
        values, gradients = chunked(*lower, settings)
    assert {gradient.dtype for gradient in gradients} == {torch.float32 if autocast else torch.bfloat16}
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=1e-2, atol=0)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - wanted).norm() < 0.02 * wanted.norm()


def test_padding_rows_change_nothing_and_get_no_gradient():
    settings = config(alpha=0.5, beta=0.5, chunk_tokens=100)
    head, *rest = case()
    before = chunked(head, *rest, settings)[0][0]
    head.weight.data[VOCABULARY:] = 1e3
    (loss, *_), (_, gradient) = chunked(head, *rest, settings)
    assert loss == before
    assert not gradient[VOCABULARY:].any()
    assert gradient[:VOCABULARY].any(dim=1).all()


class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **keywords or {})
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_no_more_logits_than_a_chunk_exist_and_none_are_kept(kind):
    kept = []
    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        chunked(*case(), config(alpha=0.5, beta=0.5, chunk_tokens=64, **kind))
    assert sizes.largest == 423 * TEACHER_WIDTH > 64 * 192  # the teacher's hidden states
    assert not kept


def test_gradients_add_up_over_micro_batches_and_tied_weights():
    """The head's own gradient beside the embedding's, twice, as an accumulating trainer leaves them."""
    tokens = torch.randint(90, (4, 17), generator=torch.Generator().manual_seed(0))
    model, other, settings = student(), student(), config(alpha=0.5, beta=0.5, chunk_tokens=7)
    for part in tokens.split(2):
        (distillation_loss(model, teacher(), Batch(part), settings)[0] / 2).backward()
    logits = other(tokens[:, :-1])[..., :90].flatten(0, 1)
    theirs = teacher()(tokens[:, :-1])[..., :90].flatten(0, 1).detach().softmax(1)
    kl = (theirs * (theirs.log() - logits.log_softmax(1))).sum(1).mean()
    (0.5 * nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()) + 0.5 * kl).backward()
    for (name, parameter), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_head_is_left_as_it_was():
    head, *rest = case()
    with pytest.raises(RuntimeError, match="out of bounds"):
        chunked_loss(head, rest[0], torch.full((423,), 999), VOCABULARY, config(loss="ce"), None)
    assert head(rest[0]).shape == (423, 176)


def test_without_distillation_no_teacher_is_needed():
    settings = config(loss="ce")
    tokens = torch.randint(90, (3, 17), generator=torch.Generator().manual_seed(0))
    model = student()
    loss, ce, kl = distillation_loss(model, None, Batch(tokens), settings)
    wanted = nn.functional.cross_entropy(model(tokens[:, :-1])[..., :90].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, wanted)
    assert ce == loss
    assert kl == 0


def test_a_student_equal_to_its_teacher_has_no_divergence():
    tokens = torch.randint(90, (3, 17), generator=torch.Generator().manual_seed(0))
    loss, ce, kl = distillation_loss(teacher(), teacher(), Batch(tokens), config())
    assert abs(loss) < 1e-6
    assert abs(kl) < 1e-6
    assert ce > 3


def test_vocabularies_must_agree():
    with pytest.raises(SprigError, match=r"90 tokens but the distillation teacher 80: set kd_teacher to a model"):
        check_vocabularies(student(), teacher(vocab_size=80))


@pytest.mark.parametrize(
    "values",
    [{"loss": "forward_kl", "alpha": 0.5}, pytest.param({"loss": "js", "temperature": 2.0}, marks=pytest.mark.slow)],
)
def test_a_compiled_chunk_gives_the_same_and_is_compiled_once(values, monkeypatch):
    """The values stay the dense formula's; no chunk and no step compiles again, and nothing falls out of the graph."""
    compiled = torch.compile(losses._chunk, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(losses, "_compiled_chunk", lambda: compiled)
    settings = config(chunk_tokens=16, compile=True, **values)
    for step in range(2):
        inputs = case(32, seed=step)
        with torch._dynamo.config.patch(error_on_recompile=step == 1):
            found, gradients = chunked(*inputs, settings)
        wanted, dense_gradients = dense(*inputs, settings)
        for ours, theirs in zip((*found, *gradients), (*wanted, *dense_gradients), strict=True):
            assert torch.allclose(ours.double(), theirs, atol=1e-5, rtol=1e-4)
