"""What a model wrote, for a terminal."""


def printable(text: str) -> str:
    """Characters that would steer a terminal, such as escapes, are shown as the replacement character."""
    return "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)
