"""Memory in plans: against numbers that were worked out by hand, and what is refused."""

import re
from dataclasses import replace

import pytest
from runs import changed

import pipeline
from pipeline.errors import SprigError
from pipeline.plan import checks, costs, memory
from pipeline.stages import budget
from pipeline.stages.context import Context
from pipeline.subnetwork.value import whole

GIB = 2**30
P1 = ["experiment=paper/p1-bins", "hydra.mode=RUN", "bin=pythia-2.8b", "teacher=pythia-12b"]
P6 = ["experiment=paper/p6-budget", "hydra.mode=RUN"]
CARD = ["device=cuda", "precision=bf16-mixed", "plan=true", "deepspeed.world_size=8"]


def context(*overrides) -> Context:
    return Context(pipeline.compose([*overrides, *CARD]), lambda line: None)


def pythia_2_8b(of: Context):
    """The sizes of Pythia-2.8B: 32 layers of width 2,560 with 32 heads of 80 and MLPs of 10,240."""
    gene = replace(whole(of.architecture).genes[0], n_query_groups=32, heads_per_group=1, head_size=80)
    return replace(
        whole(of.architecture),
        layers=tuple(range(32)),
        n_embd=2560,
        genes=(replace(gene, intermediate_size=10240),) * 32,
    )


def test_p6_by_hand():
    """In GiB, of 2,775,864,320 parameters on 8 processes with ZeRO-1, at 8 x 2,048 tokens: Pythia-2.8B's 2,775,208,960
    and, for the vocabulary as the 6.9B teacher pads it, 128 more rows of 2,560 in embedding and head.

    Weights and gradients 4 B each = 10.34; moments 8 B / 8 = 2.59; fp32 partition 4 B / 8 = 1.29; two buckets of 5e7 x
    4 B, one being filled and one on its way = 0.37; teacher 6,857,302,016 x 2 B = 12.77. A token of a block: the stream
    4 x 2560, statistics 16, two inputs of matrices 2 x 2 x 2560, q, k, output and its copy 4 x 2 x 2560, qkv 2 x 7680,
    normalisers 4 x 32, MLP 2 x 2 x 10240 = 97,424 B; x 32 blocks + 8 x 2560 for the final norm, x 16,384 tokens =
    47.88.
    """
    found = context(*P6, "distill.micro_batch=8")
    need = memory.of_training(found, pythia_2_8b(found)).parts
    wanted = {"weights": 10.34, "gradients": 10.34, "optimizer states": 2.59, "fp32 partition": 1.29, "buckets": 0.37}
    wanted |= {"teacher": 12.77, "activations": 47.88}
    assert {name: round(need[name] / GIB, 2) for name in wanted} == wanted
    assert sum(need.values()) / GIB == pytest.approx(93.5, abs=1.5), "more than an 80 GB card has"
    checkpointed = budget.memory(
        found, pythia_2_8b(found), replace(found.config.distill, activation_checkpointing=True)
    )  # inputs of 32 blocks 4 x 2560 each, one whole block, the final norm: 445,584 B a token
    assert checkpointed.parts["activations"] == 16_384 * (32 * 10_240 + 97_424 + 20_480)


def rows_of_2_8b(rows: int, teacher: int, width: int, tokens: int) -> dict[str, int]:
    """Bytes of a process with its share of 8, at the paper's settings: ZeRO-1, overlapped buckets of 5e7 entries, bf16
    autocast, chunks of 2,048 tokens.

    Args:
        rows: of embedding and head, as the teacher pads them.
        teacher: its parameters.
        width: of its hidden states.
        tokens: of a micro-batch.
    """
    qkv, projection, mlp = 3 * 2560**2 + 3 * 2560, 2560**2 + 2560, 2 * 2560 * 10240 + 10240 + 2560
    layers = 32 * (qkv + projection + mlp + 2 * 2 * 2560)  # and two norms with biases
    student = layers + 2 * rows * 2560 + 2 * 2560
    return {
        "teacher": 2 * teacher,
        "teacher's hidden states": 4 * width * tokens,
        "weights": 4 * student,
        "gradients": 4 * student,
        "optimizer states": 2 * 4 * student // 8,
        "fp32 partition": 4 * student // 8,
        "buckets": 2 * 4 * 50_000_000,
        "bf16 copies of weights": 2 * layers,
        "activations": tokens * (32 * 97_424 + 8 * 2560),  # of a block as in test_p6_by_hand
        "head and its gradient": rows * 2560 * (2 + 4),
        "logits": 5 * 4 * 2048 * 50_277,  # the entries of its tokenizer
    }


