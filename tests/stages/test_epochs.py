"""More than four passes over the training text are refused unless they are asked for."""

import json
from pathlib import Path

import pytest
from runs import smoke

import pipeline
from pipeline.errors import SprigError


def trained_text(outputs: Path) -> int:
    (index,) = (outputs / "artifacts/prepare").glob("*/index.json")
    return 32 * json.loads(index.read_text())["splits"]["train"]["blocks"]


def planned(outputs: Path, capsys: pytest.CaptureFixture, *overrides: str) -> str:
    capsys.readouterr()
    pipeline.run(smoke(outputs, *overrides, "plan=true"))
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_four_passes_are_planned_and_more_are_refused(smoke_outputs, capsys):
    text, batch = trained_text(smoke_outputs), 4 * 32
    four = 4 * text // batch * batch
    said = planned(smoke_outputs, capsys, f"distill.tokens={four}")
    assert "the text is read 4.0 times" in said
    with pytest.raises(SprigError) as caught:
        planned(smoke_outputs, capsys, f"distill.tokens={5 * text}")
    sentence = str(caught.value)
    assert sentence == (
        f"distill.tokens={5 * text:,} would read the training text of data sotu, {text:,} tokens, 5.0 times, "
        f"and more than 4 needs data.repeat=true: set it, lower the budget to budget={4 * text:_}, raise "
        "data.max_tokens or give more text."
    )
    assert "the text is read 5.0 times" in planned(
        smoke_outputs, capsys, f"distill.tokens={5 * text}", "data.repeat=true"
    )


def test_max_tokens_bounds_a_text_that_is_not_prepared(tmp_path, capsys):
    few = ["data.max_tokens=20_000"]
    with pytest.raises(SprigError, match=r"would read .* 20,000 tokens at most, 5\.0 times"):
        planned(tmp_path, capsys, *few, "distill.tokens=100_000")
    assert "the text is read at least 4.0 times" in planned(tmp_path, capsys, *few, "distill.tokens=80_000")
    assert "the text is read" not in planned(tmp_path, capsys, *few, "distill.tokens=20_000")


def test_a_token_per_byte_bounds_a_text_in_files(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / f"texts/{number}.txt").write_text("é" * 2_000)
    texts = ["data=text", f"data.path={tmp_path / 'texts'}", "data.block_size=32", "data.max_tokens=null"]
    limit = r"lower the budget to budget=64_016 or less \(stages=\[prepare\] counts the text\)"
    with pytest.raises(SprigError, match=rf"would read .* texts, 16,004 tokens at most, 31\.2 times.*{limit}"):
        planned(tmp_path, capsys, *texts, "distill.tokens=500_000")
    said = planned(tmp_path, capsys, *texts, "distill.tokens=4_096")
    assert "texts: at most 16,004 training tokens (one per byte;" in said and "; at least 0.26 epochs" in said
    (tmp_path / "texts/4.txt.gz").write_bytes(b"")  # nobody knows what it holds
    said = planned(tmp_path, capsys, *texts, "distill.tokens=500_000")
    assert "texts; its training tokens are known once stage prepare has run" in said


def test_a_text_that_turns_out_short_is_refused_before_the_search(tmp_path):
    """The text has about 280,000 tokens of training text, and a bound of 300,000 before it is prepared."""
    with pytest.raises(SprigError, match=r"would read the training text of data sotu, .*, 4\.\d times"):
        pipeline.run(smoke(tmp_path, "distill.tokens=1_150_000"))
    assert not (tmp_path / "artifacts/search").exists() and not (tmp_path / "artifacts/order").exists()


def test_preparing_alone_needs_no_budget(tmp_path):
    """On a machine without a GPU, for a run elsewhere: neither budget nor precision is part of what is prepared."""
    overrides = ["distill.tokens=10_000_000", "stages=[prepare]", "device=cpu"]
    assert pipeline.run(smoke(tmp_path, *overrides)) is None
    made = sorted((tmp_path / "artifacts/prepare").glob("*/manifest.json"))
    assert len(made) == 2
    before = [path.stat().st_mtime_ns for path in made]
    pipeline.run(smoke(tmp_path, *overrides, "precision=auto", "distill.tokens=4_096"))
    made = sorted((tmp_path / "artifacts/prepare").glob("*/manifest.json"))
    assert [path.stat().st_mtime_ns for path in made] == before
