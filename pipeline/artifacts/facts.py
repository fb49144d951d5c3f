"""What a run found outside the store when it was created: hashes of its sources, its teachers' shapes, its precision.

The run's folder keeps them. A run that is opened again takes them from there, so it stays the same run on another
machine, and after its text or teacher moved, changed or vanished.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import outside
from pipeline.artifacts.files import write_json
from pipeline.artifacts.manifest import Recipe
from pipeline.errors import SprigError

FILE = Path(".hydra/facts.json")


class Facts:
    """JSON-ready values by name, each found once. `shared` is a dictionary that several of them fill together."""

    def __init__(self, shared: dict[str, Any] | None = None, run: Path | None = None):
        self.values = {} if shared is None else shared
        self.recalled = read(run)["facts"] if run is not None and (run / FILE).exists() else {}
        self.values |= self.recalled

    def get(self, name: str, find: Callable[[], Any]) -> Any:
        if name not in self.values:
            self.values[name] = find()
        return self.values[name]


def read(run: Path) -> dict[str, Any]:
    """`facts` by name, and `steps`: the stage, version and fingerprint of every role.

    Raises:
        SprigError: the file is torn.
    """
    try:
        found = outside.read_json(run / FILE)
        found["facts"].items(), found["steps"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SprigError(
            f"{run / FILE} cannot be read ({type(error).__name__}: {error}): remove it and give the run's own command "
            "again (.hydra/overrides.yaml), which writes it from the run's sources."
        ) from None
    return found


def write(run: Path, facts: Facts, steps: dict[str, Recipe]) -> None:
    """Once: a later command must not change whose run it is."""
    if not (run / FILE).exists():
        known = {role: [recipe.stage, recipe.version, recipe.fingerprint] for role, recipe in steps.items()}
        write_json(run / FILE, {"facts": facts.values, "steps": known})
