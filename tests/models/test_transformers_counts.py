"""Parameter counts of random sub-networks against models that transformers builds, on the meta device."""

from itertools import product

import numpy as np
import pytest
import tiny
import torch
from covering import slow
from litgpt import GPT
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.config import Exportable, ExportForm, Granularity, Layers, Sharing, SpaceConfig
from pipeline.models.export import own, stock
from pipeline.models.export.modeling_sprig import SprigConfig, SprigForCausalLM
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import build
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.space import Space

SPACES = [(granularity, sharing) for granularity in Granularity for sharing in Sharing]


def built(plain: dict) -> PreTrainedModel:
    with torch.device("meta"):
        if plain["model_type"] == "sprig":
            return SprigForCausalLM(SprigConfig(**plain))
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**plain, pad_token_id=0))


@pytest.mark.proves("exact parameter counts", lambda family: family)
@pytest.mark.parametrize(
    ("family", "times"), [*((each, 1) for each in tiny.FIRST), *slow((each, 6) for each in tiny.CONFIGS)]
)
def test_random_subnetworks_count_as_transformers_does(family, times):
    """Four spaces, tied and untied: 312 sub-networks over all families in the slow cases. Each as the own file has it,
    and in the stock class, padded if necessary, if that can hold it."""
    config, forms = tiny.config(family), set()
    for number, ((granularity, sharing), seed) in enumerate(product(SPACES, range(times))):
        architecture = architecture_of(config, tied=number % 2 == 0)
        has_stock = sharing == Sharing.uniform and not config.lm_head_bias
        asked = SpaceConfig(
            granularity=granularity,
            sharing=sharing,
            layers=Layers.subset,
            exportable=Exportable.stock if has_stock else Exportable.any,
        )
        total = parameters(architecture)
        sub = Space(architecture, asked, Bin(total // 2, 0, total), None).sample(np.random.default_rng(seed))
        student = build(config, sub, architecture.tied)
        alone = built(own.config_json(student)).num_parameters()
        assert alone == parameters(architecture, sub) - left_behind(student)
        assert alone == exported(architecture, sub, ExportForm.own).parameters
        found = exported(architecture, sub)
        forms.add(found.form)
        if found.form != ExportForm.own:
            plain = stock.config_json(student, stock.target(student, "own"))
            assert found.parameters == built(plain).num_parameters()
            assert (found.parameters == alone) == (found.form == ExportForm.stock)
    assert config.lm_head_bias or ExportForm.stock in forms, "a stock class must take part"


def left_behind(student: GPT) -> int:
    """Rows beyond the vocabulary, which no export has."""
    config = student.config
    columns = config.n_embd * (1 if is_tied(student) else 2) + config.lm_head_bias
    return (config.padded_vocab_size - config.vocab_size) * columns
