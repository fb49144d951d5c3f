"""What building one candidate of a search costs in Python: modules without memory, for sub-networks of pythia-6.9b."""

from time import process_time

import numpy as np
from litgpt import Config as LitConfig

from benchmarks.harness import arguments, report
from pipeline.config import Sharing, SpaceConfig
from pipeline.models.families import architecture_of
from pipeline.models.student import _outline
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.space import Space

CANDIDATES, REPETITIONS = 8, 3
BIN = Bin(410_000_000, 390_000_000, 430_000_000)


def milliseconds(sharing: Sharing) -> tuple[float, float]:
    """The processor's, of the fastest repetition, and layers; both a candidate."""
    config = LitConfig.from_name("pythia-6.9b")
    space = Space(architecture_of(config, tied=False), SpaceConfig(sharing=sharing), BIN, None)
    rng = np.random.default_rng(0)
    candidates = [space.sample(rng) for _ in range(CANDIDATES)]
    times = []
    for _ in range(REPETITIONS + 1):  # one to warm up
        started = process_time()
        for each in candidates:
            _outline(config, each, tied=False)
        times.append(1000 * (process_time() - started) / CANDIDATES)
    return min(times[1:]), sum(each.n_layer for each in candidates) / CANDIDATES


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    figures, rows = {}, []
    for sharing in Sharing:
        figures[f"{sharing}, ms"], layers = milliseconds(sharing)
        rows.append([sharing, f"{layers:.1f}", f"{figures[f'{sharing}, ms']:.0f}"])
    report("Building one candidate", ["space", "layers", "processor ms"], rows, figures, options.json)


if __name__ == "__main__":
    main()
