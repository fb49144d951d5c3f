"""Models on a fake card: built, cut, scored, sampled from, ordered and recovered there, in every family and dtype."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from covering import grid, slow
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config import AttentionScale, Fitness, HeadPairs, Sharing, SpaceConfig
from pipeline.evaluation import efficiency, same_text
from pipeline.evaluation.sampling import continue_text
from pipeline.models import reconstruction
from pipeline.models.extraction import cut, extract
from pipeline.models.families import architecture_of
from pipeline.models.ordering import importance
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.recover import Settings, recover
from pipeline.models.student import LayerwiseGPT, build, hidden_states, initialize, is_stock
from pipeline.search.evaluator import Evaluator
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.space import Space

# How many tokens pass an expert depends on the data.
FAMILIES = sorted({*tiny.FIRST} - tiny.MIXTURES)
LATER = sorted({*tiny.LATER} - tiny.MIXTURES)
PRECISIONS = [("fp32", torch.float32), ("bf16-mixed", torch.float32), ("bf16-mixed", torch.bfloat16)]
BLOCKS = tiny.tokens(4, 9)
aten = torch.ops.aten


def config_of(family):
    return replace(tiny.config(family), n_layer=2)


def model_of(family, device, dtype=torch.float32):
    return build(config_of(family), None, family in tiny.TIED, device, dtype).eval()


def cut_of(family, sharing, **config):
    """A sub-network with a reduced width and reduced heads, and the ordering that it is of."""
    architecture = architecture_of(config_of(family), family in tiny.TIED)
    total = parameters(architecture)
    space = Space(architecture, SpaceConfig(sharing=sharing, **config), Bin(total // 2, total // 4, total), None)
    rng = np.random.default_rng(0)
    for _ in range(200):
        sub = space.sample(rng)
        if sub.n_embd < architecture.n_embd and any(g.head_size < architecture.head_size for g in sub.genes):
            return sub, Ordering.identity(architecture)
    raise AssertionError("the space has no such sub-network")


def assert_on(model, device, dtype):
    tensors = {**dict(model.named_parameters()), "cos": model.cos, "sin": model.sin}
    assert {tensor.device.type for tensor in tensors.values()} == {device.type}
    assert {tensor.dtype for name, tensor in tensors.items() if name not in ("cos", "sin")} == {dtype}
    assert model.cos.dtype == model.sin.dtype == torch.float32


@pytest.mark.parametrize(
    ("family", "sharing", "arithmetic", "fitness"),
    grid(FAMILIES, list(Sharing), PRECISIONS, list(Fitness)[::-1])
    + slow(grid(LATER, list(Sharing), PRECISIONS, list(Fitness))),
)
def test_a_candidate_is_cut_and_scored_there(cuda, family, sharing, arithmetic, fitness):
    precision, dtype = arithmetic
    teacher = model_of(family, cuda, dtype)
    sub, ordering = cut_of(family, sharing)
    student = extract(teacher, sub, ordering)
    assert_on(student, cuda, dtype)
    assert isinstance(student, LayerwiseGPT) == (not is_stock(teacher.config, sub))
    evaluator = Evaluator(teacher, ordering, BLOCKS, precision, batch=4, fitness=fitness)
    ((_, losses),) = evaluator.run([sub])
    assert len(losses) == len(BLOCKS)


class Waits(TorchDispatchMode):
    """Notes what makes the processor wait for the GPU: reading a number, and copies between them that block."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = func.overloadpacket in (aten._local_scalar_dense, aten.nonzero) and args[0].device.type == "cuda"
        copied = func is aten._to_copy.default and result.device != args[0].device and not kwargs.get("non_blocking")
        if read or copied:
            self.found.append(str(func))
        return result


@pytest.mark.parametrize(
    ("family", "sharing", "fitness"), grid(["llama3", "gpt_neox", "gemma3", "qwen3"], list(Sharing), list(Fitness))
)
def test_a_candidate_is_begun_without_waiting_for_the_one_before(cuda, family, sharing, fitness):
    sub, ordering = cut_of(family, sharing)
    teacher = model_of(family, cuda, torch.bfloat16)
    evaluator = Evaluator(teacher, ordering, BLOCKS, "bf16-mixed", batch=4, fitness=fitness)
    evaluator._losses(sub)  # whatever is kept for all candidates
    with Waits() as waits:
        losses = evaluator._losses(sub)
        assert not waits.found
        losses.tolist()
    assert waits.found, "a number that is read is noticed"


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_perplexity_is_measured_there(cuda, precision):
    assert np.isfinite(mean_nll(model_of("llama", cuda), BLOCKS, 3, precision))


