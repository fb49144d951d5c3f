"""`python -m pipeline.config` writes docs/config.md."""

from pathlib import Path

from pipeline.config.reference import page

(Path(__file__).parents[2] / "docs" / "config.md").write_text(page(), encoding="utf-8")
