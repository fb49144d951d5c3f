"""`sprig compare` on hand-made runs, whose numbers are known."""

import json
import shutil
from pathlib import Path

from hand import make_run, row

from pipeline import cli
from pipeline.report.sweep import plots as sweep_plots


def test_runs_of_two_presets_are_compared_by_what_they_were_given(tmp_path, monkeypatch):
    """Two seeds of one setting are one row; a value that a run was not given stands in its configuration."""
    monkeypatch.setattr(sweep_plots, "of", lambda sweep: [])
    for number, (preset, overrides, config) in enumerate(
        [
            ("hand", ["experiment=hand", "distill.lr=0.01"], {"distill": {"lr": 0.01}, "seed": 0}),
            ("hand", ["experiment=hand", "distill.lr=0.01", "seed=1"], {"distill": {"lr": 0.01}, "seed": 1}),
            ("other", ["experiment=other", "kd=on", "device=cpu"], {"distill": {"lr": 0.001}, "seed": 0}),
        ]
    ):
        make_run(folder := tmp_path / f"{preset}/job{number}", "searched", config["seed"], preset=preset, add=number)
        (folder / ".hydra").mkdir()
        (folder / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
        (folder / ".hydra/config.yaml").write_text(json.dumps(config | {"preset": preset}))
    runs = ["hand/job0", "hand/job1", "other/job2"]
    cli.main(["compare", *runs, f"outputs={tmp_path}"])
    (made,) = (tmp_path / "comparisons").iterdir()
    assert row(made, "preset") == ["preset", "distill.lr", "kd", *row(made, "preset")[3:]]
    assert row(made, "hand")[:4] == ["hand", "0.01", "default", "2"]
    assert row(made, "other")[:4] == ["other", "0.001", "on", "1"]
    page = (made / "sweep.md").read_text()
    assert "missing" not in page and "on the same validation blocks for all" in page and "the best is bold if" in page
    shutil.rmtree(made)
    _validate_on_other_text(tmp_path / "other/job2")
    cli.main(["compare", *runs, f"outputs={tmp_path}"])
    page = (made / "sweep.md").read_text()
    assert "validated on different tokens, so their perplexities cannot be compared" in page and "**" not in page
    assert "on validation blocks that differ between runs" in page and "is bold" not in page
    for run, said in (
        ("hand/job0", "The teacher of hand/job0 has random weights: its numbers"),
        ("hand/job1", "The teacher of hand/job0, hand/job1 has random weights: their numbers"),
        ("other/job2", "The teacher has random weights: the numbers"),
    ):
        _draw_the_teacher(tmp_path / run)
        cli.main(["compare", *runs, f"outputs={tmp_path}"])
        page = (made / "sweep.md").read_text()
        assert f"{said} mean nothing. The runs were validated on different tokens" in page


def _validate_on_other_text(run: Path) -> None:
    """Its validation blocks are fewer."""
    summary = json.loads((run / "summary.json").read_text())
    summary["data"]["validation_blocks"] = 3
    (run / "summary.json").write_text(json.dumps(summary))


def _draw_the_teacher(run: Path) -> None:
    """It was never trained."""
    summary = json.loads((run / "summary.json").read_text())
    summary["teacher"]["random_weights"] = True
    (run / "summary.json").write_text(json.dumps(summary))
