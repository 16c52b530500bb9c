"""One progress bar for a run: images done of images to do, what is being done to them, and how long
the rest will take.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

LINE_SECONDS = 60.0  # between two lines of a log file
EXPLAIN = "explain"  # the group of explanations


def estimate(left: Mapping[str, int], done: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """How long the rest takes, in words: the images that are left of each kind of work, at the pace
    of that kind.

    Kinds differ by a factor of thousands, so that a mean over all of them would say little. Kinds
    of one group ("degradation: grad_cam" and "degradation: random") share their pace until they
    have their own, but explanations do not: a metric costs much the same for any heatmap.

    Args:
        left: Images to do, by kind.
        done: Images done by this run, by kind.
        seconds: What those took, by kind.

    Example:
        >>> from lit_iba.resumable.progress import estimate
        >>> left = {"explain: fast": 60, "explain: slow": 60}
        >>> estimate(left, {"explain: fast": 10}, {"explain: fast": 20.0})
        'more than 2 min left, not yet timed: explain: slow'
        >>> done, seconds = {"explain: fast": 10, "explain: slow": 2}, {"explain: fast": 20.0}
        >>> estimate(left, done, seconds | {"explain: slow": 40.0})
        'about 22 min left'
    """
    groups_done, groups_seconds = defaultdict[str, int](int), defaultdict[str, float](float)
    for kind, images in done.items():
        groups_done[_group(kind)] += images
        groups_seconds[_group(kind)] += seconds[kind]
    total, unknown = 0.0, list[str]()
    for kind, images in left.items():
        if not images:
            continue
        group = _group(kind)
        if done.get(kind):
            total += images * seconds[kind] / done[kind]
        elif groups_done[group] and group != EXPLAIN:
            total += images * groups_seconds[group] / groups_done[group]
        elif (name := kind if group == EXPLAIN else group) not in unknown:
            unknown.append(name)
    if not unknown:
        return f"about {total / 60:.0f} min left"
    named = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    return f"more than {total / 60:.0f} min left, not yet timed: {named}"


def _group(kind: str) -> str:
    return kind.partition(": ")[0]


class EvaluationProgress:
    """A bar on a terminal; one line per minute and one per shard where the output goes to a file.

    Args:
        planned: Images to do, by kind of work, such as ``"explain: grad_cam"`` or
            ``"degradation: grad_cam"``.
        shards: Shards to do.
        shown: Whether this process shows anything.

    Example:
        >>> from lit_iba.resumable import EvaluationProgress
        >>> with EvaluationProgress({"explain: saliency": 8}, shards=1, shown=False) as progress:
        ...     progress.advance(8, "explain: saliency")
        >>> progress.done
        8
    """

    def __init__(self, planned: Mapping[str, int], shards: int, shown: bool = True) -> None:
        self.console = Console(stderr=True)
        self.total, self.done, self.shards, self.shards_done, self.shown = (
            sum(planned.values()),
            0,
            shards,
            0,
            shown,
        )
        self._left, self._timed, self._seconds = dict(planned), Counter[str](), dict[str, float]()
        self._since = self._said = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(
            *columns, console=self.console, disable=not (shown and self.console.is_terminal)
        )
        self._task = self._bar.add_task("images", total=self.total, left="")

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
        self._since = time.monotonic()
        self._bar.update(self._task, description=what)
        self._line_a_minute(f"{what} begins: {self.done}/{self.total} image evaluations")

    def advance(self, images: int, kind: str, what: str = "") -> None:
        """So many images more of a kind are done.

        Args:
            images: How many.
            kind: One of those planned.
            what: What is shown for it; the kind by default.
        """
        now, what = time.monotonic(), what or kind
        self.done += images
        self._left[kind] -= images
        self._timed[kind] += images
        self._seconds[kind] = self._seconds.get(kind, 0.0) + now - self._since
        self._since = now
        left = estimate(self._left, self._timed, self._seconds)
        self._bar.update(self._task, advance=images, description=what, left=left)
        self._line_a_minute(f"{what}: {self.done}/{self.total} image evaluations, {left}")

    def stored(self, images: int, kind: str) -> None:
        """So many images were done by an earlier run; they say nothing of this one's speed."""
        self.done += images
        self._left[kind] -= images
        self._bar.update(self._task, advance=images)

    def shrink(self, images: int, kind: str) -> None:
        """So many images fewer are to be done than was thought."""
        self.total -= images
        self._left[kind] -= images
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
