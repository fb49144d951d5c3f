"""The tokenizer that travels with a teacher: a tokenizer.json, and which of its tokens ends a text."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from pipeline import outside
from pipeline.config.paths import wrong_with
from pipeline.errors import SprigError
from pipeline.models import special_tokens, tokenizer_files
from pipeline.models.special_tokens import Numbers

END_OF_TEXT = "<|endoftext|>"
_CHAT_TEMPLATE = "chat_template.jinja"  # older ones lie in tokenizer_config.json, where all are read from
# transformers names the token that ends a text in the first two, or gives its number in the model's configurations.
_SAY_END_OF_TEXT = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")


class Tokenizer:
    """Text to token ids and back, exactly as the model's own files say; special tokens are only added on request.

    `folder` holds tokenizer.json and tokenizer_config.json. `vocab_size` counts the ids 0..vocab_size-1, added tokens
    included; `eos_id` is the id that ends a text, `bos_id` the one that begins it, where there is one; `path` is the
    folder.

    Raises:
        SprigError: a file is missing or unreadable, or names no token that ends a text.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder)
        self._tokenizer = _read(files(self.path)[0])
        # Files from the hub may carry the padding of somebody's last batch.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.eos_id = self._tokenizer.token_to_id(_end_of_text(self.path, self._tokenizer))
        begin = self.special_tokens().get("bos_token")
        self.bos_id = None if begin is None else self._tokenizer.token_to_id(begin)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """`special` adds what the tokenizer's own file puts around a text, if anything. Raises as `encode_batch`."""
        self._tokenizer.encode_special_tokens = False
        with self._explained([text]):
            return self._tokenizer.encode(text, add_special_tokens=special).ids

    def encode_batch(self, texts: list[str], special_tokens: bool = False) -> list[list[int]]:
        """The ids of documents. A special token that one of them spells out stays text, unless `special_tokens`.

        Raises:
            SprigError: the tokenizer has no token for a part of a text; or the library panics, as it does without
                memory for its threads, or where a pattern gives up.
        """
        self._tokenizer.encode_special_tokens = not special_tokens
        with self._explained(texts):
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    @contextmanager
    def _explained(self, texts: list[str]) -> Iterator[None]:
        """Says what is wrong where the library fails on these texts."""
        try:
            yield
        except Exception as error:  # the library has no exception of its own
            self._refuse_unknown(texts, error)
            raise
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a class without a module, and no Exception
                raise
            reason = str(error).splitlines()[0]
            if "regex" in reason.lower():
                cure = "a pattern of tokenizer.json gives up on this text: correct the pattern, or break up its lines"
            else:
                cure = "if the memory is full, set data.workers=1; finished shards are kept"
            raise SprigError(f"The tokenizers library failed ({reason}): {cure}.") from None

    def _refuse_unknown(self, texts: list[str], error: Exception) -> None:
        """Raises SprigError if one of these texts is why the library failed, with the first word that it cannot read.

        Tokenizers without an unknown token fail on text that is not in their vocabulary.
        """
        if (text := next(filter(self._fails, texts), None)) is not None:
            word = next(filter(self._fails, text.split()), text)
            raise SprigError(
                f"The tokenizer in {self.path} has no token for {word[:40]!r} ({error}): leave it out of the text, or "
                "set teacher.tokenizer to a tokenizer with an unknown token."
            ) from None

    def _fails(self, text: str) -> bool:
        try:
            self._tokenizer.encode(text, add_special_tokens=False)
        except Exception:
            return True
        return False

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def text_bytes(self, rows: list[list[int]]) -> int:
        """Bytes of these ids as text in UTF-8, row by row; the token that ends a text counts none."""
        texts = ([token for token in row if token != self.eos_id] for row in rows)
        return sum(len(self.decode(row).encode()) for row in texts)

    def id_of(self, token: str) -> int:
        """The id of a token that the tokenizer has."""
        return self._tokenizer.token_to_id(token)

    def token_of(self, number: int) -> str:
        """The token with an id that the tokenizer has."""
        return self._tokenizer.id_to_token(number)

    def special_tokens(self) -> dict[str, Any]:
        """The special tokens and the chat template in tokenizer_config.json, and nothing else of it."""
        file = self.path / "tokenizer_config.json"
        return special_tokens.named(read_json(file), self._tokenizer, file)

    def special_numbers(self) -> Numbers:
        """The numbers of special tokens in generation_config.json. `eos_token_id` may be several."""
        return special_tokens.numbered(read_json(self.path / "generation_config.json"), self._tokenizer)

    def check_same(self, other: "Tokenizer") -> None:
        """Equal sizes are not enough to distil: every token must have the same id.

        Raises:
            SprigError: they part, at the token that is named.
        """
        ours, theirs = (each._tokenizer.get_vocab(with_added_tokens=True) for each in (self, other))
        if apart := sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)):
            token = apart[0]
            raise SprigError(
                f"The tokenizers of {self.path} and {other.path} differ in {len(apart):,} tokens: {token!r} is "
                f"{ours.get(token)} in one, {theirs.get(token)} in the other: take a kd_teacher with the same "
                "tokenizer."
            )


