"""What a config asks of optimisers, over a resume: the checkpoint's state is of another config
perhaps, and here the config decides.

Torch keeps an optimiser's settings in its state, so that a resumed run has those of the run before,
whatever its own config says. What is asked for is therefore kept beside the state: a value that
differs from it now may be the work of a schedule, but what was asked for before and is now tells
what the user has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # what schedules keep in a group
_CYCLED = ("betas", "momentum")  # by one-cycle schedules, which then keep a max_momentum
_PLAIN = (bool, int, float, str, tuple, type(None))

Asked = list[list[dict[str, Any]]]  # settings of each group of each optimiser


def asked_of(optimizers: Sequence[Optimizer]) -> Asked:
    """The settings of optimisers that have just been made, as plain values."""
    return [
        [{k: v for k, v in g.items() if isinstance(v, _PLAIN)} for g in o.param_groups]
        for o in optimizers
    ]


def take_changes(
    optimizers: Sequence[Optimizer], schedules: Sequence[Any], before: Asked, now: Asked
) -> list[str]:
    """Give restored optimisers what the config now asks of them; returns what that is, in words.

    A learning rate that a schedule has moved is changed in the same proportion, as are those that
    the schedule goes on from.

    Args:
        optimizers: With the state of the checkpoint.
        schedules: Of their learning rates, likewise.
        before: What was asked of them in the run that wrote the checkpoint.
        now: What is asked of them in this one.
    """
    changes: dict[str, None] = {}
    for optimizer, old_groups, new_groups in zip(optimizers, before, now, strict=False):
        for group, old, new in zip(optimizer.param_groups, old_groups, new_groups, strict=False):
            for name in new.keys() & old.keys() - {*_RATES}:
                cycled = name in _CYCLED and "max_momentum" in group
                if _tuple(old[name]) != _tuple(new[name]) and not cycled:
                    group[name] = new[name]
                    changes[f"{name} {new[name]} (before, {old[name]})"] = None
            rate = "initial_lr" if "initial_lr" in old.keys() & new.keys() else "lr"
            if old.get(rate) == new.get(rate) or not old.get(rate):
                continue
            share = new[rate] / old[rate]
            for name in group.keys() & {*_RATES}:
                group[name] *= share
            shown = "max_lr" if "max_lr" in old.keys() & new.keys() else rate
            named = shown.removeprefix("initial_")
            changes[f"{named} {new[shown]:g} (before, {old[shown]:g})"] = None
            for schedule in _all(schedules):
                if schedule.optimizer is optimizer and hasattr(schedule, "base_lrs"):
                    schedule.base_lrs = [g["initial_lr"] for g in optimizer.param_groups]
    return sorted(changes)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _all(schedules: Sequence[Any]) -> list[Any]:
    """Schedules, and those that are joined in them."""
    return [one for s in schedules for one in (s, *_all(getattr(s, "_schedulers", ())))]
