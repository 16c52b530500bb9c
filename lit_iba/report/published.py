"""The numbers that the papers print, as data, so that they can stand beside ours.

``published.json`` holds them table by table, in the papers' own layout, and the numbers that the
text states beside them; here they are looked up by metric, settings, network and explainer. What a
figure draws without printing a number is not there. They are never mixed with measured numbers:
every value carries its source, table or section, and network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

NETWORK_LABELS = {"resnet50": "ResNet-50", "vgg16": "VGG-16"}


@dataclass(frozen=True)
class Published:
    """One printed number.

    Args:
        metric: Canonical metric, such as ``"degradation"``.
        network: Canonical network, ``"resnet50"`` or ``"vgg16"``; empty where the paper does not
            say.
        explainer: Name in the explainer registry; empty where the number is of no single method.
        label: The method as the paper prints it.
        value: The number.
        source: Short citation, such as ``"Schulz et al. 2020"``.
        citation: Authors, title and venue.
        table: ``"Table 1"``, or the section whose text states the number.
        data: On which images.
        note: What a reader has to know about the number.
        quantity: ``"score"``, or what else of the method the table reports, such as
            ``"accuracy_top1"``.
        standard_error: As printed; None where the paper prints none.
        condition: What sets the table's column apart besides the network, such as ``"β = 10/k"``.
        relation: ``""`` for a printed value; ``"≈"``, ``"<"``, ``"≤"``, ``">"`` where the text says
            so.
        unit: Empty for pure numbers.
        settings: Metric settings that belong to the number, those of the whole paper (``settings``
            of the file) among them, such as ``{"tile": 8}``; a value
            ``{"at_least": 26}`` stands for all that are no smaller, ``{"one_of": [...]}`` for each
            of these.
        explainer_settings: Explainer settings that belong to the number, such as ``{"beta": 10}``.

    Example:
        >>> from lit_iba.report import lookup
        >>> number = lookup("bounding_box", network="resnet50", explainer="per_sample_iba")[0]
        >>> number.value, number.table
        (0.62, 'Table 1')
    """

    metric: str
    network: str
    explainer: str
    label: str
    value: float
    source: str
    citation: str
    table: str
    data: str
    note: str = ""
    quantity: str = "score"
    standard_error: float | None = None
    condition: str = ""
    relation: str = ""
    unit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    explainer_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network_label(self) -> str:
        """The network as people write it."""
        return NETWORK_LABELS.get(self.network, self.network) or "network not stated"


def squeezed(name: str) -> str:
    """A name without case, punctuation or module path: ``a.b.GradCAM``, ``grad_cam`` and
    ``Grad-CAM`` are the same.
    """
    last = name.rsplit(".", 1)[-1] if re.fullmatch(r"[\w.]+", name) else name
    return re.sub(r"[^a-z0-9]", "", last.lower())


@cache
def _document() -> dict[str, Any]:
    text = resources.files("lit_iba.report").joinpath("published.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def _canonical_names(kind: str) -> dict[str, str]:
    names = {}
    for canonical, aliases in _document()["aliases"][kind].items():
        names.update({squeezed(alias): canonical for alias in (canonical, *aliases)})
    return names


@cache  # a report of 50 explainers asks a million times
def canonical(kind: str, name: str) -> str:
    """The registered name for one of the ``"metrics"``, ``"explainers"``, ``"networks"`` or
    ``"quantities"``.

    Unknown names come back squeezed, and the path of a class of the user's own as it is: it is
    another than ours, whatever its last word.
    """
    if kind in ("metrics", "explainers") and "." in name and not name.startswith("lit_iba."):
        return name
    key = squeezed(name)
    return _canonical_names(kind).get(key, key)


def _settings(source: str, name: str) -> dict[str, Any]:
    """Settings of a metric or an explainer that all numbers of a paper are of, unless a table or a
    row says otherwise.
    """
    found: dict[str, Any] = _document()["settings"][source].get(name, {})
    return found


def _values_of(table: Mapping[str, Any]) -> Iterable[Published]:
    source = _document()["sources"][table["source"]]
    for row in table["rows"]:
        for column, printed in zip(table["columns"], row["values"], strict=True):
            if printed is None:
                continue
            value, error = printed if isinstance(printed, list) else (printed, None)
            yield Published(
                metric=column["metric"],
                network=column["network"],
                condition=column.get("label", ""),
                settings=_settings(table["source"], column["metric"]) | column.get("settings", {}),
                explainer=row["explainer"],
                explainer_settings={
                    **_settings(table["source"], row["explainer"]),
                    **column.get("explainer_settings", {}),
                    **row.get("settings", {}),
                },
                quantity=row.get("quantity", "score"),
                label=row["label"],
                value=float(value),
                standard_error=error,
                source=source["short"],
                citation=f"{source['citation']} ({source['venue']})",
                table=table["table"],
                data=table["data"],
                note=" ".join(
                    part for part in (row.get("note", ""), table.get("note", "")) if part
                ),
            )


def _statement(given: Mapping[str, Any]) -> Published:
    source = _document()["sources"][given["source"]]
    of_no_one = {"network": "", "explainer": ""}
    rest = {key: value for key, value in given.items() if key not in ("source", "place")}
    for kind, name in (("settings", "metric"), ("explainer_settings", "explainer")):
        rest[kind] = _settings(given["source"], given.get(name, "")) | given.get(kind, {})
    return Published(
        **{**of_no_one, **rest},
        source=source["short"],
        citation=f"{source['citation']} ({source['venue']})",
        table=given["place"],
    )


@cache
def all_published() -> tuple[Published, ...]:
    """Every printed number: the tables in the order of the papers, then what their texts state."""
    of_tables = tuple(value for table in _document()["tables"] for value in _values_of(table))
    return of_tables + tuple(_statement(given) for given in _document()["statements"])


def with_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a metric or an explainer; one that is left out has the value of its preset, or
    its default.
    """
    of_preset = _document()["presets"].get(name, {}).get(given.get("preset"), {})
    return {**_document()["defaults"].get(name, {}), **of_preset, **given}


