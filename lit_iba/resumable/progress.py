"""One progress bar for a run: images done of images to do, and what is being done to them."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 60.0  # between two lines of a log file


class EvaluationProgress:
    """A bar on a terminal; one line per minute and one per shard where the output goes to a file.

    Args:
        total: Images to do, each counted once for every explainer and metric.
        shards: Shards to do.
        shown: Whether this process shows anything.

    Example:
        >>> from lit_iba.resumable import EvaluationProgress
        >>> with EvaluationProgress(total=8, shards=1, shown=False) as progress:
        ...     progress.advance(8, "saliency")
        >>> progress.done
        8
    """

    def __init__(self, total: int, shards: int, shown: bool = True) -> None:
        self.console = Console(stderr=True)
        self.total, self.done, self.shards, self.shards_done, self.shown = (
            total,
            0,
            shards,
            0,
            shown,
        )
        self._stored = 0  # of those done, what earlier runs did
        self._begun = self._said = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(
            *columns, console=self.console, disable=not (shown and self.console.is_terminal)
        )
        self._task = self._bar.add_task("images", total=total)

    def __enter__(self) -> EvaluationProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, what: str) -> None:
        """Says what is being done from now on; its first batch may take long."""
        self._bar.update(self._task, description=what)
        self._line_a_minute(f"{what} begins: {self.done}/{self.total} image evaluations")

    def advance(self, images: int, what: str) -> None:
        """So many images more are done."""
        self.done += images
        self._bar.update(self._task, advance=images, description=what)
        left = (
            (time.monotonic() - self._begun) / (self.done - self._stored) * (self.total - self.done)
        )
        self._line_a_minute(
            f"{what}: {self.done}/{self.total} image evaluations, about {left / 60:.0f} min left"
        )

    def stored(self, images: int) -> None:
        """So many images were done by an earlier run; they say nothing of this one's speed."""
        self.done += images
        self._stored += images
        self._bar.update(self._task, advance=images)

    def shrink(self, images: int) -> None:
        """So many images fewer are to be done than was thought."""
        self.total -= images
        self._bar.update(self._task, total=self.total)

    def shard_done(self, name: str) -> None:
        """Another shard is complete."""
        self.shards_done += 1
        self._line(
            f"{name} done: {self.shards_done}/{self.shards} shards, {self.done}/{self.total} image"
            " evaluations"
        )

    def _line_a_minute(self, text: str) -> None:
        if (now := time.monotonic()) - self._said >= LINE_SECONDS:
            self._said = now
            self._line(text)

    def _line(self, text: str) -> None:
        if self.shown and not self.console.is_terminal:
            self.console.print(text, highlight=False, soft_wrap=True)
