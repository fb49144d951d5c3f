"""The laboratory's tokenizer is trained by Sprig, on the training split alone."""

import pytest
from prepared import config, documents, made

from pipeline.command_line.composition import compose
from pipeline.models import sources
from teachers.train_tokenizer import ENTRIES, train, training_texts


def test_it_reads_the_documents_of_the_training_split_alone(tmp_path, tokenizer):
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(f" document {number} " * 9)
    data = config(tmp_path / "texts")
    packed = documents(made(data, tokenizer, tmp_path / "prepared")["train"])
    read = training_texts(data)
    assert [text.encode() for text in read] == [text for text in packed if text]
    assert 0 < len(read) < 20
    assert train(read, 300).decode(train(read, 300).encode(read[0]).ids) == read[0]


@pytest.mark.slow
def test_the_committed_one_is_what_its_command_makes(tmp_path):
    run = compose(["teacher=lab-s-shape", "distill.tokens=8"])
    sources.convert(run.teacher, tmp_path)  # copies the committed file
    train(training_texts(run.data), ENTRIES).save(str(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
