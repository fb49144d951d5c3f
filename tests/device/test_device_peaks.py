"""What a plan says that a stage holds, against the most bytes that live at one time on a fake card."""

import pytest
import torch
from covering import grid
from litgpt import Config
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pipeline
from benchmarks.fake_cuda import flash_attention
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.tasks_model import Scorer
from pipeline.models.ordering import importance
from pipeline.models.perplexity import mean_nll
from pipeline.models.student import build
from pipeline.plan import memory
from pipeline.search.evaluator import Evaluator
from pipeline.stages.context import Context
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import whole

LENGTH, BATCH = 256, 4
SIZES = [f"data.block_size={LENGTH}", *(f"{stage}.batch={BATCH}" for stage in ("ordering", "search", "evaluate"))]


class Peak(TorchDispatchMode):
    """The most bytes that live at one time among the results on the device; those of `models` are not counted."""

    def __init__(self, *models):
        super().__init__()
        self.known = {each.untyped_storage()._cdata for model in models for each in model.state_dict().values()}
        self.live, self.bytes = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.device.type == "cuda":
                storage = each.untyped_storage()
                if storage._cdata not in self.known:
                    self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: kept for key, kept in self.live.items() if not kept[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return result


class Numbers:
    """A tokenizer of texts that are numbers."""

    eos_id, bos_id = 0, None

    def encode(self, text, special=True):
        return [int(each) for each in text.split()]


def attention(q, k, v, attn_mask=None, **how):
    """As a card runs it, where the operator that takes masks makes of them what it adds to scores."""
    added = None if attn_mask is None else attn_mask.new_zeros(attn_mask.shape, dtype=q.dtype)
    result = flash_attention(q, k, v, **how)
    del added
    return result


def score_tasks(model, precision, folder):
    """Answers to one question, which fill a row."""
    scorer = Scorer(model, Numbers(), precision, BATCH * LENGTH, "test", Answers(folder / "answers"))
    question = list(range(LENGTH - 3))
    scorer._loglikelihood_tokens([((), question, [number, 1, 2]) for number in range(LENGTH)])


@pytest.mark.parametrize(("stage", "precision"), grid(["order", "search", "evaluate", "tasks"], ["fp32", "bf16-mixed"]))
def test_a_stage_holds_no_more_than_its_plan_says(cuda, monkeypatch, tmp_path, stage, precision):
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    overrides = ["teacher=pythia-70m", *SIZES, "plan=true", "device=cuda", f"precision={precision}"]
    context = Context(pipeline.compose(["experiment=quickstart", "search.fitness=kl", *overrides]), lambda line: None)
    sub, ordering = whole(context.architecture), Ordering.identity(context.architecture)
    blocks = torch.zeros(2 * BATCH, LENGTH + 1, dtype=torch.long)
    model = build(Config.from_name("pythia-70m", vocab_size=50_277), None, False, cuda).eval().requires_grad_(False)

    def search():
        list(Evaluator(model, ordering, blocks, precision, BATCH, fitness="kl").run([sub]))

    run, need = {
        "order": (lambda: importance(model, blocks, precision, BATCH, "test"), memory.ordering(context)),
        "search": (search, memory.search(context, sub)),
        "evaluate": (lambda: mean_nll(model, blocks, BATCH, precision), memory.evaluation(context, sub)),
        "tasks": (lambda: score_tasks(model, precision, tmp_path), memory.downstream(context, sub)),
    }[stage]
    with Peak(model) as peak:
        run()
    planned = sum(size for name, size in need.parts.items() if name not in ("teacher", "student"))
    assert peak.bytes <= planned <= 3 * peak.bytes
