"""How much text a run trains on: the configured budget in whole batches."""

from pipeline.stages.context import Context
from pipeline.training.distill import steps_of


def batch_tokens(context: Context) -> int:
    return context.config.distill.global_batch * context.config.data.block_size


def budget(context: Context) -> int:
    """Tokens that a student is trained on."""
    return steps_of(context.config.distill, context.config.data.block_size) * batch_tokens(context)