@pytest.mark.parametrize(
    ("pairs", "scale", "family", "sharing"),
    grid(list(HeadPairs), list(AttentionScale), ["llama3", "qwen3", "gpt_neox"], list(Sharing)[::-1]),
)
def test_every_choice_of_pairs_and_scale_is_cut_there(cuda, pairs, scale, family, sharing):
    sub, ordering = cut_of(family, sharing, head_pairs=pairs, attention_scale=scale)
    student = extract(model_of(family, cuda), sub, ordering, own=False)
    assert hidden_states(student, BLOCKS[:, :-1].to(cuda)).device.type == "cuda"


@pytest.mark.parametrize(("family", "sharing"), grid(FAMILIES, list(Sharing)) + slow(grid(LATER, list(Sharing))))
def test_a_student_starts_from_random_weights_there(cuda, family, sharing):
    sub, _ = cut_of(family, sharing)
    student = build(config_of(family), sub, family in tiny.TIED, cuda)
    initialize(student, seed=1)
    assert_on(student, cuda, torch.float32)


@pytest.mark.parametrize(("precision", "family"), grid(["fp32", "bf16-mixed"], ["gpt_neox", "qwen3"]))
def test_importance_is_measured_there(cuda, family, precision):
    found = importance(model_of(family, cuda), BLOCKS, precision, batch=4, fingerprint="x")
    assert sorted(found.layers) == [0, 1]


@pytest.mark.parametrize(("precision", "family"), grid(["fp32", "bf16-mixed"], ["gpt_neox", "llama3"]))
def test_reconstruction_errors_are_measured_there(cuda, family, precision):
    teacher = model_of(family, cuda)
    kept, order = [], Ordering.identity(architecture_of(teacher.config, family in tiny.TIED))
    errors = reconstruction.measure(teacher, order, BLOCKS, precision, 3, on_layer=kept.append)
    assert len(kept) == 2 and all(isinstance(each, np.ndarray) for each in vars(errors).values())


@pytest.mark.parametrize(("precision", "dtype"), PRECISIONS)
def test_the_uncut_teacher_is_scored_there_and_speeds_are_timed(cuda, monkeypatch, precision, dtype):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    teacher = model_of("llama", cuda, dtype)
    total, tokens = same_text.nll(teacher, [[1, 2, 3], [4, 5, 6, 7]], precision)
    assert np.isfinite(total) and tokens == 5
    found = efficiency.speeds({"teacher": teacher}, BLOCKS[0, :6], decode=2, repetitions=1, precision=precision)
    assert found["teacher"].keys() == {"prefill", "decode"}


@pytest.mark.parametrize(("temperature", "sharing", "family"), grid([0.0, 0.7], list(Sharing), ["gpt_neox", "qwen3"]))
def test_text_is_sampled_there_within_the_context_and_beyond(cuda, family, sharing, temperature):
    sub, ordering = cut_of(family, sharing)
    student = extract(model_of(family, cuda, torch.bfloat16), sub, ordering)
    generator = torch.Generator().manual_seed(0)
    ids = continue_text(student, [1, 2, 3] * 10, 4, -1, "fp32", temperature, generator)
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("family", "sharing", "arithmetic"), grid(["gpt_neox", "qwen2", "qwen3"], list(Sharing), PRECISIONS)
)
def test_a_cut_student_is_recovered_there(cuda, family, sharing, arithmetic):
    precision, dtype = arithmetic
    teacher = model_of(family, cuda, dtype)
    sub, ordering = cut_of(family, sharing)
    sub = replace(sub, layers=(0,), genes=sub.genes[:1])  # one is dropped
    selection = select(sub, architecture_of(teacher.config, family in tiny.TIED), ordering)
    student, again = (cut(model_of(family, cuda), sub, selection) for _ in range(2))  # in fp32
    layers = []
    report = recover(
        teacher,
        student,
        sub,
        selection,
        BLOCKS,
        Settings(batch=2, precision=precision),
        on_layer=lambda number, layer: layers.append(layer),
        reduce=lambda sums: sums.clone(),
    )
    assert report.helped and all(refit.ridge for refit in report.refits), "weights are changed"
    assert {tensor.device.type for layer in layers for tensor in layer.weights.values()} == {"cpu"}, "to be saved"
    recover(teacher, again, sub, selection, BLOCKS, Settings(batch=2, precision=precision), finished=layers)
    assert_on(again, cuda, torch.float32)
