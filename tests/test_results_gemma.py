"""The numbers of results/gemma-270m/README.md, computed again from its figures."""

import json
import math
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "results/gemma-270m"
FIGURES = json.loads((FOLDER / "figures.json").read_text())
TEXT = (FOLDER / "README.md").read_text()


def measured(run: dict) -> dict[str, dict[str, float]]:
    """Perplexity and bits per byte, by the first cell of a row."""
    return {"teacher": run["teacher"], "untrained": run["untrained"]} | by_tokens(run["tokens"])


def by_tokens(evaluations: dict) -> dict[str, dict[str, float]]:
    return {f"{int(each):,}" if int(each) else "0, recovered": row for each, row in evaluations.items()}


def test_every_row_of_the_tables_is_in_the_figures():
    of_both = [FIGURES[name] for name in ("vocabulary", "whole")]
    for runs in ([measured(run) for run in of_both], [by_tokens(run["longer"]) for run in of_both]):
        assert list(runs[0]) == list(runs[1])
        for row in runs[0]:
            cells = [f"{run[row]['perplexity']:,.2f} | {run[row]['bits_per_byte']:.3f}" for run in runs]
            assert f"| {row} | {' | '.join(cells)} |" in TEXT.replace("**", "")
    for name in ("teacher_parameters", "parameters"):
        assert f"| {' | '.join(f'{FIGURES[run][name]:,}' for run in ('vocabulary', 'whole'))} |" in TEXT


@pytest.mark.parametrize("name", FIGURES)
def test_bits_per_byte_and_perplexity_are_of_one_text(name):
    """Their ratio is the bytes of a token, which a run has only one of."""
    rows = [*measured(FIGURES[name]).values(), *FIGURES[name]["longer"].values()]
    ratios = [math.log2(row["perplexity"]) / row["bits_per_byte"] for row in rows]
    assert max(ratios) - min(ratios) < 1e-4 and 4 < ratios[0] < 6


def test_the_distances_to_the_teachers_are_those_of_the_figures():
    apart = []
    for run in (FIGURES["vocabulary"], FIGURES["whole"]):
        for evaluations in (run["tokens"], run["longer"]):
            last = evaluations[max(evaluations, key=int)]
            apart.append(f"{last['bits_per_byte'] - run['teacher']['bits_per_byte']:.3f}")
    share = FIGURES["vocabulary"]["teacher_parameters"] / FIGURES["vocabulary"]["parameters"]
    text = " ".join(TEXT.split())
    assert f"ends {apart[0]} above a teacher of {share:.2f} times its size, and after 20,480 tokens {apart[1]};" in text
    assert f"ends {apart[2]} and {apart[3]} above" in text
    for evaluations in ("tokens", "longer"):
        quarter, half = (FIGURES[run][evaluations] for run in ("vocabulary", "whole"))
        assert all(quarter[at]["bits_per_byte"] < half[at]["bits_per_byte"] for at in quarter), "ahead at every one"
