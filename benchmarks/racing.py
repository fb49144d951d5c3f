"""Evaluated tokens and final fitness of the quickstart's search with racing and without, over five seeds.

Teacher, bin, space and ordering are the quickstart's. A candidate is scored on 16 blocks of 64 tokens, so that racing
has blocks to save and the whole takes half an hour of one core. Losses are kept in outputs/benchmarks, because the two
searches, and runs of this script, ask for many of the same: tokens are counted as a search alone would evaluate them.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pipeline
from benchmarks.harness import arguments, report
from pipeline.config import RacingConfig, SearchConfig
from pipeline.search.budget import Budget
from pipeline.search.evaluator import Evaluator, Task
from pipeline.search.journal import Journal
from pipeline.search.loop import Search
from pipeline.search.strategies.registry import make
from pipeline.stages import order, prepare
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, parameters

SEEDS, BLOCKS, LENGTH = range(5), 16, 64
KEPT = Path("outputs/benchmarks/racing")


class Kept:
    """An evaluator that scores nothing twice, in this process or a later one."""

    def __init__(self, evaluator: Evaluator, path: Path):
        self.evaluator, self.path = evaluator, path
        lines = path.read_text().splitlines() if path.exists() else []
        self.losses = {(key, block): loss for key, block, loss in map(json.loads, lines)}

    def run(self, tasks: list[Task]) -> Iterator[tuple[int, list[float]]]:
        new = [(number, task) for number, task in enumerate(tasks) if self._find(task) is None]
        for place, losses in self.evaluator.run([task for _, task in new]):
            task = new[place][1]
            with self.path.open("a") as file:
                for block, loss in enumerate(losses, start=task.first):
                    self.losses[task.subnetwork.key, block] = loss
                    file.write(json.dumps([task.subnetwork.key, block, loss]) + "\n")
        for number, task in enumerate(tasks):
            yield number, self._find(task)

    def _find(self, task: Task) -> list[float] | None:
        found = [self.losses.get((task.subnetwork.key, block)) for block in range(task.first, task.last)]
        return None if None in found else found


def searched(context: Context, config: SearchConfig, scorer: Kept, seed: int, journal: Path) -> tuple[float, int]:
    """Best fitness, and tokens evaluated."""
    journal.unlink(missing_ok=True)
    kept = Journal(journal, "benchmark")
    budget = Budget(config.limit, LENGTH, lambda sub: flops_per_token(context.architecture, sub, length=LENGTH))
    best = Search(
        config,
        make(config, context.space(order.load(context)), seed),
        scorer,
        kept,
        budget,
        parameters=lambda sub: parameters(context.architecture, sub),
        expected=0,
        log=lambda line: None,
    ).run()
    kept.close()
    return best.fitness, budget.spent.tokens


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    KEPT.mkdir(parents=True, exist_ok=True)
    setup = ["experiment=quickstart", "precision=fp32"]
    pipeline.run(pipeline.compose([*setup, "stages=[prepare,order]"]))
    context = Context(pipeline.compose(setup), log=lambda line: None)
    racing = RacingConfig(enabled=True)
    plain = replace(context.config.search, blocks=BLOCKS, batch=BLOCKS)
    raced = replace(plain, racing=racing)
    teacher, tokens = prepare.teacher_step(context, context.config.teacher), prepare.tokens_step(context)
    blocks = context.evenly(tokens.recipe, "calibration", BLOCKS, "BLOCKS")[:, : LENGTH + 1]
    model = context.teacher(teacher.recipe, context.config.teacher)
    # The same parts for both, so that what one has scored serves the other.
    evaluator = Evaluator(model, order.load(context), blocks, "fp32", BLOCKS, cuts=raced.cuts(), prefix_bytes=1 << 28)
    scorer = Kept(evaluator, KEPT / "losses.jsonl")
    rows, figures = [], {}
    for seed in SEEDS:
        found = {
            name: searched(context, config, scorer, seed, KEPT / f"{name}{seed}.jsonl")
            for name, config in (("plain", plain), ("racing", raced))
        }
        (fitness, all_tokens), (raced_fitness, raced_tokens) = found["plain"], found["racing"]
        figures |= {
            f"seed{seed}_plain_fitness": fitness,
            f"seed{seed}_racing_fitness": raced_fitness,
            f"seed{seed}_fitness_ratio": raced_fitness / fitness,
            f"seed{seed}_token_ratio": raced_tokens / all_tokens,
        }
        rows.append([str(seed), f"{all_tokens:,}", f"{raced_tokens:,}", f"{raced_tokens / all_tokens:.2f}"])
        rows[-1] += [f"{fitness:,.1f}", f"{raced_fitness:,.1f}", f"{raced_fitness / fitness:.3f}"]
    for name in ("token_ratio", "fitness_ratio"):
        figures[name] = mean(figures[f"seed{seed}_{name}"] for seed in SEEDS)
    rows.append(["mean", "", "", f"{figures['token_ratio']:.2f}", "", "", f"{figures['fitness_ratio']:.3f}"])
    report(
        f"{plain.strategy} in the quickstart's bin, {BLOCKS} blocks of {LENGTH} tokens",
        ["seed", "tokens", "racing", "ratio", "best perplexity", "racing", "ratio"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
