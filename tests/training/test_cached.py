"""What a cache keeps of a teacher, against the teacher's whole distribution."""

import pytest
import torch
from torch import nn

from pipeline.config import CacheConfig, DistillConfig
from pipeline.errors import SprigError
from pipeline.training.cached import decode, encode, token_dtype
from pipeline.training.losses import chunked_loss, head_reference

TOKENS, VOCABULARY, WIDTH = 40, 61, 12


def config(kind, slots, **values):
    return DistillConfig(tokens=1, chunk_tokens=16, cache=CacheConfig(kind=kind, slots=slots), **values)


def case():
    generator = torch.Generator().manual_seed(0)
    head, teacher_head = (nn.Linear(WIDTH, VOCABULARY + 3, bias=False) for _ in range(2))
    for module in (head, teacher_head):
        module.weight.data = torch.randn(module.weight.shape, generator=generator)
    hidden, theirs = (torch.randn(TOKENS, WIDTH, generator=generator) for _ in range(2))
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return head, hidden.requires_grad_(), targets, teacher_head.requires_grad_(False), theirs


def kept(settings, teacher_head, theirs, uniform=None):
    """What a cache hands to the loss."""
    temperatures = settings.cache_temperatures
    uniform = torch.zeros(TOKENS, 2, dtype=torch.float64) if uniform is None else uniform
    dtype = token_dtype(settings.cache, temperatures, VOCABULARY)
    logits = teacher_head(theirs)[:, :VOCABULARY].clone()
    return decode(encode(logits, dtype, temperatures, uniform), temperatures, settings)


def loss_and_gradients(reference, settings, head, hidden, targets):
    loss, _, divergence = chunked_loss(head, hidden, targets, VOCABULARY, settings, reference)
    return torch.cat([divergence[None], *(g.flatten() for g in torch.autograd.grad(loss, [hidden, head.weight]))])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_samples_give_the_full_kl_and_its_gradient_in_expectation(temperature):
    """200 independent fillings, the gradients seen along 50 random directions: the mean of each number is within 5
    standard errors of the full one (which a normal variable misses once in 1.7 million), and these errors are small.
    Single entries would not do: an id too rare to be drawn in 200 fillings shows no spread at all."""
    settings = config("sampled", 6, temperature=temperature)
    head, hidden, targets, *teacher = case()
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(hidden.numel() + head.weight.numel(), 50, generator=generator)

    def seen(reference):
        values = loss_and_gradients(reference, settings, head, hidden, targets)
        return torch.cat([values[:1], values[1:] @ directions]).detach().double()

    full = seen(head_reference(*teacher, VOCABULARY, settings))
    uniform = torch.rand(200, TOKENS, 2, dtype=torch.float64, generator=generator)
    draws = torch.stack([seen(kept(settings, *teacher, each)) for each in uniform])
    errors = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - full).abs() <= 5 * errors).all()
    assert errors.norm() < 0.1 * full.norm()