# Pythia-6.9B: 32 layers of width 4,096, MLPs of 16,384, 50,432 rows; 12B: 36 of 5,120, 20,480, 50,688 rows.
OF_6_9B = 32 * (4 * 4096**2 + 4 * 4096 + 2 * 4096 * 16384 + 16384 + 5 * 4096) + 2 * 50_432 * 4096 + 2 * 4096
OF_12B = 36 * (4 * 5120**2 + 4 * 5120 + 2 * 5120 * 20480 + 20480 + 5 * 5120) + 2 * 50_688 * 5120 + 2 * 5120


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        (P6, rows_of_2_8b(rows=50_432, teacher=OF_6_9B, width=4096, tokens=4 * 2048)),  # 69.1 GiB
        (P1, rows_of_2_8b(rows=50_688, teacher=OF_12B, width=5120, tokens=2 * 2048)),  # 66.4 GiB
    ],
    ids=["P6", "P1"],
)
def test_paper_presets_fit_an_80_gb_card_on_8_processes(preset, wanted):
    found = context(*preset)
    checks.check(found)
    assert (OF_6_9B, OF_12B) == (6_857_302_016, 11_846_072_320), "as their model cards have them"
    assert memory.of_training(found, pythia_2_8b(found)).parts == wanted
    assert sum(wanted.values()) < 78 * GIB


def test_a_plan_that_does_not_fit_is_refused_with_overrides_that_do():
    with pytest.raises(SprigError, match=r"an assumed GPU of 80\.0 GiB") as refusal:
        checks.check(context(*P1, "distill.micro_batch=8"))
    assert "\n" not in str(refusal.value)
    cures = re.search(r": set (.+)\.$", str(refusal.value))[1].split(" or ")
    assert cures
    for cure in cures:
        checks.check(context(*changed([*P1, "distill.micro_batch=8"], *cure.split())))


def test_the_plan_sets_what_training_needs_against_what_there_is():
    found = context(*changed(P1, "bin=pythia-410m", "distill.micro_batch=1"))
    rows = dict(memory.rows(found, costs.typical(found).middle))
    said = rows["memory per process, distill"]
    assert re.match(r"[\d.]+ GiB of the [\d.]+ GiB of (an assumed GPU|NVIDIA.*): teacher [\d.]+ GiB, ", said)
    assert "of the" not in rows["memory per process, evaluate"]


def test_one_process_is_pointed_to_more():
    alone = [each for each in CARD if "world_size" not in each]
    with pytest.raises(SprigError, match=r"deepspeed\.world_size=8"):
        checks.check(Context(pipeline.compose([*P1, *alone]), lambda line: None))


def test_zero_shares_out_states_then_gradients_then_weights():
    found = context(*P6)
    sub = pythia_2_8b(found)
    needs = [
        budget.memory(found, sub, found.config.distill, replace(found.config.deepspeed, zero_stage=n)).parts
        for n in range(4)
    ]
    whole_size = 4 * 2_775_864_320
    assert [need["optimizer states"] for need in needs] == [2 * whole_size, *[whole_size // 4] * 3]
    assert [need["gradients"] for need in needs] == [whole_size, whole_size, whole_size // 8, whole_size // 8]
    assert [need["weights"] for need in needs[:3]] == [whole_size] * 3
    assert needs[3]["weights"] == whole_size // 8 + 4 * 10**9, "and what is gathered at one time"


def test_evaluation_holds_a_student_next_to_the_teacher_or_the_uncut_teacher_alone():
    found = context(*P6, "space.vocabulary=1024", "evaluate.batch=1")
    small = replace(whole(found.architecture), layers=(0,), n_embd=64, genes=whole(found.architecture).genes[:1])
    alone = memory.evaluation(found, small).parts
    assert alone["uncut teacher"] == 2 * OF_6_9B, "no other model is there"
    assert "student" not in alone
    together = memory.evaluation(found, pythia_2_8b(found)).parts
    student = 2_775_864_320 - 2 * (50_432 - 1024) * 2560
    models = [together[name] for name in ("teacher", "student", "bf16 copies of weights")]
    assert models == [2 * (OF_6_9B - 2 * (50_432 - 1024) * 4096), 4 * student, 2 * student]


def test_an_evaluation_that_does_not_fit_is_refused():
    with pytest.raises(SprigError, match=r"^Evaluation needs .* of 80\.0 GiB: lower evaluate\.batch, or set"):
        checks.check(context(*P6, "evaluate.batch=512"))


def test_tasks_that_do_not_fit_are_refused():
    """Texts that begin alike fill one row of evaluate.batch x data.block_size tokens, and each token may see each."""
    found = context(*P6, "evaluate.batch=96", "evaluate.tasks=[piqa]")
    with pytest.raises(SprigError, match=r"^Scoring evaluate\.tasks needs .*: lower evaluate\.batch, or set"):
        memory.check(found, pythia_2_8b(found))
    without = context(*P6, "evaluate.batch=96")
    memory.check(without, pythia_2_8b(without))
