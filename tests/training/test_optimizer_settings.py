"""A resumed run takes what its config asks of optimisers, as if it had asked for it all along."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Adam, Optimizer
from torch.optim import lr_scheduler as schedules

from lit_iba.training.callbacks.optimizer_settings import asked_of, take_changes

SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "none": lambda _: None,
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: (step + 1) / 10),
    "step": lambda o: schedules.StepLR(o, 2, 0.5),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 8),
    "one cycle": lambda o: schedules.OneCycleLR(o, 10 * o.param_groups[0]["lr"], total_steps=9),
    "joined": lambda o: schedules.SequentialLR(
        o, [schedules.ConstantLR(o, 0.1, 2), schedules.StepLR(o, 2, 0.5)], [3]
    ),
}


def made(lr: float, decay: float, schedule: str) -> tuple[Optimizer, list[Any]]:
    optimizer = Adam([torch.nn.Parameter(torch.ones(1))], lr=lr, weight_decay=decay)
    found = SCHEDULES[schedule](optimizer)
    return optimizer, [] if found is None else [found]


def rates(optimizer: Optimizer, own: list[Any], steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.step()
        for schedule in own:
            schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def restored(saved: tuple[Optimizer, list[Any]], into: tuple[Optimizer, list[Any]]) -> None:
    into[0].load_state_dict(saved[0].state_dict())
    for new, old in zip(into[1], saved[1], strict=True):
        new.load_state_dict(old.state_dict())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_another_rate_is_what_it_would_have_been_from_the_beginning(schedule: str) -> None:
    whole, first, then = (made(*s, schedule) for s in [(0.02, 0.3), (0.1, 0.0), (0.02, 0.3)])
    before, now = asked_of([first[0]]), asked_of([then[0]])
    expected = rates(*whole, 8)
    rates(*first, 5)
    restored(first, then)
    said = take_changes([then[0]], then[1], before, now)
    assert then[0].param_groups[0]["weight_decay"] == 0.3
    assert then[0].param_groups[0]["lr"] == pytest.approx(expected[4])
    assert rates(*then, 3) == pytest.approx(expected[5:])
    assert said[1] == "weight_decay 0.3 (before, 0.0)"
    cycled = schedule == "one cycle"
    assert said[0] == ("max_lr 0.2 (before, 1)" if cycled else "lr 0.02 (before, 0.1)")


def test_what_a_schedule_has_done_is_no_change_of_the_config() -> None:
    first, then = made(0.1, 0.0, "none"), made(0.1, 0.0, "none")
    asked = asked_of([first[0]])
    plateau = schedules.ReduceLROnPlateau(first[0], patience=0)
    for loss in (1.0, 2.0, 3.0):
        plateau.step(loss)
    restored(first, then)
    assert take_changes([then[0]], [plateau], asked, asked_of([made(0.1, 0.0, "none")[0]])) == []
    assert then[0].param_groups[0]["lr"] == pytest.approx(0.001)
    assert take_changes([then[0]], [plateau], [], asked) == []  # an older checkpoint
