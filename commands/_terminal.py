"""How progress looks: a rich bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from tastemaker.stage import Advance

__all__ = ["Terminal"]

QUIET_SECONDS = 5.0


class Terminal:
    """Reporter of the command line.

    Args:
        console: Where to write; a console that is no terminal gets plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print one line as it is."""
        self.console.print(text, markup=False, emoji=False)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Show progress towards `total`; the yielded function adds finished units."""
        if self.console.is_terminal:
            with _bar(self.console) as bar:
                task = bar.add_task(f"  {label}", total=total, note="")
                yield lambda done, note="": bar.update(task, advance=done, note=note)
        else:
            yield _Lines(self.line, label, total).advance


class _Lines:
    """Plain progress: a line at most every five seconds."""

    def __init__(self, write: Callable[[str], None], label: str, total: int) -> None:
        self._write, self._label, self._total = write, label, total
        self._done = 0
        self._started = self._shown = time.monotonic()

    def advance(self, done: int, note: str = "") -> None:
        self._done += done
        now = time.monotonic()
        if now - self._shown >= QUIET_SECONDS:
            self._shown = now
            elapsed = now - self._started
            more = f", {self._done / elapsed:.2g}/s" if self._done else ""
            more += f", {note}" if note else ""
            self._write(
                f"  {self._label}: {self._done:,} of {self._total:,} ({elapsed:.0f} s{more})"
            )


class _Speed(ProgressColumn):
    """Finished units a second."""

    def render(self, task: Task) -> Text:
        """As `2.5/s`, empty in the beginning."""
        return Text(f"{task.speed:.3g}/s" if task.speed else "")


class _Bars(Progress):
    """Bars, each with its note on a line of its own."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, then the notes."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(f"  {task.fields['note']}", style="dim", overflow="ellipsis")


def _bar(console: Console) -> Progress:
    return _Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Speed(),
        console=console,
        transient=True,
    )
