"""One thread asks the classifier, one question at a time, and the newest question wins.

A reader moves a slider faster than a network answers. What was asked before is of no use then:
whoever waits for it is told so, and work that is under way stops at its next step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Superseded(Exception):
    """A newer question was asked."""


class Question(Generic[T]):
    """A question under way.

    Attributes:
        answer: What its work returns or raises; :class:`Superseded` if a newer question came
            first.
    """

    def __init__(self) -> None:
        self.answer: Future[T] = Future()
        self._withdrawn = False

    def withdraw(self) -> None:
        """Let it end at its next step, or before its first."""
        self._withdrawn = True

    def check(self) -> None:
        """A step of the work.

        Raises:
            Superseded: Nobody waits for the answer any more.
        """
        if self._withdrawn:
            raise Superseded

    def run(self, work: Callable[[Callable[[], None]], T]) -> None:
        """Do the work, in the thread that asks the classifier."""
        try:
            self.check()
            self.answer.set_result(work(self.check))
        except BaseException as error:
            self.answer.set_exception(error)


class Worker:
    """The thread that asks the classifier."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "classifier")
        self._lock = Lock()
        self._newest: Question[object] | None = None

    def ask(self, work: Callable[[Callable[[], None]], T]) -> Question[T]:
        """Ask, in place of whatever was asked before.

        Args:
            work: Gets a function to be called at every step, which ends the work by raising.
        """
        question: Question[T] = Question()
        with self._lock:
            self.stop()
            self._newest = question  # type: ignore[assignment]  # of whatever type its answer is
            self._thread.submit(question.run, work)
        return question

    def stop(self) -> None:
        """Withdraw what is being asked."""
        if self._newest is not None:
            self._newest.withdraw()

    def close(self) -> None:
        """Stop, and end the thread."""
        self.stop()
        self._thread.shutdown(cancel_futures=True)
