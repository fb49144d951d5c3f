"""Texts that a tokenizer must give back: spaces, digits, scripts, code, special tokens, odd characters."""

TEXTS = [
    "",
    "The purpose of education is to replace an empty mind with an open one.",
    "  two  spaces\n\n\ttabs and   a trailing one ",
    "In 1984, 3.14159 of 2,718 were 50% off: $12.30!",
    "naïve Ωμέγα 漢字かな 🙂‍↔️ it's they'll WE'VE",
    "def f(x):\n    return {'a': x[0] ** 2}  # ok\r\n",
    "<|im_start|>user\nHi<|im_end|> <think>\n<|endoftext|>",
    "\x00\x7f\u00a0\u00ad\ufeff",
]
