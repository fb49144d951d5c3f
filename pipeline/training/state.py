"""The state of a training in fp32, parameter by parameter, in a form that no ZeRO stage and number of ranks enters."""

from collections.abc import Callable, Iterator

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.models.student import hidden_states
from pipeline.training.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's running means
KINDS = ("weight", *MOMENTS)


def tensors(engine: Engine, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[str, str, Tensor]]:
    """(kind, parameter's name, whole fp32 value) of every parameter, tied ones once, one at a time.

    All ranks must go through it together, because sharded values are gathered as it goes.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    for name, parameter in engine.student.named_parameters():
        for kind in kinds:
            if engine.stage == 0:
                value = parameter.detach() if kind == "weight" else engine.optimizer.state[parameter][kind]
            elif kind == "weight":
                value = safe_get_full_fp32_param(parameter)
            else:
                value = safe_get_full_optimizer_state(parameter, kind)
            yield kind, name, value


def restore(engine: Engine, value: Callable[[str, str], Tensor], step: int) -> None:
    """Puts a saved state into an engine that has not trained yet.

    Args:
        value: the saved tensor of (kind, parameter's name).
        step: updates that the state has seen.
    """
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    _make_optimizer_state(engine)
    for name, parameter in engine.student.named_parameters():
        weight = value("weight", name).to(engine.device)
        if engine.stage == 0:
            for moment in MOMENTS:
                engine.optimizer.state[parameter][moment].copy_(value(moment, name))
        else:
            safe_set_full_fp32_param(parameter, weight)
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, value(moment, name).to(engine.device), moment)
        # The weight that the forward pass reads is another tensor than the optimizer's.
        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0, enabled=engine.stage == 3), torch.no_grad():
            parameter.copy_(weight)
    for state in engine.optimizer.state.values():
        state["step"].fill_(step)


def _make_optimizer_state(engine: Engine) -> None:
    """DeepSpeed links the moments to the parameters in the first optimizer step only: one at a learning rate of 0."""
    block = torch.zeros(1, 1, dtype=torch.long)

    def loss(student: GPT, tokens: Tensor) -> tuple[Tensor, ...]:
        value = student.lm_head(hidden_states(student, tokens)).float().square().mean()
        return value, value, value

    engine.step([block] * engine.batches.accumulation, loss, lr=0.0)
