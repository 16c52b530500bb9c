"""One thread asks the classifier, one question at a time, and the newest question of a page wins.

A reader moves a slider faster than a network answers. What was asked before is of no use then:
whoever waits for it is told so, and work that is under way stops at its next step. What another
page has asked is of use to it all the same, and goes first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Generic, TypeVar

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
        self._newest: dict[str, Question[Any]] = {}  # of each page that waits

    def ask(self, work: Callable[[Callable[[], None]], T], page: str = "") -> Question[T]:
        """Ask, in place of whatever the same page has asked before.

        Args:
            work: Gets a function to be called at every step, which ends the work by raising.
            page: Who asks.
        """
        question: Question[T] = Question()
        with self._lock:
            if page in self._newest:
                self._newest[page].withdraw()
            self._newest[page] = question
            self._thread.submit(question.run, work)
        question.answer.add_done_callback(lambda _: self._forget(page, question))
        return question

    def _forget(self, page: str, question: Question[Any]) -> None:
        with self._lock:
            if self._newest.get(page) is question:
                del self._newest[page]

    def stop(self) -> None:
        """Withdraw whatever is being asked."""
        for question in list(self._newest.values()):  # a signal may interrupt who has the lock
            question.withdraw()

    def close(self) -> None:
        """Stop, and end the thread."""
        self.stop()
        self._thread.shutdown(cancel_futures=True)
