"""Random faults in whole runs, and whether each run still comes to the result of an undisturbed one.

    python -m benchmarks.faults [--kills N] [--limits N] [--settings S...] [--seed S] [--minutes M] [--json FILE]

The run is experiment=smoke with a logits cache, a control, recovery and an export. Each attempt is a fork of this
process. SIGKILL ends it at a random moment, and the same command is given again, until an attempt ends by itself; the
next run then begins in an empty folder. The kills are shared out over three settings: a process alone (60 %), two
processes that want the same artifacts (20 %), and a process next to one that removes all artifacts that no run needs,
over and over (20 %). In three more settings the fault is a limit: files cannot grow beyond a random size, as on a full
disk, few files can be open, or there is little more memory than an idle process has. Such an attempt has to finish, or
to end in one sentence. Each run is completed without a fault; then its artifacts, metrics, summary and export are
compared with those of an undisturbed run, byte by byte apart from times, and half-made artifacts, temporary files and
held locks are counted. All counts in the last four columns should be 0.
"""

import argparse
import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.harness import report
from benchmarks.outcome import compare, content, leftovers
from pipeline import cli
from pipeline.artifacts.__main__ import clean
from pipeline.training.distributed import import_deepspeed

RUN = [
    "experiment=smoke",
    "precision=fp32",
    "distill.cache.kind=topk",
    "stages=[prepare,order,search,extract,recover,distill,evaluate,export,report]",
]
LIMIT = 300  # seconds after which an attempt counts as hung
ATTEMPTS = 60  # of one run, at most
# Once, in place of once for each fork. A library whose import runs out of memory is left half imported.
IMPORTED = ("pipeline.runner", "pipeline.report.html", "torch._dynamo", "transformers.models.auto.modeling_auto")
SETTINGS = ("killed", "two processes", "next to clean", "full disk", "few file handles", "little memory")


@dataclass
class Row:
    """What happened in one setting."""

    runs: int = 0
    attempts: int = 0
    faults: int = 0
    stages: dict[str, int] = field(default_factory=dict)  # where the faults fell
    different: int = 0
    left: int = 0  # half-made artifacts, temporary files, locks
    tracebacks: int = 0
    hung: int = 0


