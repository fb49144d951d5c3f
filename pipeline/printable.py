"""Text of models and files, without the characters that would steer a terminal."""


def printable(text: str) -> str:
    """What would steer it, such as escapes, is shown as the replacement character; lines and tabs stay."""
    return "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)


def one_line(text: str) -> str:
    """What would steer it or begin a line is shown as Python spells it, such as \\n."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
