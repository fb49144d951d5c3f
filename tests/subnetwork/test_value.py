"""A sub-network as a value: JSON in and out, and everything that `check` and `from_dict` refuse."""

import json
from dataclasses import replace

import pytest
from architectures import PYTHIA_6_9B, SMOLLM2_135M, TOY

from pipeline.errors import SprigError
from pipeline.subnetwork.value import LayerGenes, SubNetwork, check, head_size_unit, whole

FINE = SubNetwork((0, 2), 6, (LayerGenes(2, 1, 2, 5, 7), LayerGenes(1, 2, 4, 1, 0)), "plain", "own", "none", 2**32)


def changed(layer=None, **values) -> SubNetwork:
    """FINE with other values: of itself, or of one of its layers' genes."""
    if layer is None:
        return replace(FINE, **values)
    genes = tuple(replace(gene, **values) if number == layer else gene for number, gene in enumerate(FINE.genes))
    return replace(FINE, genes=genes)


def test_json_brings_back_the_same_value():
    for sub in (FINE, whole(TOY)):
        again = SubNetwork.from_dict(json.loads(json.dumps(sub.to_dict())))
        assert (again, again.key, hash(again)) == (sub, sub.key, hash(sub))
        check(again, TOY)
    assert len({FINE.key, whole(TOY).key, changed(index_seed=1).key, changed(0, index_seed=1).key}) == 4


@pytest.mark.parametrize(
    ("sub", "message"),
    [
        (changed(layers=()), "names 0 layers but has genes for 2"),
        (changed(layers=(), genes=()), "names 0 layers but has genes for 0"),
        (changed(layers=(0, 1, 2)), "names 3 layers but has genes for 2"),
        (changed(layers=(2, 0)), r"layers \[2, 0\] must ascend without repetition"),
        (changed(layers=(1, 1)), r"layers \[1, 1\] must ascend without repetition"),
        (changed(layers=(-1, 2)), r"layers \[-1, 2\] reach outside 0\.\.2 of teacher toy"),
        (changed(layers=(0, 3)), r"layers \[0, 3\] reach outside 0\.\.2 of teacher toy"),
        (changed(n_embd=0), r"n_embd=0 is outside 1\.\.8 of teacher toy"),
        (changed(n_embd=9), r"n_embd=9 is outside 1\.\.8"),
        (changed(0, n_query_groups=3), r"n_query_groups at layer 0=3 is outside 1\.\.2"),
        (changed(1, heads_per_group=0), r"heads_per_group at layer 2=0 is outside 1\.\.2"),
        (changed(1, head_size=6), r"head_size at layer 2=6 is outside 1\.\.4"),
        (changed(1, head_size=3), "head_size=3 at layer 2 breaks a rotary pair of teacher toy: .* multiple of 2"),
        (changed(0, intermediate_size=7), r"intermediate_size at layer 0=7 is outside 1\.\.6"),
        (changed(index_seed=None), r"index_seed=None for its width and \[7, 0\] for its layers"),
        (changed(1, index_seed=None), r"index_seed=4294967296 for its width and \[7, None\] for its layers"),
        (changed(0, index_seed=-1), "index_seed=-1 must not be negative"),
        (changed(index_seed=-5), "index_seed=-5 must not be negative"),
        (changed(head_pairs="middle"), "head_pairs='middle' must be one of"),
        (changed(attention_scale="none"), "attention_scale='none' one of"),
        (changed(n_embd=6.0), r"n_embd=6\.0 is not a whole number"),
        (changed(n_embd=True), "n_embd=True is not a whole number"),
        (changed(layers=(0, "2")), r"layers\[1\]='2' is not a whole number"),
        (changed(layers=(False, 2)), r"layers\[0\]=False is not a whole number"),
        (changed(0, n_query_groups=True), r"genes\[0\]\.n_query_groups=True is not a whole number"),
        (changed(1, heads_per_group=1.5), r"genes\[1\]\.heads_per_group=1\.5 is not a whole number"),
        (changed(0, head_size=None), r"genes\[0\]\.head_size=None is not a whole number"),
        (changed(0, intermediate_size="5"), r"genes\[0\]\.intermediate_size='5' is not a whole number"),
        (changed(1, index_seed=False), r"genes\[1\]\.index_seed=False is not a whole number"),
        (changed(index_seed=1.0), r"index_seed=1\.0 is not a whole number"),
        (changed(head_pairs=None), "head_pairs=None is not a string"),
        (changed(ordering=3), "ordering=3 is not a string"),
    ],
)
def test_check_refuses(sub, message):
    with pytest.raises(SprigError, match=message):
        check(sub, TOY)
    if "is no" in message:  # a file need not meet its teacher to be refused
        with pytest.raises(SprigError, match=message):
            SubNetwork.from_dict(json.loads(json.dumps(sub.to_dict())))


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (None, "Sub-network is not a JSON object"),
        ([], "Sub-network is not a JSON object"),
        ("text", "Sub-network is not a JSON object"),
        ({}, "Sub-network has no layers: give one as"),
        (FINE.to_dict() | {"colour": 1}, "Sub-network has the unknown key colour: remove it; the keys are layers, n_e"),
        (FINE.to_dict() | {"layers": 2}, "Sub-network's layers=2 is not a list"),
        (FINE.to_dict() | {"genes": 1}, "Sub-network's genes=1 is not a list"),
        (FINE.to_dict() | {"genes": [1, 2]}, r"Sub-network's genes\[0\] is not a JSON object"),
        (FINE.to_dict() | {"genes": [{"head_size": 2}]}, r"Sub-network's genes\[0\] has no n_query_groups"),
        (
            FINE.to_dict() | {"genes": [{**FINE.to_dict()["genes"][0], "about": 2}]},
            r"genes\[0\] has the unknown key about",
        ),
        ({name: value for name, value in FINE.to_dict().items() if name != "n_embd"}, "Sub-network has no n_embd"),
    ],
)
def test_what_is_no_subnetwork_is_said(plain, said):
    with pytest.raises(SprigError, match=said):
        SubNetwork.from_dict(plain)


def test_units_of_head_size_keep_whole_pairs():
    assert [head_size_unit(each) for each in (TOY, SMOLLM2_135M, PYTHIA_6_9B)] == [2, 2, 8]
    assert head_size_unit(replace(PYTHIA_6_9B, head_size=80, rotary_percentage=0.4)) == 5
    # No float is 14 of 50: it is a little more or less, here on purpose half an entry more.
    for share in (0.28, 14.5 / 50):
        assert head_size_unit(replace(PYTHIA_6_9B, head_size=50, rotary_percentage=share)) == 25 * 2
