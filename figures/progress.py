"""Progress on stderr: a bar on a terminal, one line per finished experiment everywhere."""

from typing import Any

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from figures.tables import Output, seconds, tally
from sims.experiment import Result


class Progress:
    """What the runner reports to; a context manager around the experiments of one command."""

    def __init__(self) -> None:
        self.console = Output(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="yellow"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """A new experiment; its bar pulses until a sweep says how far it is."""
        self._task = self._bar.add_task(name, total=None, note="")
        self._diverged = 0

    def update(self, done: int, total: int, diverged: int) -> None:
        """A sweep has taken ``done`` of ``total`` steps; so many of its members have diverged."""
        note = f"{diverged} diverged" if diverged else ""
        self._bar.update(self._task, completed=done, total=total, note=note)
        self._diverged += diverged if done == total else 0

    def end(self, result: Result) -> None:
        """The experiment is done: one line with how long it took and what came of it."""
        self._bar.remove_task(self._task)
        cost = seconds(result.provenance["wall_seconds"])
        how = f"stored, took {cost}" if result.provenance["cached"] else f"took {cost}"
        diverged = f", {self._diverged} members diverged" if self._diverged else ""
        self.console.print(f"{result.name}: {tally(result.verdicts)} ({how}{diverged})")
