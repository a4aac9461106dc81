"""Progress: what a person sees while a model learns."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0
"""Without a terminal, no two lines come closer than this."""


class ProgressBar:
    """A bar that vanishes on a terminal; elsewhere a plain line now and then. Writes to stderr.

    Use it as a context manager. ``visible=False`` shows nothing: for all processes but the first.
    """

    def __init__(self, total: int | None, start: int = 0, visible: bool = True, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not visible, highlight=False)
        self.total, self.start = total, start
        self._last = self._began = time.monotonic()
        self._score = ""
        self._bar: Progress | None = None
        if visible and self.console.is_terminal:
            columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True, expand=True)
            self._task = self._bar.add_task("", total=total, completed=start)

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, rate: float, speed: float, total: int | None = None) -> None:
        """After a step: its loss, learning rate, items per second, and the number of steps if it is known by now."""
        self.total = total or self.total
        text = f"loss {loss:.4f}  lr {rate:.2e}  {speed:,.0f} items/s{self._score}"
        if self._bar:
            self._bar.update(self._task, completed=step, total=self.total, description=text)
            return
        now = time.monotonic()
        if now - self._last >= QUIET_SECONDS:
            self._last = now
            self.say(f"step {step}{f'/{self.total}' if self.total else ''}  {text}{self._left(step, now)}")

    def score(self, name: str, value: float) -> None:
        """The newest validation, shown beside the loss from now on."""
        self._score = f"  {name} {value:.4g}"

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, step: int, now: float) -> str:
        if not self.total or step <= self.start:
            return ""
        seconds = int((now - self._began) / (step - self.start) * max(self.total - step, 0))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"
