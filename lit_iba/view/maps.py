"""Maps that a reader has asked for: Per-Sample IBA with a layer and a weight of one's own, and the
deviations of a run's method.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_iba.drawing import finite_values
from lit_iba.errors import InputError
from lit_iba.explainer import OnStep
from lit_iba.heatmap import Heatmap
from lit_iba.view.live import LiveClassifier
from lit_iba.view.session import IBA, ExplorerSession, shown

OWN = "own"  # the name of the map that a reader sets
KEPT = 64  # maps


@dataclass(frozen=True)
class WantedMap:
    """A map that is asked for; ``name`` is what the page calls it from then on."""

    live: LiveClassifier
    picture: int
    name: str
    explainer: str
    settings: dict[str, Any]
    note: str = ""


def map_asked_for(session: ExplorerSession, given: dict[str, str]) -> WantedMap:
    """What the words of an address ask for: ``picture`` with a ``method`` of the page, for its
    deviation, or with ``layer`` and ``beta`` of Per-Sample IBA.

    Raises:
        InputError: Something is missing or no number, or there is no classifier.
    """
    if session.live is None:
        raise InputError("this page has no classifier to ask")
    picture = session.picture(_whole(given.get("picture"), "picture"))
    if "method" in given:
        method = session.method(given["method"])
        if not method.deviates:
            raise InputError(f"{method.label} knows no deviation of its maps")
        settings = dict(method.info.settings)
        return WantedMap(session.live, picture, method.name, method.info.cls, settings)
    layer, beta = given.get("layer", ""), _number(given.get("beta"), "beta")
    if layer not in session.live.layers:
        raise InputError(f"layer is {layer!r}; choose one of the page's list")
    settings = dict(session.iba)
    if settings.get("layer") != layer:
        settings.pop("statistics", None)  # they are of the other layer
    settings |= {"layer": layer, "beta": beta}
    return WantedMap(session.live, picture, f"{OWN}/{layer}/{beta:g}", IBA, settings)


class AskedMaps:
    """The maps that were made, the last of them kept, since removal asks for their order again and
    again.
    """

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, str], tuple[Heatmap, bool]] = OrderedDict()

    def made(self, wanted: WantedMap, on_step: OnStep) -> dict[str, Any]:
        """A map as the page draws it, made now if it was not before."""
        key = wanted.picture, wanted.name
        if key not in self._made:
            self._made[key] = wanted.live.explained(
                wanted.picture, wanted.explainer, wanted.settings, on_step
            )
        self._made.move_to_end(key)
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
        heatmap, own = self._made[key]
        found = shown(heatmap.values[0], heatmap.unit, heatmap.signed)
        if heatmap.uncertainty is not None:
            found["deviation"] = shown(heatmap.uncertainty[0], heatmap.unit, False)
        return {"name": wanted.name, "own_statistics": own, **found}

    def find(self, session: ExplorerSession, picture: int, name: str) -> Tensor:
        """The map of a method, or one that was asked for, float (H, W).

        Raises:
            InputError: There is none of this name.
        """
        if name.startswith(f"{OWN}/"):  # no method has such a name
            if (picture, name) not in self._made:
                raise InputError("this map is not kept any more; make it again")
            return finite_values(self._made[picture, name][0].values[0])
        return finite_values(session.maps[session.method(name).name][picture])


def _whole(text: str | None, name: str) -> int:
    if not (text or "").isdecimal():
        raise InputError(f"{name} is {text!r}; it must be a whole number")
    return int(_number(text, name))


def _number(text: str | None, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError as error:
        raise InputError(f"{name} is {text!r}; it must be a number") from error
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is {text!r}; it must be a number of 0 or more")
    return value
