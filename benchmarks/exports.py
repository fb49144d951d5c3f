"""Do exported students compute the same in the versions of transformers that people have?

    python -m benchmarks.exports [--json FILE]

For each family of the export tests, a uniform and a layer-wise student (tied, of a tiny random teacher) is exported in
each form. In each version of transformers, in an environment of its own without Sprig, the folder is loaded; its logits
for 120 tokens and 32 tokens of generate(), with and without a cache, are compared with the student's. A cell is
"equal", "DIFFERENT" or "FAILS" (an exception), "equal (no static cache)" where transformers' own class cannot have one,
or the number of the sentence in which the export refuses itself.
Installs the versions of transformers that are not here, about 50 MB each.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from litgpt import GPT

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS), str(TESTS / "models")]

import exports  # noqa: E402
from test_export_alone import ALONE, FAMILIES, FORMS, text  # noqa: E402

from benchmarks.harness import arguments, report  # noqa: E402
from pipeline.errors import SprigError  # noqa: E402
from pipeline.evaluation.sampling import continue_text  # noqa: E402
from pipeline.models.export import check  # noqa: E402

SHAPES = {"uniform": exports.uniform, "layer-wise": exports.layerwise}


def compare(student: GPT, tokens: torch.Tensor, found: dict) -> str:
    prompt = tokens[0, :10].tolist()
    with torch.no_grad():
        apart = (found["logits"] - student(tokens)[..., :257]).abs().max().item()
    continued = continue_text(student, prompt, 32, eos_id=256, precision="fp32")
    ways = {"continued", "static", "uncached"} & set(found)
    if apart > check.TOLERANCE or any(found[way].tolist() != continued for way in ways):
        return "DIFFERENT"
    return "equal" if "static" in ways else "equal (no static cache)"


def judge(python: str, students: dict[str, GPT], place: Path) -> dict[str, str]:
    """The cell of each folder, from one process, or from one each if that process fails."""
    ran = subprocess.run([python, "-I", str(ALONE), *students], cwd=place, capture_output=True, text=True, timeout=1200)
    if ran.returncode == 0:
        results = torch.load(place / "results.pt")
        return {to: compare(student, torch.load(place / "tokens.pt"), results[to]) for to, student in students.items()}
    if len(students) == 1:
        print(*students, ran.stderr[-600:], sep="\n", file=sys.stderr)
        return dict.fromkeys(students, "FAILS")
    return {key: cell for to, student in students.items() for key, cell in judge(python, {to: student}, place).items()}


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    here = version("transformers")
    versions = sorted({*check.TRANSFORMERS, here}, key=lambda each: [int(part) for part in each.split(".")])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tokenizer, students, cells, refused = exports.tokenizer(place), {}, {}, []
        torch.save(text(tokenizer), place / "tokens.pt")
        rows = list(product(FAMILIES, SHAPES, FORMS))
        for family, shape, form in rows:
            student = exports.student(family, SHAPES[shape](family, True), tied=True)
            try:
                _, to = exports.export(student, tokenizer, form)
            except SprigError as error:
                sentence = str(error).replace(student.config.name, "NAME")
                if sentence not in refused:
                    refused.append(sentence)
                cells |= {(family, shape, form, each): f"({refused.index(sentence) + 1})" for each in versions}
            else:
                students[str(to.rename(place / f"{family}-{shape}-{form}"))] = student
        for each in versions:
            python = sys.executable if each == here else exports.environment(each, place / each)
            for to, cell in judge(python, students, place).items():
                family, shape, form = Path(to).name.replace("layer-wise", "layer_wise").split("-")
                cells[family, shape.replace("_", "-"), form, each] = cell
    lines = [
        [family, shape, *(cells[family, shape, form, each] for form in FORMS for each in versions)]
        for family, shape in product(FAMILIES, SHAPES)
    ]
    columns = ["family", "student", *(f"{form} {each}" for form in FORMS for each in versions)]
    report("Exports in other versions of transformers", columns, lines, {
        " ".join(key): cell for key, cell in cells.items()
    }, given.json)  # fmt: skip
    for number, sentence in enumerate(refused, 1):
        print(f"({number}) {sentence}")


if __name__ == "__main__":
    main()
