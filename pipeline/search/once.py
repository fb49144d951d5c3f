"""A search in one go, whose journal is not kept."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config import SearchConfig
from pipeline.search.budget import Spent, budget_of
from pipeline.search.forecast import expected
from pipeline.search.journal import Journal
from pipeline.search.loop import Scorer, Search
from pipeline.search.strategies.protocol import Scored, Strategy
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import parameters


def search_once(
    config: SearchConfig, strategy: Strategy, scorer: Scorer, architecture: Architecture, length: int, before: int = 0
) -> tuple[Scored, Spent]:
    """The best candidate, and what the search has spent; blocks have `length` tokens, `before` as in `budget_of`."""
    budget = budget_of(config, architecture, length, before)
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl", "search")
        best = Search(
            config,
            strategy,
            scorer,
            journal,
            budget,
            parameters=lambda sub: parameters(architecture, sub),
            expected=expected(config, length),
            log=lambda line: None,
        ).run()
        journal.close()
    return best, budget.spent