def unlike(wanted: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a printed number asks of a metric's or explainer's settings, and these do not keep."""
    whole = with_defaults(name, given)
    return {
        key: value
        for key, value in wanted.items()
        if key not in whole or not _same(value, whole[key])
    }


def _same(printed: Any, given: Any) -> bool:
    """Whether a setting of a config is the printed one, where a tile may be written 8 or [8, 8].

    What is printed may also be ``{"one_of": [1, "layer4"]}``, or ``{"at_least": 26}``, with which
    None, for all there are, agrees.
    """
    if isinstance(printed, Mapping) and "one_of" in printed:
        return any(_same(value, given) for value in printed["one_of"])
    if isinstance(printed, list) and isinstance(given, list | tuple):
        return list(printed) == list(given)
    if isinstance(given, list | tuple) and given and all(item == given[0] for item in given):
        given = given[0]
    try:
        if isinstance(printed, Mapping):
            return given is None or float(given) >= printed["at_least"]
        return float(printed) == float(given)
    except (TypeError, ValueError):
        return str(printed) == str(given)


def lookup(
    metric: str,
    settings: Mapping[str, Any] | None = None,
    network: str | None = None,
    explainer: str | None = None,
    explainer_settings: Mapping[str, Any] | None = None,
    quantity: str | None = "score",
) -> list[Published]:
    """The printed numbers that fit, in the order of the papers.

    Args:
        metric: Name, alias or class path: ``"degradation"``, ``"bbox"``,
            ``"lit_iba.metrics.BoundingBox"``.
        settings: The metric's settings; every setting that the paper fixes (tile, what removed
            tiles become) must agree with them.
        network: Name such as ``"resnet50"`` or ``"ResNet-50"``; None for any.
        explainer: Name, alias or class path of the method; None for any.
        explainer_settings: The explainer's settings. A setting that is left out, of a metric or an
            explainer, has the value of its preset, or its default (beta 10). What a checkpoint was
            trained with is no default: for ``readout_iba`` its beta must be among them.
        quantity: Which of several printed quantities, such as ``"nats_as_printed"`` of table 4;
            None for any.

    Example:
        >>> from lit_iba.report import lookup
        >>> found = lookup("bounding_box", network="resnet50", explainer="grad_cam")
        >>> [(number.source, number.value) for number in found]
        [('Schulz et al. 2020', 0.465)]
    """
    found = []
    quantity = quantity and canonical("quantities", quantity)
    wanted_explainer = None if explainer is None else canonical("explainers", explainer)
    for number in all_published():
        if number.metric != canonical("metrics", metric):
            continue
        if quantity is not None and canonical("quantities", number.quantity) != quantity:
            continue
        if unlike(number.settings, number.metric, settings or {}):
            continue
        if network is not None and number.network != canonical("networks", network):
            continue
        if wanted_explainer is not None:
            if number.explainer != wanted_explainer:
                continue
            if unlike(number.explainer_settings, number.explainer, explainer_settings or {}):
                continue
        found.append(number)
    return found
