"""Imports litgpt without what only its neighbours need: transformers, matplotlib and scikit-learn, over 4 CPU seconds.

litgpt imports lightning, which asks for the version of torchmetrics, whose text and image metrics import these packages
where they are installed. Each asks a RequirementCache first. Packages that import litgpt import this module before.
"""

from unittest.mock import patch

from lightning_utilities.core.imports import RequirementCache

UNUSED = ("transformers", "matplotlib", "scienceplots")

_asked = RequirementCache.__bool__


def _needed(requirement: RequirementCache) -> bool:
    return not str(requirement.requirement or requirement.module).startswith(UNUSED) and _asked(requirement)


with patch.object(RequirementCache, "__bool__", _needed):
    import litgpt  # noqa: F401
