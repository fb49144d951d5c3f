"""The words of a command line: every one does what it says, or gets one sentence with the fix. No torch, no run."""

import os
import re
import shlex
from pathlib import Path

import pytest
from hydra.types import RunMode

from pipeline import SprigError, compose
from pipeline.command_line.arguments import parse
from pipeline.command_line.composition import CONF, anywhere, composed, session, starts_jobs
from pipeline.config import keys, unread

SMOKE = "experiment=smoke"
NO_EFFECT = "has no effect, as Sprig lays out its own folders and logs: set outputs=FOLDER and run_name=NAME"
GIVEN = ["search=given", "search.path=x"]
TRAINED = ["init=trained", "distill.from_run=x", "distill.control.enabled=false"]
OPTIONS = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("base", "selection")
)


def refused(*words: str, sweeps: bool = False) -> str:
    with pytest.raises(SprigError) as error:
        config = composed(list(words), sweeps=sweeps) if sweeps else compose(list(words))
        print(config)
    assert "\n" not in str(error.value) and "hydra.cc" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # A choice that does not exist, whatever way it is named.
        ("experiment=quikstart", "There is no experiment=quikstart: did you mean quickstart?"),
        ("experiment=twin/p0-initialization", "did you mean twin/p0-initialisation"),
        ("experiment=smoke size=smok", "There is no size=smok: did you mean smoke?"),
        ("experiment=smoke teacher@kd_teacher=tiny-rndom", "kd_teacher=tiny-rndom: did you mean tiny-random"),
        ("experiment=smoke +teacher@kd_teacher=tiny-rndom", "There is no teacher@kd_teacher=tiny-rndom"),
        ("experiment=smoke kd=of", "There is no kd=of: did you mean off"),
        ("experiment=smoke init=serched", "There is no init=serched: did you mean searched?"),
        ("experiment=smoke hydra/launcher=slrm", "There is no hydra/launcher=slrm: did you mean slurm?"),
        ("experiment=smoke hydra/launcher=joblib", "choose local or slurm"),
        ("experiment=smoke hydra/sweeper=optna", "There is no hydra/sweeper=optna: the choices are basic"),
        ("experiment=smoke teacher=[tiny-random,tiny-dep]", "There is no teacher=tiny-dep: did you mean tiny-deep"),
        ("experiment=smoke data=Sotu", "There is no data=Sotu: did you mean sotu?"),
        ("experiment=smoke teacher@teacher2=tiny-random", "teacher2"),
        ("experiment=smoke.yaml", "There is no experiment=smoke.yaml: did you mean smoke?"),
        ("experiment=twin/p0", "There is no experiment=twin/p0: did you mean twin/p0-initialisation?"),
        ("experiment=twin", "did you mean twin/p0-initialisation or twin/p1-bins or"),
        ("experiment=smoke kd=none", "There is no kd=none: did you mean off?"),
        ("experiment=smoke recover=no", "There is no recover=no: did you mean off?"),
        ("experiment=smoke recover=false", "did you mean off?"),
        ("experiment=smoke recover=true", "did you mean on?"),
        ("experiment=smoke tracker=off", "There is no tracker=off: did you mean none?"),
        # No choice at all.
        ("experiment=null", "experiment=null names no choice: leave it out"),
        ("experiment=smoke tracker=null", "leave it out, or choose one; the choices are none, wandb"),
        ("experiment=smoke bin=null", "bin=null names no choice"),
        ("experiment=smoke kd=", "kd= names no choice: the choices are js, mixed, off"),
        ("experiment=smoke init=", "init= names no choice: the choices are random_subnetwork"),
        ("experiment=", "experiment= names no choice"),
        ("experiment=smoke teacher@kd_teacher=", "teacher@kd_teacher= names no choice"),
        # Keys that do not exist.
        ("experiment=smoke model=x", "There is no configuration key model: did you mean teacher.path?"),
        ("experiment=smoke tokens=5", "key tokens: did you mean distill.tokens?"),
        ("experiment=smoke distill.hours=5", "key distill.hours: did you mean budget?"),
        ("experiment=smoke +foo=1", "There is no configuration key foo"),
        ("experiment=smoke ++distill.foo=1", "There is no configuration key distill.foo"),
        ("experiment=smoke +distill.gradient_clip=0.1", "key distill.gradient_clip: did you mean distill.clip?"),
        ("experiment=smoke +search.max_time=3600", "`sprig --cfg job --package search distill.tokens=0` prints"),
        ("experiment=smoke +distill.warmup=100", "key distill.warmup: did you mean distill.schedule.warmup?"),
        ("experiment=smoke +deepspeed.config=ds.json", "its section has deepspeed.zero_stage"),
        ("experiment=smoke distill.learning_rate=1", "There is no configuration key distill.learning_rate"),
        ("experiment=smoke distil.lr=1e-3", "key distil.lr: did you mean distill.lr?"),
        ("experiment=smoke lr=1e-3", "There is no configuration key lr: did you mean distill.lr?"),
        ("experiment=smoke teacher.layers=3", "There is no configuration key teacher.layers"),
        ("experiment=smoke hydra.launcher.job=2", "did you mean hydra.launcher.jobs?"),
        ("experiment=smoke distill.token=", "key distill.token: did you mean distill.tokens?"),
        ("experiment=smoke kd_teacher=tiny-random", "chosen as a teacher is: teacher@kd_teacher=tiny-random"),
        ("experiment=smoke search.mutation=3", "is a section: set its keys, such as search.mutation.offspring"),
        ("experiment=smoke distill.control=false", "is a section: set its keys, such as distill.control.enabled"),
        # What Hydra offers and Sprig does not use.
        ("experiment=smoke +hydra.callbacks.x._target_=nonexistent.Y", f"hydra.callbacks.x._target_ {NO_EFFECT}"),
        ("experiment=smoke hydra.run.dir=x", f"hydra.run.dir {NO_EFFECT}"),
        ("experiment=smoke hydra.sweep.dir=x", f"hydra.sweep.dir {NO_EFFECT}"),
        ("experiment=smoke hydra.job.chdir=true", f"hydra.job.chdir {NO_EFFECT}"),
        ("experiment=smoke hydra.output_subdir=x", f"hydra.output_subdir {NO_EFFECT}"),
        ("experiment=smoke hydra/job_logging=default", f"hydra/job_logging {NO_EFFECT}"),
        ("experiment=smoke hydra.verbose=true", f"hydra.verbose {NO_EFFECT}"),
        ("experiment=smoke kd_teacher.path=x", "this run distils from the teacher that is cut: choose one, teacher@kd"),
        ("experiment=smoke teacher@kd_teacher=null kd_teacher.name=x", "choose one, teacher@kd_teacher=CHOICE"),
        # A group without a name.
        ("experiment=smoke @=1", "There is no configuration key @: `sprig --cfg job distill.tokens=0` prints all"),
        ("experiment=smoke @x=1", "There is no configuration key @x"),
        ("experiment=smoke @=", "There is no configuration key @"),
        ("experiment=smoke +@x=1", "There is no configuration key @x"),
        ("experiment=smoke ' =1'", "There is no configuration key "),
        ("experiment=smoke /=1", "There is no configuration key /"),
        ("experiment=smoke .=1", "There is no configuration key ."),
        # Words that set nothing.
        ("experiment=smoke prompt=Hello world", "a value with spaces needs quotes, prompt='Hello world'"),
        ("'experiment=smoke plan=true'", "holds several arguments: give plan=VALUE as an argument of its own"),
        ("experiment=smoke,seed=0", "holds several arguments: give seed=VALUE"),
        ("experiment=smoke budget", "budget needs a value: write budget=VALUE"),
        ("stages=chat", "stages=chat works on a run that exists: name it, run=outputs/quickstart/latest"),
        # Two choices of one group.
        ("experiment=smoke experiment=quickstart", "experiment=smoke and experiment=quickstart choose from one group"),
        ("experiment=smoke +teacher=tiny-deep teacher=tiny-random", "choose from one group: leave one of them out"),
        ("experiment=smoke +bin=tiny-half ~bin", "+bin=tiny-half and ~bin choose from one group"),
        # Two values of one key.
        ("experiment=smoke seed=1 seed=2", "seed=1 and seed=2 set the same key: leave one of them out."),
        ("experiment=smoke seed=1 +seed=2", "seed=1 and +seed=2 set the same key"),
        ("experiment=smoke distill.tokens=50k distill.tokens=50_000", "set the same key"),
        ("experiment=smoke budget=50k budget=60k", "budget=50k and budget=60k set the same key"),
        ("experiment=smoke teacher.litgpt.n_layer=1 teacher.litgpt.n_layer=2", "set the same key"),
        ("experiment=smoke hydra.launcher.jobs=1 hydra.launcher.jobs=2", "set the same key"),
        ("run=x run=y", "run=x and run=y set the same key"),
        ("quickstart", "quickstart is a choice of a group: write experiment=quickstart"),
        ("smok", "did you mean experiment=smoke?"),
        ("tiny-random", "write teacher=tiny-random"),
        ("report", "report is a stage: sprig run=FOLDER stages=[report]"),
        ("help", "help is an option: sprig --help"),
        ("experiment=smoke teacher", "teacher needs a value: write teacher=VALUE"),
        ("experiment=smoke distill.tokens = 5", "write distill.tokens=VALUE, without spaces"),
        # Commands that do not exist.
        ("list", "'list' sets nothing: write sprig runs."),
        ("ls", "write sprig runs"),
        ("ps", "write sprig runs"),
        ("status", "write sprig runs"),
        ("delete smoke/latest", "write sprig rm RUN"),
        ("info smoke/latest", "write sprig describe RUN"),
        ("show smoke/latest", "write sprig describe RUN"),
        ("comapre a b", "'comapre' sets nothing, as arguments are KEY=VALUE: did you mean sprig compare RUN RUN?"),
        ("clean", "'clean' sets nothing: write python -m pipeline.artifacts clean."),
        ("cleen outputs=x", "did you mean python -m pipeline.artifacts clean?"),
        ("prune", "write python -m pipeline.artifacts clean"),
        ("verfy", "did you mean python -m pipeline.artifacts verify?"),
        ("reprot", "'reprot' sets nothing, as arguments are KEY=VALUE: did you mean stages=[report]?"),
        ("chatt", "did you mean stages=[chat]?"),
        ("resume", "resume needs a value: write run=VALUE"),
        ("run experiment=smoke", "Leave run out: sprig starts a run without it. To reopen a run, write run=FOLDER."),
        ("train experiment=smoke", "Leave train out: sprig starts a run without it"),
        ("plan experiment=smoke", "plan needs a value: write plan=true"),
        ("experiment=smoke ''", "An argument is empty: leave it out"),
        ("zzzz", "'zzzz' sets nothing, as arguments are KEY=VALUE"),
        ("experiment=smoke distill.tokens=", "distill.tokens= has no value: give one"),
        ("experiment=smoke run_name=", "run_name= has no value: give one, or null"),
        ("experiment=smoke ~seed", "~seed: only a chosen group or an axis of a preset can be removed"),
        ("experiment=smoke ~distill.lr=3", "only a chosen group"),
        # Values of the wrong kind.
        ("experiment=smoke size=0.5B", "size=0.5B chooses no file of conf/size: for a number write bin.center=0.5B"),
        ("experiment=smoke size=huge", "the choices are gpu, smoke."),
        ("experiment=smoke teacher=.", "for a path write teacher=local teacher.source=hf teacher.path=."),
        ("experiment=smoke data=/tmp", "for a path write data=text data.path=/tmp"),
        ("experiment=smoke teacher@kd_teacher=/", "teacher@kd_teacher=local kd_teacher.source=hf kd_teacher.path=/"),
        ("experiment=smoke bin.center=150,000", "could be read in two ways: write bin.center=150_000"),
        ("experiment=smoke bin.center=150.000", "could be read in two ways: write bin.center=150_000"),
        ("experiment=smoke stages=[sampel]", "stages names 'sampel': did you mean sample?"),
        ("experiment=smoke hydra.launcher=x", "hydra.launcher=x is not a single key: give each axis as an a"),
        ("experiment=smoke hydra.sweeper.params={seed:1}", "hydra.sweeper.params={seed:1} is not a single key"),
        ("experiment=smoke hydra.sweeper.params.seed=1", "hydra.sweeper.params.seed=1 is not a single key"),
        (f"experiment=smoke seed={'9' * 5000}", "9 cannot be read: a list is [a,b]"),
        ("experiment=smoke distill.betas=[0.9,null]", "distill.betas=[0.9,null] holds what is not a number."),
        ("experiment=smoke distill.betas={a:1}", "distill.betas={a:1} is not a list, such as [a,b]."),
        ("experiment=smoke deepspeed.zero_optimization=5", "deepspeed.zero_optimization=5 is not a dictionary, such"),
        ("experiment=smoke debug=maybe", "debug=maybe is not true or false."),
        ("experiment=smoke budget=8h", "needs the speed of the machine: plan=measure without a budget prints it"),
        ("experiment=smoke budget=8h@", "needs the speed of the machine"),
        ("experiment=smoke budget=8 h@200k", "'h@200k' sets nothing: write budget=8h@200k, without a space"),
        ("experiment=smoke distill.tokens=2 B", "'B' sets nothing: write distill.tokens=2B, without a space"),
        ("experiment=smoke budget=1k distill.tokens=2k", "budget=1k and distill.tokens=2k set the same key"),
        ("experiment=smoke budget=1k,2k", "budget=1k,2k names several values: add --multirun"),
        ("experiment=smoke distill.tokens=null", "distill.tokens=null is not possible, as the key needs a value."),
        ("experiment=smoke data=text", "data.path must name a file"),
        ("experiment=smoke search.strategy=mine", "allocation, given. To use your own, give its import path"),
        ("experiment=smoke num_gpus=8", "did you mean deepspeed.world_size?"),
        ("experiment=smoke seq_len=64", "did you mean data.block_size?"),
        ("experiment=smoke stages=[]", "stages=[] names no stage"),
        ("experiment=smoke bin.center=70k", "and bin.low=null bin.high=null) or both low and high"),
        ("experiment=product bin.center=1M", "teacher.source=hf needs teacher.path, which has no value: give one"),
        ("experiment=smoke hydra/launcher=local,slurm", "one launcher starts all jobs, so name one"),
        ("run=", "run= names no folder: give that of a run, run=FOLDER, or leave it out."),
        ("sweep=", "sweep= names no folder: give that of a sweep"),
        ("experiment=smoke run=null", "run=null names no folder: give that of a run"),
        ("experiment=smoke +run=/nowhere", "run=/nowhere is not a run"),
        ("experiment=smoke budget=-20x", "budget=-20x is not a budget: give tokens, budget=2B"),
        ("experiment=smoke budget=0x", "distill.tokens=0 must lie in"),
        ("experiment=smoke bin=70M", "bin=70M chooses no file of conf/bin: for a number write bin.center=70M"),
        ("experiment=smoke distill=50k", "for a number write distill.tokens=50k"),
        ("experiment=smoke distill.tokens=1.5", "is not a count, such as 50_000, 50k, 70M or 1e4"),
        ("experiment=smoke distill.tokens=50kk", "is not a count"),
        ("experiment=smoke distill.tokens=0.0001k", "is not a count"),
        ("experiment=smoke distill.tokens=1e9999", "distill.tokens=1e9999"),
        ("experiment=smoke distill.tokens=nan", "is not a count"),
        ("experiment=smoke distill.tokens=true", "is not a count"),
        ("experiment=smoke debug=-1", "is not true or false"),
        ("experiment=smoke plan=2", "plan=2 must be true, false or measure."),
        ("experiment=smoke distill.lr=inf", "distill.lr=inf must lie in"),
        ("experiment=smoke distill.lr=true", "distill.lr=true is not a number."),
        ("experiment=smoke seed=99999999999999999999", "must lie in 0..18_446_744_073_709_551_615"),
        ("experiment=smoke data.seed=-1", "data.seed=-1 must lie in"),
        ("experiment=smoke data.path=[null]", "data.path=[None] must name a file"),
        ("experiment=smoke data.path=[[1]]", "data.path=[[1]] must name a file"),
        ("experiment=smoke data.path=[]", "data.path=[] must name a file"),
        ("experiment=smoke search.start=[[1]]", "search.start=[[1]] must be a flat list"),
        # Values that refer to others.
        ("experiment=smoke 'stages=${seed}'", "stages=${seed} refers to no list: write one"),
        ("experiment=smoke 'study.short=${teacher}'", "study.short=${teacher} refers to no list"),
        ("experiment=smoke 'distill.cache.temperatures=${stages}'", "temperatures[0]: Value 'prepare' of type 'str'"),
        ("experiment=smoke 'study.short=[${nothing}]'", "study.short[0]: Interpolation key 'nothing' not found"),
        ("experiment=smoke 'seed=${stages}'", "is not a count"),
        ("experiment=smoke 'seed=${seed}'", "seed: Recursive interpolation detected"),
        ("experiment=smoke teacher.litgpt=[1]", "teacher.litgpt=[1]"),
        ("teacher=pythia-14m experiment=smoke teacher.litgpt=7", "must be the name of a litgpt configuration"),
        ("experiment=smoke study.random=1e30", "study.random=1000000000000000000000000000000 must lie in"),
        ("experiment=smoke sample.temperature=1e-300", "must be 0, which takes the most probable token, or"),
        ("experiment=smoke distill.alpha=0 distill.beta=0", "must not both be 0"),
        ("experiment=smoke deepspeed.zero_optimization.x=nan", "x=nan is not a finite number"),
        ("experiment=smoke space.min.n_layer=0", "space.min.n_layer=0 must lie in"),
        # Names that become folders.
        ("experiment=smoke run_name=a/b", "run_name='a/b' names a folder: use at most 100 letters"),
        ("experiment=smoke run_name=../x", "run_name='../x' names a folder"),
        ("experiment=smoke run_name=..", "run_name='..' names a folder"),
        ("experiment=smoke run_name=/tmp/x", "run_name='/tmp/x' names a folder"),
        ("experiment=smoke run_name=artifacts", "is a folder of Sprig's own"),
        ("experiment=smoke run_name=latest", "is a folder of Sprig's own"),
        ("experiment=smoke 'run_name=a,b'", "run_name='a,b' names a folder"),
        ("experiment=smoke preset=.hidden", "preset='.hidden' names a folder"),
        ("experiment=smoke 'run_name=  '", "run_name= has no value"),
        ("experiment=smoke teacher.revision=' '", "teacher.revision= has no value"),
        # One run with the values of several.
        ("experiment=smoke seed=0,1", "seed=0,1 names several values: add --multirun to sweep over them"),
        ("experiment=smoke teacher=tiny-random,tiny-deep", "names several choices: add --multirun"),
        ("experiment=smoke 'seed=range(0,3)'", "names several values: add --multirun"),
        # Grammar.
        ("experiment=smoke distill.betas=[0.9,0.95", "cannot be read: a list is [a,b]"),
        ("experiment=smoke 'distill.betas=(a,b)'", "cannot be read: a list is [a,b]"),
        ("experiment=smoke 'stages=[a b:c'", "needs its own quotes inside those of the shell"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_gets_one_sentence(words, said):
    assert said in refused(*shlex.split(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("experiment=smoke,smok", "There is no experiment=smok: did you mean smoke?"),
        ("experiment=smoke teacher@kd_teacher=tiny-deep,tiny-dep", "There is no teacher@kd_teacher=tiny-dep"),
        ("experiment=smoke kd=on,of", "There is no kd=of"),
        ("experiment=smoke 'data=choice(sotu,sotuu)'", "There is no data=sotuu"),
        ("experiment=smoke bin=tiny-half,null", "bin=null names no choice"),
        ("experiment=smoke seed=0,1 seed=2", "seed=0,1 and seed=2 set the same key"),
        ("experiment=smoke seed=0,1 +foo=1", "There is no configuration key foo"),
        (
            "experiment=smoke seed=0,1 hydra.launcher.slrm.mem=1",
            "There is no configuration key hydra.launcher.slrm.mem",
        ),
    ],
)
def test_every_value_of_an_axis_is_checked(words, said):
    assert said in refused(*shlex.split(words), sweeps=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_misspelt_choice_of_every_group_names_the_right_one(option):
    group, _, choice = option.partition("=")
    misspelt = f"{choice[:-1]}_{choice[-1]}" if len(choice) > 2 else f"{choice}_{choice}"
    words = [] if group in ("experiment", "size") else [SMOKE]
    said = refused(*words, f"{group}={misspelt}")
    assert f"There is no {group}={misspelt}" in said and choice in said


def test_every_folder_of_conf_is_a_group_of_that_test():
    groups = {option.partition("=")[0] for option in OPTIONS}
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"base", "selection", "hydra"}
    assert groups == folders


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("distill.tokens=1e4", "distill.tokens", 10_000),
        ("distill.tokens=4096.0", "distill.tokens", 4_096),
        ("distill.tokens=50k", "distill.tokens", 50_000),
        ("distill.tokens=1.5M", "distill.tokens", 1_500_000),
        ("distill.tokens=10B", "distill.tokens", 10_000_000_000),
        ("distill.tokens=1T", "distill.tokens", 10**12),
        ("distill.tokens=50_000", "distill.tokens", 50_000),
        ("data.max_tokens=70m", "data.max_tokens", 70_000_000),
        ("search.limit.flops=1e15", "search.limit.flops", 10**15),
        ("budget=50k", "distill.tokens", 50_000),
        ("budget=0.5x", "distill.tokens", 40_000),
        ("budget=1.5h@20", "distill.tokens", 108_000),
        ("stages=search", "stages", ["search"]),
        ("study.short=[1k,2k]", "study.short", [1_000, 2_000]),
        ("study.short=[1e3,2048.0]", "study.short", [1_000, 2_048]),
        ("space.max.n_embd=1k", "space.max.n_embd", 1_000),
        ("teacher@kd_teacher=tiny-deep kd_teacher.padded_vocab_size=1e3", "kd_teacher.padded_vocab_size", 1_000),
        ("+distill.lr=1e-3", "distill.lr", 1e-3),
        ("++distill.lr=1e-3", "distill.lr", 1e-3),
        ("kd=temperature-2", "distill.temperature", 2.0),
        ("+kd=temperature-2", "distill.temperature", 2.0),
        ("init=random_weights", "distill.init", "random_weights"),
        ("teacher@kd_teacher=null", "kd_teacher", None),
        ("deepspeed.zero_optimization.overlap_comm=true", "deepspeed.zero_optimization", {"overlap_comm": True}),
        (
            "deepspeed=zero3 'deepspeed.zero_optimization={reduce_bucket_size: 50M, offload_param: {device: cpu}}'",
            "deepspeed.zero_optimization",
            {"reduce_bucket_size": 50_000_000, "offload_param": {"device": "cpu"}},
        ),
        ("outputs=~/x", "outputs", os.path.expanduser("~/x")),
        ("outputs=~root/x", "outputs", os.path.expanduser("~root/x")),
        ("outputs=/a/~b", "outputs", "/a/~b"),
        ("data.path=[~/a,/b]", "data.path", [os.path.expanduser("~/a"), "/b"]),
        ("'prompt=Hello, world: (x) = [y]'", "prompt", "Hello, world: (x) = [y]"),
        ("'prompt=1,000'", "prompt", "1,000"),
        ("'prompt=a ${b} c'", "prompt", "a ${b} c"),
        ("""'prompt=it'"'"'s "so"'""", "prompt", """it's "so\""""),
        ("prompt=1e3", "prompt", "1e3"),
        ("""'prompt="quoted, too"'""", "prompt", "quoted, too"),
        ("'outputs=/tmp/a b,c=(d)'", "outputs", "/tmp/a b,c=(d)"),
        ("""'outputs="/tmp/a b"'""", "outputs", "/tmp/a b"),
        ("'evaluate.prompt=Yes: no, maybe'", "evaluate.prompt", "Yes: no, maybe"),
        ("'data.path=a, b'", "data.path", "a, b"),
        ("run_name=2024", "run_name", "2024"),
        ("run_name=true", "run_name", "true"),
        ("'run_name=${preset}-x'", "run_name", "smoke-x"),
        ("debug=1", "debug", True),
        ("seed=18446744073709551615", "seed", (1 << 64) - 1),
    ],
)  # fmt: skip
def test_what_is_meant_is_understood(words, key, value):
    found = compose([SMOKE, *shlex.split(words)])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize("text", ["José", "Müller", "Où", "漢字", "é漢 🙂", "🙂", "it's é", "é, ü: [ñ] (ø)"])