class Campaign:
    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, random.Random(seed)
        self.limits = {
            "full disk": self.full_disk,
            "few file handles": self.few_handles,
            "little memory": self.little_memory,
        }
        started = time.monotonic()
        assert self.wait(self.start(self.command("undisturbed"), "undisturbed")) == 0, self.said("undisturbed")
        self.seconds = time.monotonic() - started
        self.wanted = content(folder / "undisturbed")

    def command(self, name: str) -> list[str]:
        outputs = self.folder / name
        return [*RUN, f"outputs={outputs}", f"export.to={outputs / 'student'}"]

    def start(self, words: list[str], name: str, limits: Callable[[], None] = lambda: None) -> int:
        """Forks a process that gives the command; its id."""
        return self.fork(lambda: (limits(), cli.main(words)), name)

    def fork(self, work: Callable[[], object], name: str) -> int:
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            with (self.folder / f"{name}.log").open("w", buffering=1) as log:
                os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
                work()
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
            if isinstance(stopped.code, str):
                print(stopped.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait(self, child: int, seconds: float = LIMIT) -> int | None:
        """The exit status of the process; None if it still runs after these seconds."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None

    def stage(self, name: str) -> str:
        """The stage that a process had begun last."""
        begun = re.findall(r"\d+/\d+ (\w+) ", self.said(name))
        return begun[-1] if begun else "start"

    def kill(self, child: int, name: str, row: Row, after: float) -> bool:
        """Whether the process was killed; it may have ended by itself."""
        row.attempts += 1
        status = self.wait(child, after)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            row.faults += 1
            stage = self.stage(name)
            row.stages[stage] = row.stages.get(stage, 0) + 1
            return True
        self.judge(name, status, row)
        return False

    def judge(self, name: str, status: int, row: Row) -> None:
        """An attempt that ended by itself."""
        if "Traceback" in self.said(name) or status not in (0, 1):
            row.tracebacks += 1
            print(f"{name} ended with {status}:\n{self.said(name)[-3_000:]}", file=sys.stderr)

    def moment(self) -> float:
        """Seconds until a kill. Half of them fall early, so that every stage of a resumed run is hit."""
        return self.rng.uniform(0, self.seconds * self.rng.choice((0.3, 1.0)))

    def close(self, name: str, row: Row) -> None:
        """Finishes the run undisturbed, and compares it."""
        child = self.start(self.command(name), name)
        if (status := self.wait(child)) is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            row.hung += 1
        else:
            self.judge(name, status, row)
        row.runs += 1
        outputs = self.folder / name
        if differing := compare(content(outputs), self.wanted):
            row.different += 1
            print(f"{name} differs: {', '.join(differing[:9])}", file=sys.stderr)
        if left := leftovers(outputs):
            row.left += len(left)
            print(f"{name} left {', '.join(map(str, left[:9]))}", file=sys.stderr)
        shutil.rmtree(outputs)

    def alone(self, row: Row, kills: int, ends: float) -> None:
        while row.faults < kills and time.monotonic() < ends:
            name = f"alone-{row.runs}"
            for _ in range(ATTEMPTS):
                if not self.kill(self.start(self.command(name), name), name, row, self.moment()) or row.faults >= kills:
                    break
            self.close(name, row)

    def together(self, row: Row, kills: int, ends: float) -> None:
        """Two processes give the same command."""
        while row.faults < kills and time.monotonic() < ends:
            name = f"together-{row.runs}"
            for _ in range(ATTEMPTS):
                names = [name, f"{name}-too"]
                children = [self.start(self.command(name), each) for each in names]
                killed = [
                    self.kill(child, each, row, self.moment()) for child, each in zip(children, names, strict=True)
                ]
                if not any(killed) or row.faults >= kills:
                    break
            self.close(name, row)

    def cleaned(self, row: Row, kills: int, ends: float) -> None:
        """A second process removes what no run needs, over and over."""
        while row.faults < kills and time.monotonic() < ends:
            name = f"cleaned-{row.runs}"
            (self.folder / name / "artifacts").mkdir(parents=True, exist_ok=True)

            def cleaning(outputs: Path = self.folder / name) -> None:
                while True:
                    clean(outputs, yes=True, days=0)
                    time.sleep(0.02)

            for _ in range(ATTEMPTS):
                cleaner = self.fork(cleaning, f"{name}-cleaner")
                killed = self.kill(self.start(self.command(name), name), name, row, self.moment())
                os.kill(cleaner, signal.SIGKILL)
                os.waitpid(cleaner, 0)
                row.tracebacks += "Traceback" in self.said(f"{name}-cleaner")
                if not killed or row.faults >= kills:
                    break
            self.close(name, row)

    def limited(self, row: Row, faults: int, ends: float, limit: Callable[[], Callable[[], None]]) -> None:
        """Each attempt has a random limit, under which it ends in one sentence or finishes."""
        while row.faults < faults and time.monotonic() < ends:
            name = f"limited-{row.runs}"
            child = self.start(self.command(name), name, limit())
            row.attempts += 1
            if (status := self.wait(child)) is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                row.hung += 1
                status = 1
            self.judge(name, status, row)
            row.faults += 1
            if status:
                stage = self.stage(name)
                row.stages[stage] = row.stages.get(stage, 0) + 1
            self.close(name, row)

    def full_disk(self) -> Callable[[], None]:
        size = round(10 ** self.rng.uniform(4.8, 6.3))  # above the size of the attempt's own log

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limit

    def few_handles(self) -> Callable[[], None]:
        count = len(os.listdir("/proc/self/fd")) + self.rng.randrange(2, 24)
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    def little_memory(self) -> Callable[[], None]:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + (self.rng.randrange(4, 256) << 20)
        return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main() -> None:
    parser = argparse.ArgumentParser(description="Random faults in whole runs.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--limits", type=int, default=10, help="attempts with each limit")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, metavar="SETTING")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="begins no new run after these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat dictionary")
    given = parser.parse_args()
    torch.set_num_threads(1)
    import_deepspeed(torch.device("cpu"))
    for module in IMPORTED:
        importlib.import_module(module)

    ends = time.monotonic() + 60 * given.minutes
    rows = {name: Row() for name in given.settings}
    share = {"killed": round(0.6 * given.kills), "two processes": round(0.2 * given.kills)}
    share |= {"next to clean": given.kills - sum(share.values())}
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), given.seed)
        kills = {"killed": campaign.alone, "two processes": campaign.together, "next to clean": campaign.cleaned}
        for name, row in rows.items():
            if name in kills:
                kills[name](row, share[name], ends)
            else:
                campaign.limited(row, given.limits, ends, campaign.limits[name])
    columns = ["setting", "runs", "attempts", "faults", "by stage", "different", "left", "tracebacks", "hung"]
    lines = [
        [
            name, f"{row.runs}", f"{row.attempts}", f"{row.faults}",
            ", ".join(f"{stage} {count}" for stage, count in sorted(row.stages.items())),
            f"{row.different}", f"{row.left}", f"{row.tracebacks}", f"{row.hung}",
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    figures = {f"{name}: {key}": value for name, row in rows.items() for key, value in vars(row).items()}
    report(f"Faults in whole runs, seed {given.seed}", columns, lines, figures, given.json)


if __name__ == "__main__":
    main()
