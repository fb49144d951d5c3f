"""The values that each dimension of a search space may take."""

from pipeline.config import SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.value import EXPERT_GENES, genes_of, head_size_unit

# Tensor cores work on tiles of 64 entries of 16 bits (128 bytes) and need at least 8 of them. The others: 1.
STEPS = {"n_embd": 64, "head_size": 8, "intermediate_size": 64}


def unit_of(architecture: Architecture, name: str) -> int:
    """What every step of a dimension must be a multiple of."""
    return head_size_unit(architecture) if name == "head_size" else 1


def step_of(architecture: Architecture, config: SpaceConfig, name: str) -> int:
    """The configured step of a dimension, or the default one."""
    # At most a quarter of the teacher's size, so that a tiny teacher still has choices.
    size, unit = getattr(architecture, name), unit_of(architecture, name)
    return getattr(config.step, name) or max(min(STEPS.get(name, 1), size // 4) // unit * unit, unit)


def finer_steps(architecture: Architecture, config: SpaceConfig, name: str) -> list[int]:
    """The whole fractions of a dimension's step that it may have instead, the coarsest first; none where it is held."""
    if name in config.hold:
        return []
    unit, step = unit_of(architecture, name), step_of(architecture, config, name)
    return sorted({step // part // unit * unit for part in range(2, step // unit + 1)}, reverse=True)


def _grid(architecture: Architecture, config: SpaceConfig, name: str) -> list[int]:
    size = getattr(architecture, name)
    teacher = f"teacher {architecture.name}'s {name}={size}"
    unit = unit_of(architecture, name)
    step, least, most = (getattr(part, name) for part in (config.step, config.min, config.max))
    if name in config.hold:
        for key, value in (("step", step), ("min", least), ("max", most)):
            if value is not None:
                raise SprigError(f"space.hold names {name}, but space.{key}.{name}={value}: remove one of the two.")
        return [size]
    for key, value in (("step", step), ("min", least), ("max", most)):
        if value is not None and value > size:
            raise SprigError(f"space.{key}.{name}={value} exceeds {teacher}: lower it.")
    if step is not None and step % unit:
        raise SprigError(
            f"space.step.{name}={step} would break rotary pairs: it must be a multiple of {unit} for {teacher}."
        )
    step = step_of(architecture, config, name)
    values = [value for value in range(step, size + 1, step) if (least or 1) <= value <= (most or size)]
    if most is None and size not in values:
        values.append(size)
    if not values:
        raise SprigError(
            f"space.min.{name}={least} and space.max.{name}={most} leave no multiple of space.step.{name}={step}: "
            f"widen them or lower the step."
        )
    return values


def make_grids(architecture: Architecture, config: SpaceConfig) -> dict[str, list[int]]:
    """For each dimension its values, ascending: multiples of the step within min..max, and the teacher's own size
    unless max forbids it; head sizes keep whole rotary pairs, and a layer has the experts that a token may pass.

    Raises:
        SprigError: a step, min or max that this teacher cannot have, or that leaves no value.
    """
    grids = {name: _grid(architecture, config, name) for name in ("n_layer", "n_embd", *genes_of(architecture))}
    if architecture.n_expert:
        passed, most = grids["n_expert_per_token"][-1], grids["n_expert"][-1]
        if most < passed:
            raise SprigError(
                f"The space has at most n_expert={most}, fewer than its n_expert_per_token={passed}: raise "
                f"space.max.n_expert, or set space.max.n_expert_per_token={most}."
            )
        grids["n_expert"] = [count for count in grids["n_expert"] if count >= passed]
        return grids
    parts = {"step": config.step, "min": config.min, "max": config.max}
    given = [f"{part}.{name}" for part, sizes in parts.items() for name in EXPERT_GENES if getattr(sizes, name)]
    if given := given + [f"hold={name}" for name in EXPERT_GENES if name in config.hold]:
        raise SprigError(f"space.{given[0]} is set, but teacher {architecture.name} has no experts: remove it.")
    return grids