@pytest.mark.parametrize(
    "key", ["outputs", "data.path", "teacher.path", "export.to", "data.name", "teacher.name", "evaluate.prompt"]
)
def test_text_may_be_of_any_language(key, text):
    value = f"/tmp/{text}/out" if keys.find(key).is_path else text
    found = compose([SMOKE, f"{key}={value}"])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


def test_lists_axes_and_interpolations_may_be_of_any_language(tmp_path, monkeypatch):
    assert compose([SMOKE, "data.path=[/é, '/ü b',/a ñ/c]"]).data.path == ["/é", "/ü b", "/a ñ/c"]
    assert compose([SMOKE, "run_name=${preset}-é"]).run_name == "smoke-é"
    assert compose([SMOKE, "run_name=Müller"]).run_name == "Müller"
    with session([SMOKE, "run_name=é,ü"], sweeps=True) as opened:
        assert opened.words[1] == "run_name='é','ü'"
    (tmp_path / "é/bin").mkdir(parents=True)
    (tmp_path / "é/bin/ü.yaml").write_text("center: 80k\ntolerance: 0.2\n")
    words = [f"hydra.searchpath=[{tmp_path}/é]", SMOKE, "bin=ü"]
    assert compose(words).bin.center == compose(anywhere(words)).bin.center == 80_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run_name=🙂", "run_name='🙂' names a folder: use at most 100 letters"),
        ("teacher=Müller", "There is no teacher=Müller"),
        ("seed=é", "is not a count"),
        ("run=/tmp/é漢", "run=/tmp/é漢 is not a run: give its folder"),
    ],
)
def test_what_is_refused_of_any_language_is_refused_for_what_it_is(words, said):
    assert said in refused(SMOKE, words)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Llama-3.2-1B", "Llama-3.2-1B"),
        ("/models/Llama-3.2-1B/", "Llama-3.2-1B"),
        ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("my-model.gguf", "my-model.gguf"),
        ("/models/a/../b", "b"),
        ("/hub/models--meta-llama--Llama-3.2-1B/snapshots/4e20de36", "Llama-3.2-1B"),
        ("/", "local"),
    ],
)
def test_a_teacher_of_ones_own_is_called_by_the_last_part_of_its_path(path, name):
    own = [SMOKE, "teacher=local", "teacher.source=hf", f"teacher.path={path}", "data=text"]
    kd = ["teacher@kd_teacher=local", "kd_teacher.source=hf", "kd_teacher.path=/other/kd"]
    config = compose([*own, "data.path=[a,b]", *kd])
    assert (config.teacher.name, config.kd_teacher.name, config.data.name) == (name, "kd", "text")
    assert compose([*own, "teacher.name=given", "data.path=/my/texts"]).teacher.name == "given"
    assert compose([*own, "data.path=/my/texts"]).data.name == "texts"


