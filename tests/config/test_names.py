"""Names that become folders: one folder in another, and none of Sprig's own."""

import pytest

import pipeline
from pipeline.artifacts.inventory import STORE
from pipeline.commands import comparison
from pipeline.config.checks import RESERVED, folder_name
from pipeline.errors import SprigError
from pipeline.layout import LATEST, SWEEPS

BAD = [
    "", " ", ".", "..", "...", "../x", "../../x", "a/b", "a\\b", "/tmp/x", "~", "~/x", "~root",
    ".hidden", "-x", "a\nb", "a\n", "\n", "a\tb", "a\x00b", "a b", " a", "a ", "a.", "a:b", "a*",
    "a?", "a|b", "a<b", "$HOME", "${HOME}", "`x`", "a;b", "a&b", "a'b", 'a"b', "a,b", "a#b", "a%b",
    "\u202ea", "a\u2028b", "x" * 101, "\u00e9" * 51,
]  # fmt: skip
OWN = ["latest", "artifacts", "sweeps", "Latest", "ARTIFACTS"]
GOOD = [
    "a",
    "smoke",
    "paper-p6-budget",
    "v1.2_final+x=3@home",
    "2026-11-28",
    "\u00e9t\u00e9",
    "x" * 100,
    "latest2",
    "my.artifacts",
]


@pytest.mark.parametrize("name", BAD)
def test_no_path_and_nothing_that_is_read_as_more(name):
    with pytest.raises(SprigError, match=r"run_name=.* names a folder: use at most 100 letters") as refused:
        folder_name("run_name", name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", OWN)
def test_no_folder_of_sprigs_own(name):
    with pytest.raises(SprigError, match=rf"run_name={name} is a folder of Sprig"):
        folder_name("run_name", name)


@pytest.mark.parametrize("name", GOOD)
def test_names_that_are_folders(name):
    folder_name("run_name", name)


def test_the_folders_that_outputs_has_are_reserved():
    assert set(RESERVED) == {LATEST, STORE, SWEEPS, comparison.FOLDER}


@pytest.mark.parametrize("key", ["run_name", "preset"])
@pytest.mark.parametrize("name", ["../../x", "artifacts", "a/b"])
def test_every_name_of_a_run_folder_is_checked(key, name):
    with pytest.raises(SprigError, match=f"^{key}="):
        pipeline.compose(["experiment=smoke", f"{key}={name}"])
