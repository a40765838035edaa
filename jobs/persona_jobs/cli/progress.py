"""Progress of a pipeline on a terminal: one bar per stage with the time left."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def make_bars(console: Console) -> Progress:
    """Return the display to which the stages add their bars."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.fields[stage]:<10}"),
        TextColumn("{task.description:<28.28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        refresh_per_second=4,
    )


class StageBar:
    """The bar of one stage."""

    def __init__(self, bars: Progress, stage: str) -> None:
        self._bars = bars
        self._stage = stage
        self._task: TaskID = bars.add_task("starting", total=None, stage=stage)

    def begin(self, what: str, total: int) -> None:
        """Show that a part of the stage starts."""
        self._bars.reset(self._task, total=max(1, total), description=what)

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self._bars.advance(self._task, count)

    def note(self, message: str) -> None:
        """Print one line."""
        self._bars.console.print(f"  {self._stage}: {message}", highlight=False, markup=False)

    def finish(self, text: str) -> None:
        """Show that the stage is done."""
        self._bars.update(self._task, total=1, completed=1, description=text)
        self._bars.stop_task(self._task)
