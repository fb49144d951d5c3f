"""How often a training goes through its text."""

from pipeline.data.files import most_tokens
from pipeline.errors import SprigError
from pipeline.stages import distill, prepare
from pipeline.stages.budget import budget
from pipeline.stages.context import Context

MOST = 4  # beyond this, repeated text is worth ever less (https://arxiv.org/abs/2305.16264)


def prepared_tokens(context: Context) -> int | None:
    """Tokens of the training text, exactly; None before it is prepared."""
    tokens = prepare.tokens_recipe(context)
    if context.store.find(tokens) is None:
        return None
    blocks = context.blocks(tokens, "train")
    return len(blocks) * blocks.block_size


def text_tokens(context: Context, bytes_per_token: int = 1) -> int | None:
    """Tokens of the training text: exact once prepared, before that at most `data.max_tokens` and, with one per byte,
    those of its files; None if unknown."""
    if (prepared := prepared_tokens(context)) is not None:
        return prepared
    data, size = context.config.data, most_tokens(context.config.data)
    bounds = (data.max_tokens, None if size is None else size // bytes_per_token)
    return min((each for each in bounds if each is not None), default=None)


def epochs(context: Context) -> float | None:
    """At least how often the budget goes through the text; None if it is unknown."""
    text = text_tokens(context)
    return None if text is None else budget(context) / text


def check(context: Context) -> None:
    """
    Raises:
        SprigError: the text would be repeated more than MOST times, and `data.repeat` does not ask for that.
    """
    config, times = context.config, epochs(context)
    if distill.STAGE in config.stages and not config.data.repeat and times is not None and times > MOST:
        text = text_tokens(context) or 0
        most, bound = "", ""
        if prepared_tokens(context) is None:
            most, bound = " at most", " or less (stages=[prepare] counts the text)"
        raise SprigError(
            f"distill.tokens={config.distill.tokens:,} would read the training text of data {config.data.name}, "
            f"{text:,} tokens{most}, {times:.1f} times, and more than {MOST} needs data.repeat=true: set it, lower "
            f"the budget to budget={MOST * text:_}{bound}, raise data.max_tokens or give more text."
        )
