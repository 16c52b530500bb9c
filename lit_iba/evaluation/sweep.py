"""A sweep: one explainer with many settings, judged as one benchmark.

The search spaces of tables 2 and 3 of IBA (Schulz et al., ICLR 2020), and the grid of its figure 9.
A sweep only makes names and settings: the combinations are explainers of a :class:`Benchmark`,
which keeps what is done; the trainings that they may need are runs of ``fit``, which go on where
they stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.evaluation.benchmark import Benchmark
from lit_iba.evaluation.entries import Named
from lit_iba.files import read_text, write_text
from lit_iba.report.sweep import SWEEP

if TYPE_CHECKING:
    from lit_iba.evaluation.processes import Processes

BASE = "base"
SECTIONS = ("model", "data", "trainer", "optimizer", "lr_scheduler", "checkpoint", "resume")
Combine = Literal["each", "all"]
Fit = Callable[[list[str]], int]


def combinations(
    vary: Mapping[str, Any], settings: Mapping[str, Any], combine: Combine
) -> dict[str, dict[str, Any]]:
    """The varied settings of every combination, by its name.

    Args:
        vary: Values by setting; one with dots is called by its last part.
        settings: Those that the others have meanwhile.
        combine: ``"each"`` varies one setting at a time, from ``base``; ``"all"`` takes every
            combination of values.

    Raises:
        InputError: Nothing to vary, a setting without values, one that ``settings`` must have and
            does not, or names that are equal or no file names.

    Example:
        >>> from lit_iba.evaluation.sweep import combinations
        >>> list(combinations({"beta": [1.0, 10.0], "steps": [1, 5]}, {}, "all"))
        ['beta-1+steps-1', 'beta-1+steps-5', 'beta-10+steps-1', 'beta-10+steps-5']
        >>> combinations({"beta": [1.0, 10.0]}, {"beta": 10.0}, "each")
        {'base': {'beta': 10.0}, 'beta-1': {'beta': 1.0}}
    """
    if not vary or not all(
        isinstance(values, Sequence) and not isinstance(values, str) and values
        for values in vary.values()
    ):
        raise InputError("vary names no values; give a list for a setting, such as {beta: [1, 10]}")
    if combine == "all":
        chosen = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
        named = [(_name(values), values) for values in chosen]
    else:
        if missing := [setting for setting in vary if setting not in settings]:
            raise InputError(
                f"vary changes {missing[0]!r}, one setting at a time; say in settings what it is"
                " while others are changed"
            )
        base = {setting: settings[setting] for setting in vary}
        named = [(BASE, base)]
        for setting, values in vary.items():
            for value in values:
                if value != base[setting]:
                    named.append((_name({setting: value}), base | {setting: value}))
    found = dict(named)
    names = [name for name, _ in named]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"vary gives the combination {twice!r} twice; give different values")
    return found


def _name(values: Mapping[str, Any]) -> str:
    def written(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    return "+".join(f"{key.rpartition('.')[2]}-{written(v)}" for key, v in values.items())


def with_dots(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings of a training by their whole names, where a mapping holds them."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        within = before or name in SECTIONS
        if within and isinstance(value, Mapping) and value:
            found |= with_dots(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _argument(value: Any) -> str:
    """A value as ``fit`` reads it on its command line, where quotes would be a part of a word."""
    return value if isinstance(value, str) else json.dumps(value)


class Sweep:
    """One explainer with many settings, over a data set.

    Settings with a dot, or below ``model``, ``data`` or ``trainer``, are arguments of a training,
    such as ``model.init_args.beta``: each combination is then trained before it is judged, and its
    explainer gets the checkpoint.

    Args:
        classifier: The network that is explained.
        explainer: A key of ``EXPLAINERS``, or a class path.
        vary: Values by setting, see :func:`combinations`; mappings in it are as in ``settings``.
        metrics: As of :class:`Benchmark`.
        out: Folder of the run; trainings are in ``trained/<combination>``.
        settings: Of the explainer, and of the training, in all combinations.
        combine: ``"each"`` or ``"all"``, see :func:`combinations`.
        train: Configs of the training, in their order.
        fit: Runs a training, from the arguments of ``fit``; returns its exit status.
        benchmark: Further arguments of :class:`Benchmark`, ``data`` among them.

    Raises:
        InputError: A name or setting is wrong, or a setting of a training is given without one.

    Example:
        >>> from lit_iba.evaluation.sweep import Sweep
        >>> sweep = Sweep(
        ...     classifier, "smoothgrad", {"noise": [0.1, 0.2]}, {"bounding_box": {}}, "run",
        ...     settings={"noise": 0.1, "samples": 2}, data="digits/test",
        ... )
        >>> list(sweep.combinations)
        ['base', 'noise-0.2']
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        explainer: str,
        vary: Mapping[str, Any],
        metrics: Named,
        out: str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        combine: Combine = "each",
        train: Sequence[str] = (),
        fit: Fit | None = None,
        **benchmark: Any,
    ) -> None:
        check_literals(combinations, {"vary": vary, "settings": settings, "combine": combine})
        vary = with_dots(vary)
        settings = with_dots(settings or {}) if train else settings or {}
        self.combinations = combinations(vary, settings, combine)
        self.classifier, self.out, self.train, self.fit = classifier, Path(out), list(train), fit
        self.vary, self.combine = list(vary), combine
        trained = [setting for setting in {**settings, **vary} if "." in setting]
        if trained and (not train or fit is None):
            raise InputError(
                f"{trained[0]!r} is a setting of a training; name its configs as train, or vary a"
                f" setting of {explainer}"
            )
        self.explainers: dict[str, dict[str, Any]] = {}
        self.trainings: dict[str, list[str]] = {}
        for name, values in self.combinations.items():
            every = {**settings, **values}
            own = {key: value for key, value in every.items() if "." not in key}
            if train:
                own["checkpoint"] = str(self._trained(name) / "checkpoints" / "best.ckpt")
                self.trainings[name] = [
                    *(f"--config={config}" for config in train),
                    *(f"--{k}={_argument(v)}" for k, v in every.items() if "." in k),
                    f"--trainer.default_root_dir={self._trained(name)}",
                ]
            self.explainers[name] = {"explainer": explainer, **own}
        self.benchmark = Benchmark(
            classifier, explainers=self.explainers, metrics=metrics, out=self.out, **benchmark
        )

    def _trained(self, name: str) -> Path:
        return self.out / "trained" / name

    def train_all(self) -> None:
        """Run the trainings that are not done, one after the other.

        Raises:
            InputError: One of them failed, or an earlier one had other settings.
        """
        for number, (name, arguments) in enumerate(self.trainings.items()):
            note = self._trained(name) / "sweep.json"
            texts = [read_text(config, "config") for config in self.train]
            asked = {"arguments": arguments, "configs": texts}
            before = json.loads(read_text(note, "record of a training")) if note.is_file() else {}
            if before and before.get("asked") != asked:
                raise InputError(
                    f"{note.parent} was trained with other settings; choose another folder for the"
                    " sweep, or delete this one"
                )
            if before.get("done"):
                continue
            write_text(note, json.dumps({"asked": asked, "done": False}, indent=1) + "\n")
            print(f"training {number + 1} of {len(self.trainings)}: {name}")
            status = self.fit([*arguments, "--ckpt_path=last"]) if self.fit else 0
            if status:
                raise InputError(
                    f"the training of {name} ended with status {status}; start the sweep again to"
                    " go on from there"
                )
            write_text(note, json.dumps({"asked": asked, "done": True}, indent=1) + "\n")

    def run(self, fabric: Processes | None = None) -> dict[str, Any]:
        """Judge every combination, and note what each of them is; the trainings must be done.

        Args:
            fabric: As of :meth:`Benchmark.run`.

        Returns:
            The content of ``results.json``.
        """
        results = self.benchmark.run(fabric)
        if fabric is None or fabric.global_rank == 0:
            note = {"combine": self.combine, "vary": self.vary, "values": self.combinations}
            write_text(self.out / SWEEP, json.dumps(note, indent=1) + "\n")
        return results
