"""What a run starts from: teachers and text."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.config.checks import LARGEST_SEED, TOKENS, immaterial, label, location, require, share, whole
from pipeline.config.choices import DataSource, Dtype, SampleBy, Source
from pipeline.config.own import is_own


@dataclass
class TeacherConfig:
    """Where a pretrained teacher comes from."""

    name: str = label(MISSING)
    source: Source = MISSING  # where the weights come from; random: freshly drawn
    path: str | None = location(None)  # file or folder, or a hub name for `hf`; relative to `package` if set
    package: str | None = None  # an installed Python package that holds `path` and `tokenizer`
    revision: str | None = label(None)  # hub revision
    # A litgpt config name, or an inline litgpt config. `random` builds it; `hf` plans with it before any download.
    litgpt: Any = None
    family: str | None = None  # your own model family, by import path; see docs/extend.md
    # null: comes with the source; "bytes"; or a folder or file with a tokenizer.json
    tokenizer: str | None = location(None)
    dtype: Dtype = Dtype.fp32  # type of the weights in memory and in the converted checkpoint
    tied: bool | None = None  # embedding and head share weights; null: as in the files (`random`: no)
    padded_vocab_size: int | None = whole(None, high=10**8)  # trims the embedding to this many rows
    license: str | None = None  # written into the card of an export

    def __post_init__(self) -> None:
        require(
            self.litgpt is None or isinstance(self.litgpt, str | dict),
            f"teacher.litgpt={self.litgpt} must be the name of a litgpt configuration, or its keys.",
        )
        require(
            self.family is None or is_own(self.family),
            f"teacher.family={self.family} must be an import path, such as my_module.MY_FAMILY.",
        )
        needs = "litgpt" if self.source == Source.random else "path"
        require(
            getattr(self, needs) is not None,
            f"teacher.source={self.source} needs teacher.{needs}, which has no value: give one, teacher.{needs}=...",
        )

    @property
    def on_hub(self) -> bool:
        """Whether `path` is a name of the hub: those of local folders are absolute (see pipeline.config.paths)."""
        name = self.package is None and re.fullmatch(r"\w[\w.-]*/[\w.-]+", self.path or "")
        return self.source == Source.hf and bool(name)

    def require_path(self, key: str) -> None:
        """`key` is the teacher's name in the configuration. Files in a package are found when they are read.

        Raises:
            SprigError: `path` does not exist here, where it should.
        """
        here = self.source != Source.random and self.package is None and not self.on_hub
        hub = " or the name of a model on the hub, owner/name" if self.source == Source.hf else ""
        require(
            not here or Path(self.path or "").expanduser().exists(),
            f"{key}.path={self.path} does not exist: set it to the teacher's file or folder{hub}.",
        )


@dataclass
class DataConfig:
    """Text, and how it becomes packed token blocks."""

    name: str = label(MISSING)
    source: DataSource = MISSING  # text, JSON lines, CSV or Parquet files, or a data set of the hub
    path: Any = location(None)  # a file, a folder, a glob, a list of these, or a hub name
    package: str | None = None  # an installed Python package that `path` is relative to
    subset: str | None = None  # the configuration of the hub data set
    split: str = label("train")  # the split of the hub data set
    # The field that holds the text: meta.text is the field text inside meta, messages.content all turns of a chat.
    text_key: str = label("text")
    special_tokens: bool = False  # special tokens spelled out in a document, such as <|endoftext|>, become tokens
    sample_by: SampleBy = SampleBy.document  # what one document is, in text files
    streaming: bool = False  # reads no more than data.max_tokens from the source
    max_tokens: int | None = whole(None, high=TOKENS)  # stop reading here; required when streaming
    repeat: bool = immaterial(False)  # allows more than four passes over the training text
    block_size: int = whole(MISSING, high=10**7)  # targets of a block: it holds block_size + 1 tokens
    validation: float = share(0.05)  # share of the documents
    calibration: float = share(0.05)  # share of the documents, for ordering and search
    seed: int = whole(0, low=0, high=LARGEST_SEED)  # seed of the split into training, validation and calibration text
    workers: int = immaterial(whole(2, high=1_024))  # processes that tokenise

    def __post_init__(self) -> None:
        require(
            self.validation > 0 and self.calibration > 0 and self.validation + self.calibration < 1,
            f"data.validation={self.validation} and data.calibration={self.calibration} must be above 0 and leave a "
            "share for training: their sum must be below 1.",
        )
        require(not self.streaming or self.max_tokens is not None, "data.streaming=true needs data.max_tokens.")
        paths = self.path if isinstance(self.path, list) else [self.path]
        require(
            bool(paths) and all(isinstance(each, str) and each.strip() for each in paths),
            f"data.path{'' if self.path is None else f'={self.path}'} must name a file, a folder, a glob, a hub data "
            "set, or a list of files.",
        )
