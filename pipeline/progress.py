"""How far a long piece of work is: a bar on a terminal, plain lines elsewhere, always with rate and time left."""

import sys
import time
from typing import ClassVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.ranks import rank

# Off a terminal: not before the first, then once a tenth of the whole is done, and after the second in any case.
SECONDS_BETWEEN_LINES, MOST_SECONDS = 10.0, 30.0
SECONDS_BETWEEN_BARS = 0.25
BAR_WIDTH = 24


class Progress:
    """Shows the progress of one loop on standard error.

    with Progress("tokenise", total=1000, unit="documents") as progress:
        progress.advance(50, loss="3.21")

    `total` and `start` are in units; `start` is what an earlier process had done, left out of the rate; without a total
    there is no time left. Off a terminal a line appears for each tenth of the whole or after 30 seconds, and none
    within ten seconds, so quick work prints none. Ranks other than 0, and work inside work that is already shown, are
    quiet.
    """

    after: ClassVar[float] = 0.0  # seconds that the whole run takes after this piece of work
    _shown: ClassVar[bool] = False

    def __init__(self, description: str, total: int | None = None, unit: str = "steps", start: int = 0):
        self.description, self.total, self.unit = description, total, unit
        self.start = self.done = self._said = start
        self.fields: dict[str, object] = {}
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        self._quiet = Progress._shown or rank() != 0
        self._began = self._last = time.monotonic()
        if self._quiet:
            return self
        Progress._shown = True
        console = Console(stderr=True)
        if console.is_terminal:
            # No refreshing thread: work that forks while it holds the console's lock would never end.
            self._live = Live(get_renderable=self._bar, console=console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._quiet:
            return
        Progress._shown = False
        if self._live is not None:
            self._live.stop()
        elif self._last > self._began and self.done > self._said:
            self._show()

    def begin_at(self, done: int) -> None:
        """`done` units were there before this process began, known only now: they are left out of the rate."""
        self.start = self.done = done

    def advance(self, count: int = 1, **fields: object) -> None:
        """`count` more units are done; `fields` are shown after them until they are given again."""
        self.done += count
        self.fields |= fields
        now = time.monotonic()
        if not self._quiet and now - self._last >= self._pause():
            self._last = now
            self._show()

    def _pause(self) -> float:
        """Seconds from what was shown last to what is shown next."""
        if self._live:
            return SECONDS_BETWEEN_BARS
        soon = self.total is not None and 10 * (self.done - self._said) >= self.total
        return SECONDS_BETWEEN_LINES if soon else MOST_SECONDS

    def status(self, with_unit: bool = True) -> str:
        """For example "tokenise 1,200/10,000 documents, 350/s, 0:25 left, loss 3.21"; 0:25/1:40 left, where the run
        still takes 1:40."""
        seconds = time.monotonic() - self._began
        rate = (self.done - self.start) / seconds if seconds > 0 else 0.0
        of_total = "" if self.total is None else f"/{short(self.total)}"
        speed = short(round(rate)) if rate >= 10 else f"{rate:.2f}"
        unit = f" {self.unit}" if with_unit else ""
        parts = [f"{self.description} {short(self.done)}{of_total}{unit}", f"{speed}/s"]
        if self.total is not None and self.done >= self.total:
            parts.append(f"{clock(seconds)} in all")
        elif self.total is not None and rate > 0:
            left = (self.total - self.done) / rate
            parts.append(f"{clock(left)}{f'/{clock(left + self.after)}' if self.after >= 60 else ''} left")
        return ", ".join(parts + [f"{name} {value}" for name, value in self.fields.items()])

    def _show(self) -> None:
        if self._live is not None:
            self._live.refresh()
        else:
            self._said = self.done
            print(self.status(), file=sys.stderr, flush=True)

    def _bar(self) -> Text:
        """One line, however narrow the terminal: the bar makes room for the text, and only then is that cut."""
        status, columns = self.status(), self._live.console.width if self._live else BAR_WIDTH
        if len(status) > columns:
            status = self.status(with_unit=False)
        width = min(BAR_WIDTH, columns - len(status) - 1)
        if not self.total or width < 4:
            return Text(status, no_wrap=True, overflow="ellipsis")
        filled = round(width * min(1.0, self.done / self.total))
        bar = ("━" * filled, "green"), ("━" * (width - filled), "dim")
        return Text.assemble(*bar, " ", status, no_wrap=True, overflow="ellipsis")


def short(count: int) -> str:
    """For example 12,345 or 1.23B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:,}"


def counted(count: int, unit: str) -> str:
    """With its unit, in the singular or the plural."""
    return f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}{'es' if unit.endswith('s') else 's'}"


def clock(seconds: float) -> str:
    """For example 0:07 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
