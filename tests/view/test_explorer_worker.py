"""Who is answered where several questions wait."""

import threading
from typing import Any

import pytest

from lit_iba.view.worker import Superseded, Worker


def test_of_questions_that_wait_only_the_newest_is_worked_on(worker: Worker) -> None:
    started, go, done = threading.Event(), threading.Event(), []

    def first(check: Any) -> str:
        started.set()
        go.wait(10)
        check()
        return "first"

    questions = [worker.ask(first)]
    started.wait(10)
    questions += [worker.ask(lambda check, i=i: done.append(i) or i) for i in range(3)]
    go.set()
    assert questions[-1].answer.result(10) == 2
    for old in questions[:-1]:
        with pytest.raises(Superseded):
            old.answer.result(10)
    assert done == [2]


def test_a_page_does_not_end_what_another_one_asks(worker: Worker) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(check: Any) -> str:
        started.set()
        go.wait(10)
        check()
        return "one"

    first = worker.ask(slow, "one page")
    started.wait(10)
    old, new = (worker.ask(lambda check, i=i: i, "another") for i in range(2))
    go.set()
    assert first.answer.result(10) == "one"
    assert new.answer.result(10) == 1
    with pytest.raises(Superseded):
        old.answer.result(10)
    worker.close()
    assert worker._newest == {}  # an answer is not kept
