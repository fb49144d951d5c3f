"""The graph of a run: every step and its inputs. Building it loads and computes nothing.

A recipe holds what determines an artifact (stage, version, configuration, inputs); its hash is the artifact's
fingerprint. A role names a step or model within a run, such as "student" or "control". The roots are the recipes that
most steps start from: teacher, text and ordering. In each stage's file, `recipe` returns the recipe and `make` does the
work.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from pipeline.artifacts import Recipe
from pipeline.stages import (
    cache,
    distill,
    downstream,
    evaluate,
    extract,
    order,
    prepare,
    reconstruct,
    recover,
    rerank,
    search,
    study,
)
from pipeline.stages.context import Context, Step, Steps
from pipeline.stages.roots import Roots
from pipeline.stages.roots import roots as roots_of


class _Graph:
    """The steps in the order in which they run. Each function below adds some, and returns what later ones need."""

    def __init__(self, context: Context, roots: Roots):
        self.context, self.roots, self.steps = context, roots, Steps()

    def add(self, role: str, recipe: Recipe, make: Callable[..., None], /, **inputs: object) -> Recipe:
        self.steps[role] = Step(role, recipe, partial(make, self.context, recipe, **inputs))
        return recipe

    def together(self, role: str, phase: Recipe | None = None) -> None:
        """Marks the step as one that all ranks make together. `phase` is an artifact made on its way (see Step)."""
        self.steps[role] = replace(self.steps[role], agree=self.context.agree, phase=phase)


def build(context: Context) -> Steps:
    """The steps of a run before its report, by role. The search is left out if no other step uses it."""
    config = context.config
    graph = _Graph(context, roots := roots_of(context))
    roles = extract.roles(context)
    of_the_search = [role for role in roles if extract.needs_search(context, role)]

    _prepare(graph)
    searched = _search(graph) if context.config.searches else None
    found = searched
    if searched is not None and of_the_search and config.search.rerank.candidates:
        found = _rerank(graph, searched)
    cut = {role: _extract(graph, role, found if role in of_the_search else None) for role in roles}
    start = {role: _recover(graph, cut[role], role) if recover.applies(context, role) else cut[role] for role in roles}
    trained = {role: _distill(graph, start[role], role) for role in roles}
    _evaluate(graph, cut["student"], start["student"], trained)
    if config.study.subnetworks:
        taken = searched if config.study.searched else None
        graph.add("study", study.recipe(context, roots, taken), study.make, roots=roots, searched=taken)
    return graph.steps


def check_made(context: Context, steps: Steps, roles: Iterable[str]) -> None:
    """Before anything runs: is there what the stages of a command read and none of them makes.

    `roles`: steps that are read in any case.

    Raises:
        SprigError: as distill.trained, Context.made and cache.check_found.
    """
    config, of = context.config, {step.recipe.fingerprint: step for step in steps.values()}
    making = [step for step in steps.values() if step.stage in config.stages and not context.store.find(step.recipe)]
    read = [steps[role].recipe.fingerprint for role in roles]
    for step in making:
        read += _reads(context, step)
    filling = cache.STAGE in config.stages or any(step.stage == distill.STAGE for step in making)
    if config.distill.cached and filling:
        roots = roots_of(context)
        read.append(roots.tokens.fingerprint)
        cache.check_found(context, roots)
    for step in (of[each] for each in read if each in of):
        if step not in making:
            distill.trained(context, step) if step.stage == distill.STAGE else context.made(step.recipe)


def _reads(context: Context, step: Step) -> list[str]:
    """The fingerprints of the inputs that a step reads: all of them, but for a teacher whose logits are kept."""
    kept = step.stage == distill.STAGE and not cache.needs_teacher(context)
    return [each for name, each in step.recipe.inputs.items() if not (kept and name == "teacher")]


def _prepare(graph: _Graph) -> None:
    """Teacher, text and ordering; with space.vocabulary, teacher and text in two versions."""
    config, roots, uncut = graph.context.config, graph.roots, graph.roots.uncut
    teachers = {"teacher": config.teacher}
    if distill.loads_kd_teacher(graph.context) and config.kd_teacher is not None:
        teachers["kd_teacher"] = config.kd_teacher
    if uncut is not None:
        for role, teacher in teachers.items():
            graph.add(f"uncut_{role}", getattr(uncut, role), prepare.make_teacher, config=teacher)
        graph.add("uncut_tokens", uncut.tokens, prepare.make_tokens, teacher=uncut.teacher)
    for role, teacher in teachers.items():
        if uncut is None:
            graph.add(role, getattr(roots, role), prepare.make_teacher, config=teacher)
        else:
            whole = {"prepared": getattr(uncut, role), "whole": uncut}
            graph.add(role, getattr(roots, role), prepare.make_cut_teacher, config=teacher, **whole)
    graph.add("tokens", roots.tokens, prepare.make_tokens, teacher=roots.teacher)
    if roots.ordering is not None:
        graph.add("ordering", roots.ordering, order.make, teacher=roots.teacher, tokens=roots.tokens)


def _search(graph: _Graph) -> Recipe:
    """The error table if the search reads one, the search, and a random search of the same cost if
    search.random_baseline is set."""
    context, roots, config = graph.context, graph.roots, graph.context.config.search
    if roots.errors is not None:
        inputs = {"teacher": roots.teacher, "tokens": roots.tokens, "ordering": roots.ordering}
        graph.add("errors", roots.errors, reconstruct.make, **inputs)
    recipe = search.recipe(context, config, roots)
    graph.add("search", recipe, search.make, role="search", config=config, roots=roots, model=None)
    graph.together("search")
    if config.random_baseline:
        baseline, model = search.baseline(config), None if search.is_counted(config) else recipe
        random = search.recipe(context, baseline, roots, model)
        graph.add("random_search", random, search.make, role="random_search", config=baseline, roots=roots, model=model)
        graph.together("random_search")
    return recipe


def _rerank(graph: _Graph, searched: Recipe) -> Recipe:
    recipe = rerank.recipe(graph.context, graph.roots, searched)
    return graph.add("rerank", recipe, rerank.make, roots=graph.roots, searched=searched)


def _extract(graph: _Graph, role: str, found: Recipe | None) -> Recipe:
    recipe = extract.recipe(graph.context, role, graph.roots, found)
    return graph.add(f"extracted_{role}", recipe, extract.make, role=role, roots=graph.roots, found=found)


def _recover(graph: _Graph, cut: Recipe, role: str) -> Recipe:
    recipe = recover.recipe(graph.context, graph.roots, cut)
    graph.add(f"recovered_{role}", recipe, recover.make, roots=graph.roots, start=cut)
    graph.together(f"recovered_{role}")
    return recipe


def _distill(graph: _Graph, start: Recipe, role: str) -> Recipe:
    context, roots = graph.context, graph.roots
    recipe = distill.recipe(context, role, roots, start)
    graph.add(f"distilled_{role}", recipe, distill.make, role=role, roots=roots, start=start)
    graph.together(f"distilled_{role}", phase=distill.phase(context, role, roots, start))
    return recipe


def _evaluate(graph: _Graph, cut: Recipe, start: Recipe, trained: dict[str, Recipe]) -> None:
    """Speed, perplexity and downstream tasks. The training curve of a recovered student starts at its recovered
    weights, so the student as it was cut is evaluated separately."""
    context, roots = graph.context, graph.roots
    speed = evaluate.speed_recipe(context, roots, cut)
    graph.add("speed", speed, evaluate.make_speed, roots=roots, student=cut)
    models = trained if cut == start else {"untrained": cut, **trained}
    graph.add("evaluation", evaluate.recipe(context, roots, models), evaluate.make, roots=roots, models=models)
    for name, model in {"teacher": roots.teacher, **trained}.items():
        for task in context.config.evaluate.tasks:
            recipe = downstream.recipe(context, task, model)
            graph.add(downstream.role(name, task), recipe, downstream.make, task=task, name=name, model=model)
