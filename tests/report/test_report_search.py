"""What a report shows of the search: the student's anatomy, and how much the candidates differ."""

import json

from hand import KEPT, SIZES
from matplotlib.figure import Figure

from pipeline.report import plots, tables
from pipeline.search import journal
from pipeline.subnetwork.diversity import diversity
from pipeline.subnetwork.value import SubNetwork


def test_the_report_shows_the_winners_layers_and_the_candidates_diversity(smoke_outputs):
    folder = smoke_outputs / "smoke" / "latest"
    summary, text = json.loads((folder / "summary.json").read_text()), (folder / "report.md").read_text()
    winner = SubNetwork.from_dict(json.loads((folder / "artifacts/search/subnetwork.json").read_text()))
    for role in ("search", "recovered_student", "distilled_student"):
        about = json.loads((folder / f"artifacts/{role}/subnetwork.json").read_text())["about"]
        assert about["teacher"] == "tiny-random" and about["parameters"] == summary["student"]["parameters"]
        assert about["fitness"] == {"measure": "perplexity", "value": summary["search"]["best_fitness"]}
    shown = summary["anatomy"]["student"]
    assert [each["layer"] for each in shown] == list(winner.layers)
    for each, gene in zip(shown, winner.genes, strict=True):
        sizes = (gene.n_query_groups, gene.heads_per_group, gene.head_size, gene.intermediate_size)
        assert f"| layer {each['layer']} | {' | '.join(map(str, sizes))} |" in text
    assert "| teacher, each | 2 | 2 | 16 | 160 |" in text
    assert f"keeps {winner.n_layer} of 4 layers and {winner.n_embd} of 64 embedding entries" in text
    assert (folder / "anatomy.svg").exists() and "(anatomy.svg)" in text
    candidates = [line["subnetwork"] for line in journal.read(folder / "artifacts/search/journal.jsonl")]
    measured = summary["search"]["diversity"]
    assert measured == {"candidates": 6, "first": diversity(candidates[:6]), "last": diversity(candidates[-6:])}
    assert 0 < measured["last"] < 1


def test_the_report_of_a_mixture_shows_its_experts():
    teacher, kept = SIZES | {"n_expert": 8, "n_expert_per_token": 2}, KEPT | {"n_expert": 3, "n_expert_per_token": 1}
    anatomy = {"n_layer": [2, 1], "n_embd": [16, 8], "teacher": teacher, "student": [{"layer": 1} | kept]}
    assert tables.anatomy_header(anatomy)[4:] == ["MLP width", "experts", "experts per token"]
    assert tables.anatomy_rows(anatomy) == [
        ["teacher, each", "2", "2", "4", "32", "8", "2"],
        ["layer 1", "1", "2", "4", "16", "3", "1"],
    ]
    figure = Figure()
    plots.anatomy(figure, anatomy)
    assert {bar.get_width() for bar in figure.axes[1].patches} == {8 * 32, 3 * 16}
