"""The chunked loss against the dense formula, written out here in float64."""

import pytest
import torch
from tiny_training import student, teacher
from torch import nn

from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.training.losses import check_vocabularies, chunked_loss, distillation_loss

TOKENS, VOCABULARY, WIDTH, TEACHER_WIDTH = 423, 167, 24, 40


def case(rows=176, bias=False):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    head, teacher_head = nn.Linear(WIDTH, rows, bias=bias), nn.Linear(TEACHER_WIDTH, 192, bias=False)
    for parameter in (*head.parameters(), *teacher_head.parameters()):
        parameter.data = normal(*parameter.shape)
    hidden, teacher_hidden = normal(TOKENS, WIDTH).requires_grad_(), normal(TOKENS, TEACHER_WIDTH) / 2
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return head, hidden, targets, teacher_head.requires_grad_(False), teacher_hidden


def dense(head, hidden, targets, teacher_head, teacher_hidden, config):
    """Probabilities from their definition, in float64, all tokens at once; gradients of hidden, weight and bias."""
    parameters = [hidden, *head.parameters()]
    hidden, *rest = [tensor.detach().double().requires_grad_() for tensor in parameters]
    logits = hidden @ rest[0].T + (rest[1] if len(rest) > 1 else 0)
    logits = logits[:, :VOCABULARY]
    theirs = (teacher_hidden.double() @ teacher_head.weight.double().T)[:, :VOCABULARY]

    def softmax(values):
        powers = (values - values.max(dim=1, keepdim=True).values).exp()
        return powers / powers.sum(dim=1, keepdim=True)

    ce = -softmax(logits)[range(TOKENS), targets].log().mean()
    p, q = softmax(theirs / config.temperature), softmax(logits / config.temperature)
    kl = (p * (p / q).log()).sum(dim=1).mean()
    loss = config.alpha * ce + config.beta * config.temperature**2 * kl
    return (loss, ce, kl), torch.autograd.grad(loss, [hidden, *rest])


def config(**values):
    return DistillConfig(tokens=1, **values)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("chunk", [50, 423, 1000])
@pytest.mark.parametrize("alpha, beta, bias", [(0.0, 1.0, False), (0.3, 0.7, True)])
def test_equals_the_dense_formula(temperature, chunk, alpha, beta, bias):
    settings = config(alpha=alpha, beta=beta, temperature=temperature, chunk_tokens=chunk)
    head, hidden, targets, teacher_head, teacher_hidden = case(bias=bias)
    values = chunked_loss(head, hidden, targets, VOCABULARY, settings, teacher_head, teacher_hidden)
    gradients = torch.autograd.grad(values[0], [hidden, *head.parameters()])
    expected, expected_gradients = dense(head, hidden, targets, teacher_head, teacher_hidden, settings)
    for value, wanted in zip((*values, *gradients), (*expected, *expected_gradients), strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_bf16_autocast_is_near_the_dense_formula(temperature):
    settings = config(alpha=0.5, beta=0.5, temperature=temperature, chunk_tokens=100)
    head, hidden, targets, teacher_head, teacher_hidden = case()
    with torch.autocast("cpu", torch.bfloat16):
        values = chunked_loss(head, hidden, targets, VOCABULARY, settings, teacher_head, teacher_hidden)
    gradients = torch.autograd.grad(values[0], [hidden, head.weight])
    expected, expected_gradients = dense(head, hidden, targets, teacher_head, teacher_hidden, settings)
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=1e-2, atol=0)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - wanted).norm() < 0.02 * wanted.norm()


def test_padding_rows_change_nothing_and_get_no_gradient():
    settings = config(alpha=0.5, beta=0.5, chunk_tokens=100)
    head, *rest = case()
    before = chunked_loss(head, *rest[:2], VOCABULARY, settings, *rest[2:])[0].item()
    head.weight.data[VOCABULARY:] = 1e3
    loss = chunked_loss(head, *rest[:2], VOCABULARY, settings, *rest[2:])[0]
    loss.backward()
    assert loss.item() == before
    assert not head.weight.grad[VOCABULARY:].any()
    assert head.weight.grad[:VOCABULARY].any(dim=1).all()


def test_no_more_logits_than_a_chunk_exist_or_are_kept():
    head, hidden, targets, teacher_head, teacher_hidden = case()
    rows, kept = [], []
    for module in (head, teacher_head):
        module.register_forward_hook(lambda _module, _inputs, output: rows.append(len(output)))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        loss, *_ = chunked_loss(
            head, hidden, targets, VOCABULARY, config(chunk_tokens=64), teacher_head, teacher_hidden
        )
    assert max(rows) == 64
    assert VOCABULARY not in {shape[-1] for shape in kept if shape}
    loss.backward()
    assert max(rows) == 64


def test_without_distillation_no_teacher_is_needed():
    settings = config(alpha=1.0, beta=0.0)
    tokens = torch.randint(90, (3, 17), generator=torch.Generator().manual_seed(0))
    model = student()
    loss, ce, kl = distillation_loss(model, None, tokens, settings)
    wanted = nn.functional.cross_entropy(model(tokens[:, :-1])[..., :90].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, wanted)
    assert ce == loss
    assert kl == 0


def test_a_student_equal_to_its_teacher_has_no_divergence():
    tokens = torch.randint(90, (3, 17), generator=torch.Generator().manual_seed(0))
    loss, ce, kl = distillation_loss(teacher(), teacher(), tokens, config())
    assert abs(loss) < 1e-6
    assert abs(kl) < 1e-6
    assert ce > 3


def test_vocabularies_must_agree():
    with pytest.raises(SprigError, match=r"90 tokens but the distillation teacher 80"):
        check_vocabularies(student(), teacher(vocab_size=80))
