"""What tests of whole runs share."""

from pathlib import Path

import pytest

import pipeline


def smoke(outputs: Path, *overrides: str) -> pipeline.config.Config:
    """experiment=smoke into a folder of the test's own."""
    return pipeline.compose(["experiment=smoke", f"outputs={outputs}", "precision=fp32", *overrides])


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory) -> Path:
    """The outputs folder of one finished smoke run, made once; tests that change it must work on a copy."""
    outputs = tmp_path_factory.mktemp("smoke") / "outputs"
    pipeline.run(smoke(outputs))
    return outputs