def drawn(slots, temperature=1.0, fillings=1):
    """Kept ids and weights (fillings * TOKENS, slots), the teacher's p at the temperature, and the threshold tau of
    sum min(1, p / tau) = slots, found by bisection."""
    settings = config("sampled", slots, temperature=temperature)
    *_, teacher_head, theirs = case()
    theirs = theirs.repeat(fillings, 1)
    uniform = torch.rand(len(theirs), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reference = kept(settings, teacher_head, theirs, uniform)
    p = (teacher_head(theirs)[:, :VOCABULARY].double() / temperature).softmax(1)
    low, high = torch.zeros(len(p), 1), torch.ones(len(p), 1)
    for _ in range(60):
        tau = (low + high) / 2
        many = (p / tau).clamp(max=1).sum(1, keepdim=True) > slots
        low, high = torch.where(many, tau, low), torch.where(many, high, tau)
    return reference.ids, reference.weights, p, tau


@pytest.mark.parametrize("slots", [1, 6, 32, VOCABULARY - 1])
def test_likely_ids_keep_their_own_weight_and_the_others_the_threshold(slots):
    """No two the same; a weight is a whole number of draws, 4 a slot, next to the one that it stands for."""
    ids, weights, p, tau = drawn(slots)
    assert all(len(row.unique()) == slots for row in ids)
    torch.testing.assert_close(weights.sum(1), torch.ones(TOKENS))
    torch.testing.assert_close(weights * 4 * slots, (weights * 4 * slots).round())
    assert ((weights - torch.maximum(p.gather(1, ids), tau)).abs() < 1.001 / (4 * slots)).all()
    there = torch.zeros_like(p).scatter_(1, ids, 1)
    assert there[p > tau * 1.001].all()


def test_their_variance_is_that_of_threshold_sampling_and_far_below_independent_draws():
    """Closed forms: sum p (tau - p) over p < tau, and what rounding to whole draws adds, at most 1/4 a slot in squared
    draws; sum p (1 - p) / slots."""
    slots = 8
    ids, weights, p, tau = drawn(slots, fillings=400)
    found = (torch.zeros_like(p).scatter_(1, ids, weights.double()) - p).square().sum(1).mean()
    least = (p * (tau - p)).clamp(min=0).sum(1).mean()
    assert 0.95 * least < found < 1.05 * least + slots / 4 / (4 * slots) ** 2
    assert found < 0.6 * (p * (1 - p)).sum(1).mean() / slots


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("slots", [5, 30, VOCABULARY - 1])
def test_the_kept_ids_and_their_tail_give_the_divergence_of_that_partition(loss, temperature, slots):
    """With all ids but one kept the tail is one id, and the divergence the full one."""
    settings = config("topk", slots, temperature=temperature, loss=loss, alpha=0.2)
    head, hidden, targets, *teacher = case()
    found = loss_and_gradients(kept(settings, *teacher), settings, head, hidden, targets)

    theirs = teacher[0](teacher[1])[:, :VOCABULARY].double()
    ids = theirs.topk(slots).indices

    def partition(logits):
        p = (logits / temperature).softmax(1)
        rest = torch.ones_like(p).scatter(1, ids, 0)
        return torch.cat([p.gather(1, ids), (p * rest).sum(1, keepdim=True)], dim=1)

    states, weight = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    logits = (states @ weight.T)[:, :VOCABULARY]
    p, q = partition(theirs), partition(logits)
    m = (p + q) / 2
    value = {
        "forward_kl": p * (p / q).log(),
        "reverse_kl": q * (q / p).log(),
        "js": (p * (p / m).log() + q * (q / m).log()) / 2,
    }[loss]
    value = value.sum(1).mean()
    total = 0.2 * nn.functional.cross_entropy(logits, targets) + temperature**2 * value
    wanted = torch.cat([value[None], *(g.flatten() for g in torch.autograd.grad(total, [states, weight]))])
    # Log-probabilities are kept in 16 bits.
    assert abs(found[0] - wanted[0]) < 2e-3 * max(1, wanted[0])
    assert (found - wanted).norm() < 5e-3 * wanted.norm()


def test_several_temperatures_are_read_from_one_cache():
    shared = CacheConfig(kind="topk", slots=9, temperatures=[4.0, 1.0])
    *_, teacher_head, theirs = case()
    for temperature in (1.0, 4.0):
        settings = DistillConfig(tokens=1, cache=shared, temperature=temperature)
        alone = kept(config("topk", 9, temperature=temperature), teacher_head, theirs)
        torch.testing.assert_close(kept(settings, teacher_head, theirs).log_p, alone.log_p)


def test_a_teacher_without_doubt_has_no_tail():
    settings = config("topk", 4)
    logits = torch.full((1, VOCABULARY), -200.0)
    logits[0, 17] = 0
    dtype = token_dtype(settings.cache, [1.0], VOCABULARY)
    reference = decode(encode(logits, dtype, [1.0], torch.zeros(1, 2)), [1.0], settings)
    value, gradient = reference.part(slice(0, 1)).against(torch.randn(1, VOCABULARY).log_softmax(1))
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    "kind, slots, vocabulary, most",
    [("sampled", 16, 50_304, 48), ("topk", 48, 50_304, 200), ("topk", 48, 128_256, 248)],
)
def test_bytes_a_token(kind, slots, vocabulary, most):
    dtype = token_dtype(CacheConfig(kind=kind, slots=slots), [1.0], vocabulary)
    assert dtype.itemsize <= most
    assert dtype["ids"].shape == (slots, 2 if vocabulary <= 65_536 else 3)


def test_ids_beyond_16_bits():
    logits = torch.zeros(1, 70_000)
    logits[0, 69_999] = 50
    for kind in ("sampled", "topk"):
        settings = config(kind, 3)
        dtype = token_dtype(settings.cache, [1.0], 70_000)
        reference = decode(encode(logits.clone(), dtype, [1.0], torch.rand(1, 2)), [1.0], settings)
        assert reference.ids[0, 0] == 69_999


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"kind": "sampled", "loss": "reverse_kl"},
            "sampled supports only the forward KL, but distill.loss=reverse_kl",
        ),
        ({"kind": "sampled", "loss": "js"}, "sampled supports only the forward KL, but distill.loss=js"),
        ({"kind": "sampled", "temperatures": [1.0, 2.0]}, r"samples fit one temperature, distill.temperature=1.0"),
        ({"kind": "topk", "temperatures": [2.0]}, r"temperature=1.0 is not in distill.cache.temperatures=\[2.0\]"),
        ({"kind": "topk", "temperatures": []}, r"distill.cache.temperatures=\[\] is empty"),
        ({"kind": "topk", "path": "somewhere"}, r"set distill.cache.mode=read"),
    ],
)
def test_settings_that_do_not_fit(values, message):
    loss = values.pop("loss", "forward_kl")
    with pytest.raises(SprigError, match=message):
        DistillConfig(tokens=1, loss=loss, cache=CacheConfig(**values))
