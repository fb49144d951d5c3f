"""The plots of report.html: hovering shows values, the page's style sheet sets the colours of text and grid."""

from itertools import accumulate
from math import exp, isfinite

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.subnetwork.value import LayerGenes, SubNetwork

# Tones that can be told from both a white and a black page.
COLOURS = {"student": "#2f9e62", "control": "#a06cd5", "search": "#2f9e62", "random_search": "#a06cd5"}
TEACHER, OUTLINE = "#8a8f98", "rgba(138, 143, 152, 0.25)"
PALETTE = ("#2f9e62", "#a06cd5", "#e08214", "#3d8bd4", "#d0505a", "#8a8f98", "#35b5a5", "#d05fa8", "#a8742c")
EARLY_TO_LATE = ["#e0a030", "#2f9e62"]
FAINT = 0.3  # opacity of a candidate that was not scored on all blocks
LABELS = {"search": "search", "random_search": "best of random"}


def finite(journal: list[dict]) -> list[dict]:
    """The evaluations that can be drawn."""
    return [line for line in journal if isfinite(line["fitness"])]


def training(curves: dict[str, list[tuple[int, float]]], teacher: float | None) -> go.Figure:
    """Validation perplexity over training tokens; curves are [(tokens, nats a token), ...]."""
    figure = log_plot("training tokens", "validation perplexity")
    for name, curve in curves.items():
        tokens, nll = zip(*curve, strict=True)
        perplexity = [exp(each) for each in nll]
        figure.add_scatter(x=tokens, y=perplexity, name=name, mode="lines+markers", line_color=COLOURS[name])
    if teacher is not None:
        last = max(curve[-1][0] for curve in curves.values())
        figure.add_scatter(
            x=[0, last], y=[teacher] * 2, name="teacher", mode="lines", line={"color": TEACHER, "dash": "dash"}
        )
    figure.update_traces(hovertemplate="%{y:,.2f} at %{x:,} tokens")
    return scaled(figure)


def search(evaluated: dict[str, list[dict]], measure: str) -> go.Figure:
    """Every evaluation's fitness, which is a `measure`, over the tokens evaluated up to it, and the best so far."""
    figure = log_plot("evaluated tokens", f"{measure}, untrained")
    for name, journal in evaluated.items():
        lines = finite(journal)
        tokens, fitness = [line["tokens"] for line in lines], [line["fitness"] for line in lines]
        figure.add_scatter(
            x=tokens, y=fitness, mode="markers", marker={"color": COLOURS[name], "opacity": 0.4}, showlegend=False
        )
        figure.add_scatter(
            x=tokens, y=list(accumulate(fitness, min)), name=LABELS[name], line={"color": COLOURS[name], "shape": "hv"}
        )
    figure.update_traces(hovertemplate="%{y:,.2f} at %{x:,} tokens<extra></extra>")
    return scaled(figure)


def candidates(journal: list[dict], edges: dict, measure: str, winner: str | None) -> go.Figure:
    """Where in the bin the candidates lie, coloured from early to late, those not scored on the `whole` of the blocks
    faint, the one with the key `winner` ringed."""
    figure = log_plot("parameters", f"{measure}, untrained")
    scored = finite(journal)
    opacity = [1 if line["whole"] else FAINT for line in scored]
    won = [line for line in scored if line["key"] == winner]
    figure.add_vrect(edges["low"], edges["high"], fillcolor=OUTLINE, line_width=0, layer="below")
    for lines, name, marker in (
        (
            scored,
            "candidates, early to late" + (", faint: scored in part" if FAINT in opacity else ""),
            {"color": list(range(len(scored))), "colorscale": EARLY_TO_LATE, "size": 8, "opacity": opacity},
        ),
        (won, "winner", {"color": "rgba(0, 0, 0, 0)", "size": 16, "line": {"color": COLOURS["search"], "width": 3}}),
    ):
        figure.add_scatter(
            x=[line["parameters"] for line in lines],
            y=[line["fitness"] for line in lines],
            name=name,
            mode="markers",
            marker=marker,
            showlegend=bool(lines),
            hovertemplate="%{y:,.2f} with %{x:,} parameters<extra></extra>",
        )
    return scaled(figure)


def anatomy(whole: LayerGenes, n_layer: int, sub: SubNetwork) -> go.Figure:
    """The student's layers inside the teacher's, which are all `whole`, from the first at the bottom to the last:
    attention's query entries (heads x head size) and the MLP's neurons, in entries."""
    kept = dict(zip(sub.layers, sub.genes, strict=True))
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=("attention", "MLP"), horizontal_spacing=0.04)
    figure.update_layout(**LAYOUT | {"barmode": "overlay", "bargap": 0.15, "height": 130 + 18 * n_layer})
    layers = range(n_layer)
    for column, (width, says) in enumerate(((_queries, _say_attention), (_neurons, _say_mlp)), start=1):
        for name, genes, colour in (
            ("teacher", dict.fromkeys(layers, whole), OUTLINE),
            ("student", kept, COLOURS["student"]),
        ):
            sizes = [width(gene) for gene in genes.values()]
            figure.add_bar(
                x=sizes,
                y=list(genes),
                base=[-size / 2 for size in sizes],
                orientation="h",
                name=name,
                marker={"color": colour, "line_width": 0},
                showlegend=column == 1,
                hovertext=[_hover(layer, kept.get(layer), whole, says) for layer in genes],
                hoverinfo="text",
                row=1,
                col=column,
            )
    figure.update_layout(legend={"y": -0.01, "yanchor": "top"})
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(showgrid=False, zeroline=False, fixedrange=True, dtick=5)
    figure.update_yaxes(title="teacher's layer", col=1)
    return figure


def _queries(gene: LayerGenes) -> int:
    return gene.n_head * gene.head_size


def _neurons(gene: LayerGenes) -> int:
    return gene.intermediate_size


def _say_attention(gene: LayerGenes) -> str:
    return f"{gene.n_head} heads of {gene.head_size} in {gene.n_query_groups} groups"


def _say_mlp(gene: LayerGenes) -> str:
    return f"{gene.intermediate_size} neurons"


def _hover(layer: int, gene: LayerGenes | None, whole: LayerGenes, says) -> str:
    return f"layer {layer}: {says(gene) if gene else 'dropped'}, of {says(whole)}"


LAYOUT = {
    "template": "none",
    "paper_bgcolor": "rgba(0, 0, 0, 0)",
    "plot_bgcolor": "rgba(0, 0, 0, 0)",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 64, "r": 12, "t": 36, "b": 48},
    "height": 380,
    "hovermode": "closest",
    "dragmode": False,  # a finger that scrolls the page must not draw a box
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
}


def log_plot(x: str, y: str) -> go.Figure:
    """An empty plot with these axes, y logarithmic until `scaled` has seen its values."""
    figure = go.Figure(layout=LAYOUT)
    figure.update_xaxes(title=x, zeroline=False, fixedrange=True)
    figure.update_yaxes(
        title=y, type="log", dtick="D2", tickformat=",~r", zeroline=False, fixedrange=True, automargin=True
    )
    return figure


def scaled(figure: go.Figure) -> go.Figure:
    """The plot, y linear where its values span less than a decade, in which a logarithmic axis may have no tick."""
    values = [value for trace in figure.data for value in trace.y]
    if max(values) < 10 * min(values):
        figure.update_yaxes(type="linear", dtick=None)
    return figure
