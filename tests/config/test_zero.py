"""deepspeed.zero_optimization is checked before anything runs."""

import pytest

from pipeline import SprigError, compose
from pipeline.config import DeepSpeedConfig
from pipeline.config.zero import COUNTS, OFFLOAD, REFUSED, SWITCHES


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("reduce_bucket_size=abc", "reduce_bucket_size=abc is not a count, such as 50_000"),
        ("reduce_bucket_size=null", "reduce_bucket_size=null is not a count"),
        ("reduce_bucket_size=[1]", "is not a count"),
        ("reduce_bucket_size=true", "reduce_bucket_size=true is not a count"),
        ("reduce_bucket_size=1.5", "is not a count"),
        ("reduce_bucket_size=0", "reduce_bucket_size=0 must lie in 1..1_000_000_000_000"),
        ("stage3_prefetch_bucket_size=-5", "stage3_prefetch_bucket_size=-5 must lie in 0"),
        ("allgather_bucket_size=3", "allgather_bucket_size=3 must be even"),
        ("overlap_comm=maybe", "overlap_comm=maybe is not true or false"),
        ("overlap_comm=null", "overlap_comm=null is not true or false"),
        ("overlap_comm=2", "overlap_comm=2 is not true or false"),
        ("overlap_comm=auto", "overlap_comm=auto is not true or false"),
        ("overlap_com=true", "overlap_com: did you mean deepspeed.zero_optimization.overlap_comm?"),
        ("prefetch_bucket_size=1", "did you mean deepspeed.zero_optimization.stage3_prefetch_bucket_size?"),
        ("foo=1", "foo: deepspeed.zero_optimization takes allgather_bucket_size, allgather_partitions,"),
        ("legacy_stage1=true", "There is no configuration key deepspeed.zero_optimization.legacy_stage1"),
        ("zero_quantized_weights=true", "zero_quantized_weights=true rounds weights to a few bits"),
        ("zero_quantized_gradients=true", "rounds gradients to a few bits, which changes results"),
        ("zenflow={}", "applies gradients late, which changes results"),
        ("offload_optimizer={device:cpu}", "needs DeepSpeed's own Adam, but Sprig trains with torch's AdamW"),
        ("offload_param=cpu", "offload_param=cpu is not a dictionary, such as {device: cpu}"),
        ("offload_param={device:tape}", "offload_param.device=tape must be cpu or none"),
        ("offload_param={device:null}", "offload_param.device=null must be cpu or none"),
        ("offload_param={divice:cpu}", "did you mean deepspeed.zero_optimization.offload_param.device?"),
        ("offload_param={pin_memory:3}", "offload_param.pin_memory=3 is not true or false"),
    ],
)
def test_what_deepspeed_would_refuse_later_or_changes_results(given, said):
    with pytest.raises(SprigError) as refusal:
        compose(["experiment=smoke", "deepspeed=zero3", f"deepspeed.zero_optimization.{given}"])
    assert said in str(refusal.value) and "deepspeed.zero_optimization" in str(refusal.value)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_only_stage_3_moves_weights(stage):
    with pytest.raises(SprigError, match=f"offload_param with deepspeed.zero_stage={stage}: only stage 3"):
        DeepSpeedConfig(stage, zero_optimization={OFFLOAD: {"device": "cpu"}})


@pytest.mark.parametrize("given", [5e8, "500M", "500_000_000", 500_000_000])
def test_counts_are_read_like_all_others(given):
    assert DeepSpeedConfig(zero_optimization={"reduce_bucket_size": given}).zero_optimization == {
        "reduce_bucket_size": 500_000_000
    }


def test_every_key_is_one_of_deepspeeds():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadParamConfig

    fields = DeepSpeedZeroConfig.model_fields
    known = {each.alias or name for name, each in fields.items()}
    assert {*SWITCHES, *COUNTS, OFFLOAD, *REFUSED} <= known
    made = DeepSpeedConfig(3, zero_optimization=dict.fromkeys(SWITCHES, True) | dict.fromkeys(COUNTS, 10))
    DeepSpeedZeroConfig(stage=3, **made.zero_optimization)
    DeepSpeedZeroOffloadParamConfig(device="cpu", pin_memory=False)
