"""What a training prints: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Display:
    """Shows iteration, loss, validation Dice and time left of one training. A context manager."""

    def __init__(self, title: str, start: int, total: int) -> None:
        self.title, self.total, self.dice, self.loss = title, total, "-", "-"
        console = Console(stderr=True)
        self.live: Progress | None = None
        if console.is_terminal:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("loss {task.fields[loss]}  validation Dice {task.fields[dice]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.live.add_task(title, total=total, completed=start, loss="-", dice="-")

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def iteration(self, done: int) -> None:
        """One more iteration is over; costs nothing where no one looks."""
        if self.live:
            self.live.update(self.task, completed=done)

    def logged(self, loss: float) -> None:
        self.loss = f"{loss:.4f}"
        if self.live:
            self.live.update(self.task, loss=self.loss)

    def validated(self, done: int, dice: float, best: float, seconds: float) -> None:
        self.dice = f"{dice:.4f}"
        if self.live:
            self.live.update(self.task, dice=f"{dice:.4f} (best {best:.4f})")
            return
        left = seconds / done * (self.total - done)
        print(
            f"{self.title}: iteration {done}/{self.total}, loss {self.loss}, validation Dice {dice:.4f} "
            f"(best {best:.4f}), {seconds:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
