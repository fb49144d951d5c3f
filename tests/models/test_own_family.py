"""A family of the user's, by import path: StableLM of examples/own_family.py."""

from pathlib import Path

import exports
import pytest
import torch
from runs import smoke
from test_huggingface import TOKENS, assert_same_logits, convert, make, teacher
from transformers import AutoModelForCausalLM, StableLmConfig, StableLmForCausalLM

from pipeline.errors import SprigError
from pipeline.models import families
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import LayerGenes, SubNetwork

SIZES = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}
OWN = "own_family.STABLELM"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    yield
    families.FAMILIES.pop("stablelm", None)


def test_a_teacher_is_read_cut_and_exported(tmp_path):
    theirs = make(
        "", StableLmForCausalLM, StableLmConfig(**SIZES, **HEADS, use_qkv_bias=True, partial_rotary_factor=0.5)
    )
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(SprigError, match=r"'stablelm'; supported are .*, teacher\.family=my_module\.MY_FAMILY"):
        convert(teacher(tmp_path / "theirs"), tmp_path / "ours")
    families.register(OWN)
    ours = convert(teacher(tmp_path / "theirs", family=OWN), tmp_path / "ours")
    assert_same_logits(ours, theirs)
    architecture = architecture_of(ours.config, is_tied(ours))
    assert architecture.family == "stablelm"
    assert parameters(architecture) == theirs.num_parameters()
    genes = (LayerGenes(2, 2, 8, 40), LayerGenes(1, 3, 4, 24))
    student = extract(ours, SubNetwork((0, 2), 40, genes), Ordering.identity(architecture)).eval()
    taken, to = exports.export(student, exports.tokenizer(tmp_path))
    assert taken == "own"
    model = AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True).eval()
    with torch.no_grad():
        tokens = TOKENS % 257
        torch.testing.assert_close(model(tokens).logits, student(tokens)[..., :257], atol=1e-4, rtol=0)


def test_a_run_knows_it_from_its_configuration(tmp_path):
    make("", StableLmForCausalLM, StableLmConfig(**SIZES, **HEADS)).save_pretrained(tmp_path / "theirs")
    given = ["teacher=local", "teacher.source=hf", f"teacher.path={tmp_path / 'theirs'}", "teacher.tokenizer=bytes"]
    config = smoke(tmp_path / "outputs", *given, f"teacher.family={OWN}")
    context = Context(config, lambda line: None)
    assert context.architecture.family == "stablelm"
    assert context.identity_of(config.teacher)["family"] == OWN


def test_what_is_not_a_family_or_has_the_name_of_another_is_refused(tmp_path):
    with pytest.raises(SprigError, match=r"teacher\.family=stablelm must be an import path"):
        smoke(tmp_path, "teacher.family=stablelm")
    with pytest.raises(SprigError, match=r"teacher\.family=own_family\.nothing cannot be imported"):
        families.register("own_family.nothing")
    with pytest.raises(SprigError, match=r"teacher\.family=own_family\.FIELDS is of type dict: name a Family"):
        families.register("own_family.FIELDS")
    families.FAMILIES["stablelm"] = families.FAMILIES["llama"]
    with pytest.raises(SprigError, match=f"{OWN} is called stablelm, as another family is"):
        families.register(OWN)