def files(source: Path) -> list[Path]:
    """The files that determine the tokenizer which `copy` writes, of a tokenizer.json or the folder that holds one, or
    its older form.

    Raises:
        SprigError: there is none.
    """
    file = source / "tokenizer.json" if source.is_dir() else source
    config, mapped, *others = _SAY_END_OF_TEXT
    # The second is looked at only where the first does not name the token.
    asked = [config, *others] if read_json(file.with_name(config)).get("eos_token") else [config, mapped, *others]
    named = [path for path in map(file.with_name, (*asked, _CHAT_TEMPLATE)) if path.is_file()]
    if file.is_file():
        return [file, *named]
    if source.is_dir() and (older := tokenizer_files.files(source)):
        return list(dict.fromkeys([*older, *named]))
    raise SprigError(
        f"{file} {wrong_with(file)}: set teacher.tokenizer to a folder with a tokenizer.json, or to bytes."
    )


def copy(source: Path, folder: Path) -> None:
    """Brings a tokenizer.json (or the folder that holds one) into `folder`, with a tokenizer_config.json that names
    the token which ends a text, wherever the model's files say it, and holds the other special tokens and the chat
    template; and a generation_config.json with the numbers of special tokens, if the model's files give any.

    Raises:
        SprigError: as Tokenizer.
    """
    file = files(source)[0]
    if file.name in (tokenizer_files.VOCABULARY, tokenizer_files.MODEL):
        tokenizer = tokenizer_files.build(source, read_json)
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer = _read(file)
        shutil.copyfile(file, folder / "tokenizer.json")
    settings = read_json(file.parent / "tokenizer_config.json") | {"eos_token": _end_of_text(file.parent, tokenizer)}
    if (template := file.with_name(_CHAT_TEMPLATE)).is_file():
        settings["chat_template"] = _text(template)
    kept = special_tokens.named(settings, tokenizer, file.with_name("tokenizer_config.json"))
    write_json(folder / "tokenizer_config.json", kept)
    model, generation = (read_json(file.with_name(name)) for name in ("config.json", "generation_config.json"))
    if numbers := special_tokens.numbered(model, tokenizer) | special_tokens.numbered(generation, tokenizer):
        write_json(folder / "generation_config.json", numbers)


def drop_beyond(folder: Path, rows: int) -> list[str]:
    """Takes added tokens whose numbers are not among an embedding's `rows` out of a folder that `copy` wrote, because
    no model can read them; returns them. They stay if texts end with one of them, or begin with it."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    beyond = [token for token in content.get("added_tokens") or [] if token["id"] >= rows]
    if not beyond:
        return []
    left = content | {"added_tokens": [token for token in content["added_tokens"] if token["id"] < rows]}
    try:
        remaining = tokenizers.Tokenizer.from_str(json.dumps(left, ensure_ascii=False))
        end = _end_of_text(folder, remaining)
        needed = max(remaining.encode("", add_special_tokens=True).ids, default=0) >= rows
    except Exception:  # the library has no exception of its own
        needed = True
    if needed:
        return []
    settings = read_json(folder / "tokenizer_config.json") | {"eos_token": end}
    remaining.save(str(file))
    write_json(folder / "tokenizer_config.json", special_tokens.named(settings, remaining, file))
    if numbers := special_tokens.numbered(read_json(folder / "generation_config.json"), remaining):
        write_json(folder / "generation_config.json", numbers)
    return [token["content"] for token in beyond]


def write(
    tokenizer: tokenizers.Tokenizer,
    eos_token: str,
    folder: Path,
    chat_template: str | None = None,
    bos_token: str | None = None,
) -> None:
    """Writes a tokenizer that has no files yet."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": eos_token, "chat_template": chat_template, "bos_token": bos_token}
    write_json(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if value is not None})


def write_bytes(folder: Path) -> None:
    """Writes the "bytes" tokenizer: ids 0..255 are the bytes of UTF-8, 256 ends a text."""
    # Byte-level BPE spells bytes that do not print as characters from 256 on, in the order of the bytes.
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spelled = iter(sorted(character for character in alphabet if ord(character) >= 256))
    vocabulary = {chr(byte) if chr(byte) in alphabet else next(spelled): byte for byte in range(256)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    write(tokenizer, END_OF_TEXT, folder)


def _read(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no exception of its own
        raise SprigError(f"{file} is not a tokenizer ({error}): set teacher.tokenizer to one that is.") from None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises SprigError if it is not one."""
    if not file.is_file():
        return {}
    try:
        content = outside.read_json(file)
    except ValueError as error:
        raise SprigError(f"{file} {error}: fetch it again.") from None
    if not isinstance(content, dict):
        raise SprigError(f"{file} holds {json.dumps(content):.40} instead of a JSON object: fetch it again.")
    return content


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SprigError(f"{file} is not UTF-8 ({error}): fetch it again.") from None


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """A file of a tokenizer's or model's folder, as transformers writes them."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _end_of_text(folder: Path, tokenizer: tokenizers.Tokenizer) -> str:
    named, mapped, *others = (read_json(folder / name) for name in _SAY_END_OF_TEXT)
    token = special_tokens.content(named.get("eos_token"))
    token = special_tokens.content(mapped.get("eos_token")) if token is None else token
    for plain in others:
        number = special_tokens.numbered(plain, tokenizer).get("eos_token_id")
        if token is None and number is not None:
            token = tokenizer.id_to_token(number[0] if isinstance(number, list) else number)
    if not isinstance(token, str) or tokenizer.token_to_id(token) is None:
        raise SprigError(
            f"{folder} names {token!r:.80} as the token that ends a text, unknown to its tokenizer: set eos_token in "
            "tokenizer_config.json to one of its tokens."
        )
    return token
