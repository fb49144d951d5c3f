"""A user's paths become absolute, whatever key they are given to; names of a hub and of packages stay."""

from pathlib import Path

import pytest
from covering import grid

import pipeline
from pipeline.errors import SprigError

OWN_TEACHER = ["teacher=local", "teacher.source=hf", "data=sotu"]
OWN_TEXT = ["data=text", "data.block_size=32"]
CASES = {
    "outputs": ["outputs={}"],
    "data.path": [*OWN_TEXT, "data.path={}"],
    "teacher.path": [*OWN_TEACHER, "teacher.path={}"],
    "kd_teacher.path": ["teacher@kd_teacher=local", "kd_teacher.source=litgpt", "kd_teacher.path={}"],
    "teacher.tokenizer": [*OWN_TEACHER, "teacher.path=x", "teacher.tokenizer={}"],
    "export.to": ["stages=[export]", "export.to={}"],
    "search.path": ["search=given", "search.path={}", "search.random_baseline=false"],
    "distill.from_run": ["init=trained", "distill.from_run={}"],
    "distill.cache.path": ["distill.cache.kind=topk", "distill.cache.mode=read", "distill.cache.path={}"],
}

ABSOLUTE = {"x/y/z": "here/x/y/z", "./x": "here/x", "../x": "here/../x", "~/x": "home/x", "x": "here/x"}


def value(config: object, key: str) -> str:
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


@pytest.mark.parametrize(("key", "given"), grid(CASES, ABSOLUTE))
def test_every_path_is_absolute(here, key, given):
    quoted = f"'{given}'"
    config = pipeline.compose(["experiment=smoke", *(each.format(quoted) for each in CASES[key])])
    assert value(config, key) == str(here.parent / ABSOLUTE[given])


@pytest.mark.parametrize("key", CASES)
def test_an_absolute_path_stays(here, key):
    config = pipeline.compose(["experiment=smoke", *(each.format("/some/where") for each in CASES[key])])
    assert value(config, key) == "/some/where"


def test_a_list_of_texts(here):
    config = pipeline.compose(["experiment=smoke", *OWN_TEXT, "data.path=[a.txt,'~/b','/c/*.txt']"])
    assert config.data.path == [str(here / "a.txt"), str(here.parent / "home/b"), "/c/*.txt"]


def test_a_run_may_be_given_by_its_name(here):
    given = ["experiment=smoke", "outputs=made", "init=trained", "distill.from_run=quickstart/latest"]
    (here / "made/quickstart/latest").mkdir(parents=True)
    assert pipeline.compose(given).distill.from_run == str(here / "made/quickstart/latest")
    (here / "quickstart/latest").mkdir(parents=True)
    assert pipeline.compose(given).distill.from_run == str(here / "quickstart/latest")


def test_the_run_to_train_further_is_named_itself(here):
    (here / "outputs/quickstart/1234abcd").mkdir(parents=True)
    (here / "outputs/quickstart/latest").symlink_to("1234abcd")
    for place in ("outputs/quickstart", "quickstart"):
        with pytest.raises(
            SprigError, match=rf"distill\.from_run={place}/latest .* distill\.from_run={place}/1234abcd\."
        ):
            pipeline.compose(["experiment=smoke", "init=trained", f"distill.from_run={place}/latest"])
        again = ["experiment=smoke", "init=trained", f"distill.from_run={place}/1234abcd"]
        assert pipeline.compose(again).distill.from_run == str(here / "outputs/quickstart/1234abcd")


@pytest.mark.parametrize("name", ["EleutherAI/pythia-410m", "a.b/c-d_e"])
def test_a_name_of_the_hub_stays_unless_it_is_a_folder(here, name):
    teacher = ["experiment=smoke", *OWN_TEACHER, f"teacher.path={name}"]
    assert pipeline.compose(teacher).teacher.path == name
    (here / name).mkdir(parents=True)
    assert pipeline.compose(teacher).teacher.path == str(here / name)


@pytest.mark.parametrize("group", ["data=fineweb-edu", "data=sotu", "teacher=smollm2-135m", "teacher=tiny-random"])
def test_names_of_hubs_and_paths_in_packages_stay(here, group):
    config = pipeline.compose(["experiment=smoke", group])
    part = config.data if group.startswith("data") else config.teacher
    assert part.path is None or not Path(part.path).is_absolute()
    assert config.teacher.tokenizer in (None, "bytes")


@pytest.mark.parametrize("word", ["outputs='~nobody-at-all/x'", "run=~nobody-at-all/x"])
def test_a_home_that_is_not_known(here, word):
    with pytest.raises(SprigError, match="~nobody-at-all/x begins with ~, but that home folder is not known"):
        pipeline.compose([word] if word.startswith("run=") else ["experiment=smoke", word])