def test_a_folder_or_a_prompt_asks_for_its_stage():
    every = compose([SMOKE]).stages
    assert compose([SMOKE, "export.to=x"]).stages == [*every, "export"]
    assert compose([SMOKE, "prompt=x"]).stages == [*every, "sample"]
    assert compose([SMOKE, "export.to=x", "stages=[prepare]"]).stages == ["prepare"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("kd=off", "change single values, such as distill.loss=ce."),
        ("init=random_weights", "change single values, such as distill.init=random_weights."),
        ("search=random", "change single values, such as search.strategy=random"),
        ("selection=plain", "change single values."),
    ],
)
def test_a_reopened_run_is_told_the_values_of_a_choice(word, said):
    with session([]) as opened, pytest.raises(SprigError, match=re.escape(said)):
        opened.checker.values([word])


def test_the_same_word_may_be_given_twice():
    assert compose([SMOKE, SMOKE, "seed=3", "+seed=3", "kd=on", "kd=on"]).seed == 3


def test_budgets_are_an_axis():
    with session([SMOKE, "budget=1k,20x"], sweeps=True) as opened:
        assert opened.words[1] == "distill.tokens=1000,${tokens_per_parameter:20}"


def test_a_sweep_tells_axes_from_texts():
    with session([SMOKE, "outputs=/tmp/a b", "seed=1,2", "run_name='a,b'"], sweeps=True) as opened:
        assert opened.words == ["experiment=smoke", "outputs='/tmp/a b'", "seed=1,2", "run_name='a,b'"]
    assert starts_jobs(["experiment=twin/p0-initialisation", "prompt=a, b"])
    assert not starts_jobs(["experiment=twin/p0-initialisation", "hydra.mode=RUN"])
    assert starts_jobs([SMOKE, "hydra/launcher=slurm"]) and not starts_jobs([SMOKE])


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with a bin and a preset of its own."""
    (tmp_path / "mine/bin").mkdir(parents=True)
    (tmp_path / "mine/experiment").mkdir()
    (tmp_path / "mine/bin/mine.yaml").write_text("center: 80k\ntolerance: 0.2\n")
    (tmp_path / "mine/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - smoke\n  - override /bin: mine\npreset: mine\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPRIG_CONF", raising=False)
    return tmp_path


@pytest.mark.parametrize("way", ["./conf", "SPRIG_CONF", "--config-dir", "hydra.searchpath", "file://"])
def test_a_projects_own_choices_are_found(project, monkeypatch, way):
    words, folder = ["experiment=mine"], project / "mine"
    if way == "./conf":
        folder.rename(project / "conf")
    elif way == "SPRIG_CONF":
        monkeypatch.setenv(way, f"{folder}")
    elif way == "--config-dir":
        words = parse(["--config-dir", "mine", *words]).words
    else:
        words.append(f"hydra.searchpath=[{'file://' if way == 'file://' else ''}{folder}]")
    assert compose(words).bin.center == 80_000
    assert composed([*words, "bin=mine,tiny-half"], sweeps=True).preset == "mine"
    with session(words, sweeps=True) as opened:
        searched = opened.searched
    recorded = anywhere(words)
    monkeypatch.chdir("/")
    monkeypatch.delenv("SPRIG_CONF", raising=False)
    assert compose([*searched, "experiment=mine"]).bin.center == 80_000, "a job elsewhere finds it too"
    assert compose(shlex.split(shlex.join(recorded))).bin.center == 80_000, "as does the command that a report names"


def test_a_projects_own_preset_has_axes(project):
    preset = project / "mine/experiment/mine.yaml"
    preset.write_text(
        preset.read_text() + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      bin: mine,tiny-half\n"
    )
    words = parse(["--config-dir", "mine", "experiment=mine"]).words
    assert starts_jobs(words)
    with session(words, sweeps=True) as opened:
        assert opened.compose(RunMode.MULTIRUN).hydra.sweeper.params == {"bin": "mine,tiny-half"}


def test_a_projects_mistakes_are_named(project):
    folder = project / "mine"
    words = [f"hydra.searchpath=[{folder}]", "experiment=mine"]
    preset = folder / "experiment/mine.yaml"
    good = preset.read_text()
    for change, said in (
        (good.replace("bin: mine", "bin: mien"), "mien"),
        (good.replace("/bin: mine", "/teacher@kd_teacher: tiny-rndom"), "There is no teacher@kd_teacher=tiny-rndom"),
        (good + "hydra:\n  run:\n    dir: x\n", f"hydra.run.dir {NO_EFFECT}"),
        (good + "distill:\n  tokns: 3\n", "no configuration key distill.tokns: did you mean distill.tokens?"),
        (good + "distill:\n  tokens: 3.5\n", "is not a count"),
    ):
        preset.write_text(change)
        assert said in refused(*words)
    preset.write_text(good)
    (folder / "bin/tiny-half.yaml").write_text("center: 1\n")
    assert "are both bin=tiny-half: rename your own" in refused(*words, "bin=tiny-half")
    assert "The configuration folder /nowhere does not exist" in refused("hydra.searchpath=[/nowhere]", SMOKE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("clean --yes", "'clean' sets nothing: write python -m pipeline.artifacts clean."),
        ("--plan", "--plan is not an option: write plan=true, without dashes"),
        ("--seed=3", "--seed=3 is not an option: write seed=3, without dashes"),
        ("--run-name x", "--run-name is not an option: write run_name=VALUE"),
        ("--distill.lr 3", "write distill.lr=VALUE"),
        ("--verson", "--verson is not an option: did you mean --version?"),
        ("--resume", "--resume is not an option: write run=VALUE, without dashes"),
        ("-x", "-x is not an option"),
        ("--config-path x", "--config-dir DIR adds a folder of your own choices"),
        ("-cn x", "--config-dir DIR adds a folder of your own choices"),
        ("--cfg", "expected one argument"),
        ("--cfg everything", "invalid choice"),
        ("--shell-completion", "--shell-completion needs one action: install=SHELL or uninstall=SHELL"),
        ("-sc install=shell", "--shell-completion needs one action"),
        ("--info everything", "invalid choice"),
        ("--info config --multirun seed=1,2", "--info and --multirun cannot be given together"),
        ("--hydra-help -c job", "--hydra-help and --cfg cannot be given together"),
        ("--run -m experiment=smoke", "leave one of them out"),
    ],
)
def test_options_that_are_not(arguments, said):
    with pytest.raises(SprigError, match=said.replace("[", r"\[")):
        parse(arguments.split())


def test_options_stand_anywhere():
    command = parse(["experiment=smoke", "-m", "seed=0,1", "--cfg", "job", "prompt=-x, --y"])
    assert command.words == ["experiment=smoke", "seed=0,1", "prompt=-x, --y"]
    assert (command.multirun, command.show, command.help) == (True, "job", False)
    assert parse([]).help and parse(["plan=true"]).help and parse(["-m", "--help", "seed=1"]).help
    assert not parse(["--version"]).help and not parse(["experiment=smoke"]).help


def test_every_key_is_found_by_its_own_name_and_near_a_misspelt_one():
    for name, key in keys.keys().items():
        assert keys.find(name) is key
        if not key.is_section and len(name.rpartition(".")[2]) > 5:
            assert keys.nearest(f"{name[:-2]}{name[-1]}") is not None, name


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["search.mutation.gene_rate=0.3"], ["search.mutation.gene_rate=0.3"]),
        (["search=random", "search.evaluations=9", "search.population=9"], ["search.population=9"]),
        (["search=local", "search.offspring=9", "search.surrogate=8", "search.blocks=4"], ["search.surrogate=8"]),
        (["search=evolution", "search.mutation.gene_rate=0.3", "search.limit.evaluations=9"], []),
        (["search.blocks=4", "search.fitness=kl", "search.random_baseline=true"], []),
        (["search.rerank.tokens=4_096"], ["search.rerank.tokens=4_096"]),
        (["search=evolution", "search.rerank.tokens=4_096", "search.rerank.candidates=2"], []),
        (["distill.loss=ce", "distill.temperature=2", "distill.lr=1e-3"], ["distill.temperature=2"]),
        (["distill.loss=ce", "distill.cache.kind=topk"], ["distill.cache.kind=topk"]),
        (["teacher@kd_teacher=tiny-deep", "kd=off"], ["teacher@kd_teacher=tiny-deep"]),
        (["teacher@kd_teacher=tiny-deep", "distill.beta=0", "distill.alpha=1"], ["teacher@kd_teacher=tiny-deep"]),
        (["teacher@kd_teacher=tiny-deep", "kd=on"], []),
        (["init=trained", "distill.from_run=x", "search=random", "bin=tiny-half"], ["search=random", "bin=tiny-half"]),
        (
            ["init=random_subnetwork", "search.blocks=4", "search.rerank.tokens=9"],
            ["search.blocks=4", "search.rerank.tokens=9"],
        ),
        (["init=random_subnetwork", "distill.control.init=searched", "search.blocks=4"], []),
        (["init=random_subnetwork", "study.random=4", "search.blocks=4"], []),
        (["init=random_weights", "search.blocks=4"], []),
        (["hydra.launcher.jobs=2", "hydra/launcher=local"], ["hydra.launcher.jobs=2", "hydra/launcher=local"]),
        (["distill.temperature=2", "distill.alpha=0.5", "distill.cache.kind=topk"], []),
        (["distill.js_weight=0.3"], ["distill.js_weight=0.3"]),
        (["distill.loss=js", "distill.js_weight=0.3"], []),
        (["recover=off", "recover.tokens=4_096"], ["recover.tokens=4_096"]),
        (["recover.enabled=false"], []),
        (["init=random_weights", "recover=off", "recover.batch=2"], ["recover=off", "recover.batch=2"]),
        (["init=random_weights", "distill.control.init=searched", "recover.batch=2"], []),
        (["bin=tiny-half", "bin.tolerance=0.1"], ["bin.tolerance=0.1"]),
        (["bin.center=80_000", "bin.tolerance=0.1"], []),
        ([*GIVEN, "space=fine-uniform", "space.hold=[n_embd]"], ["space=fine-uniform", "space.hold=[n_embd]"]),
        ([*GIVEN, "space.max_flops_per_token=9M", "space.vocabulary=99"], []),
        ([*GIVEN, "search.random_baseline=true", "space=fine-uniform"], []),
        (
            [*TRAINED, "space.step.n_embd=8", "space.vocabulary=99", "bin=tiny-half", "search=random"],
            ["space.step.n_embd=8", "bin=tiny-half", "search=random"],
        ),
        ([*TRAINED, "study.random=8", "space.step.n_embd=8", "bin=tiny-half"], []),
        (["ordering=none", "search=uniform", "ordering.blocks=4"], ["ordering.blocks=4"]),
        (["ordering=none", "search=allocation", "ordering.blocks=4", "space.layers=prefix"], []),
        (["distill.cache.slots=4", "distill.cache.kind=off"], ["distill.cache.slots=4"]),
        (["distill.cache.slots=4", "distill.cache.kind=sampled"], []),
        (["distill.control.enabled=false", "distill.control.lr=1e-3"], ["distill.control.lr=1e-3"]),
        (["distill.control.enabled=false", "init=random_weights", "distill.control.lr=1e-3"], []),
        (["distill.schedule.decay=0.1"], ["distill.schedule.decay=0.1"]),
        (["distill=wsd", "distill.schedule.decay=0.1", "distill.schedule.warmup=0.1"], []),
        (["distill.schedule.warmup_tokens=64", "distill.schedule.warmup=0.1"], ["distill.schedule.warmup=0.1"]),
        (["distill.validation_tokens=64", "distill.validations=3"], ["distill.validations=3"]),
        (["evaluate.limit=3"], ["evaluate.limit=3"]),
        (["distill.beta=0", "distill.alpha=1", "distill.temperature=2"], ["distill.temperature=2"]),
        (["data.text_key=body", "data.split=test", "data.sample_by=line"], ["data.text_key=body", "data.split=test"]),
        (["data.subset=x", "+data.streaming=true", "data.max_tokens=9k"], ["data.subset=x", "+data.streaming=true"]),
        (["data.source=jsonl", "data.path=x", "data.text_key=a", "data.sample_by=line"], ["data.sample_by=line"]),
        (["data=fineweb-edu", "data.text_key=a", "data.split=b", "data.subset=c", "data.streaming=true"], []),
        (["data=fineweb-edu", "data.package=sotu"], ["data.package=sotu"]),
        (["teacher=tiny-random", "teacher.path=x", "teacher.revision=y"], ["teacher.path=x", "teacher.revision=y"]),
        (["teacher=smollm2-135m", "teacher.revision=y"], ["teacher.revision=y"]),
        (["teacher=pythia-70m", "teacher.revision=y", "teacher.path=a/b"], []),
        (["teacher@kd_teacher=tiny-deep", "kd_teacher.path=x"], ["kd_teacher.path=x"]),
        (["export.form=own", "export.gguf=none"], ["export.form=own", "export.gguf=none"]),
        (["export.form=own", "export.to=x"], []),
        (["export.to=x", "stages=[prepare]"], ["export.to=x"]),
        (["prompt=x", "sample.tokens=3", "stages=[prepare]"], ["prompt=x", "sample.tokens=3"]),
        (["sample.tokens=3", "stages=[chat,prepare]"], []),
        (["tracker.mode=offline"], ["tracker.mode=offline"]),
        (["tracker=wandb", "tracker.mode=offline"], []),
        (["study.tokens=64"], ["study.tokens=64"]),
        (["study.tokens=64", "study.random=4"], []),
    ],
)
def test_what_has_no_effect_is_named(words, named):
    said = unread(compose([*words, "distill.tokens=50_000"]), words)
    assert [sentence.partition(" ")[0] for sentence in said] == named
