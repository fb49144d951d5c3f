"""The adapter for downstream tasks on a fake card."""

import pytest
import torch
from lm_eval.api.instance import Instance
from test_device_models import cut_of, model_of

from pipeline.config import Sharing
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.tasks_model import Scorer
from pipeline.models.extraction import extract


class Characters:
    """A tokenizer of 61 tokens, one for each character."""

    eos_id, bos_id = 0, None

    def encode(self, text, special=True):
        return [ord(character) % 60 + 1 for character in text]


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("sharing", Sharing)
def test_requests_are_scored_there(cuda, tmp_path, sharing, precision):
    sub, ordering = cut_of("llama", sharing)
    student = extract(model_of("llama", cuda, torch.float32), sub, ordering)
    scorer = Scorer(student, Characters(), precision, 40, "test", Answers(tmp_path / "answers"))
    pairs = [("One two", " three"), ("One two", " four"), ("Why?", " Because.")]
    found = scorer.loglikelihood([Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)])
    assert len(found) == 3
    rolling = [Instance("loglikelihood_rolling", {}, ("a text longer than the context of the model is",), 0)]
    assert len(scorer.loglikelihood_rolling(rolling)) == 1
