"""The help of ``fit``, ``validate`` and ``test``, read from the sources of the classes behind their
arguments.

LightningCLI's own help says the same, but first imports Lightning, which takes six seconds.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import textwrap
from pathlib import Path
from typing import Any

from docstring_parser import parse

from lit_iba.cli.docstrings import first_sentence

# What this project sets where Lightning has another default.
DEFAULTS: dict[str, Any] = {
    "checkpoint.monitor": "val/loss",
    "checkpoint.mode": "min",
    "checkpoint.filename": "best",
    "checkpoint.save_last": True,
    "checkpoint.enable_version_counter": False,
    "checkpoint.auto_insert_metric_name": False,
    "trainer.default_root_dir": "runs/default",
    "trainer.max_epochs": 10,
}
# The parts of a config: prefix, package and file, class.
PARTS = (
    ("trainer", "lightning", "pytorch/trainer/trainer.py", "Trainer"),
    ("checkpoint", "lightning", "pytorch/callbacks/model_checkpoint.py", "ModelCheckpoint"),
    ("heatmaps", "lit_iba", "training/callbacks/heatmap_images.py", "HeatmapImages"),
    ("resume", "lit_iba", "training/callbacks/resume.py", "ResumeCheckpoint"),
)
KINDS = {"model": "LightningModule", "data": "LightningDataModule"}
BASES = ("TrainingWithFrozenClassifier", "SampleDataModule")
FAMILIES = {
    "LightningModule": ("LightningModule", "TrainingWithFrozenClassifier", "AveragedTraining"),
    "LightningDataModule": ("SampleDataModule", "ShardDataModule"),
}


def print_training_help(program: str, command: str) -> None:
    """Print what ``program command`` takes.

    Args:
        program: ``"train.py"`` or ``"lit-iba"``.
        command: ``"fit"``, ``"validate"`` or ``"test"``.
    """
    trainer = _class(*PARTS[0][1:])
    parser = argparse.ArgumentParser(
        prog=f"{program} {command}",
        usage=f"{program} {command} [-c CONFIG] [--model CLASS] [--data CLASS] [--trainer.X X] ...",
        description=_summary(_method(trainer, command)),
        formatter_class=argparse.RawTextHelpFormatter,
        add_help=False,
    )
    general = parser.add_argument_group("options")
    general.add_argument("-h", "--help", action="help", help="show this help and exit")
    _add(general, "file", "path of a YAML file; later arguments win", "-c", "--config")
    _add(general, "print_config", "print the whole configuration as YAML and exit")
    _add(general, "seed_everything", "seed of the run; true draws one (default: 0)")
    for kind, base in KINDS.items():
        group = parser.add_argument_group(
            f"{kind}: a {base} of these, or of your own by its class path"
        )
        _add(group, kind, "\n".join(_classes(base)))
        _add(group, f"{kind}.help", "a class; shows what it takes, and exits")
    for prefix, *place in PARTS:
        node = _class(*place)
        group = parser.add_argument_group(f"{prefix}: {_summary(node).rstrip('.:')}")
        _add(group, prefix, "path of a YAML file with these settings")
        for name, annotation, default, text in _arguments(node, "__init__"):
            shown = DEFAULTS.get(f"{prefix}.{name}", default)
            _add(group, f"{prefix}.{name}", f"{text} (type: {annotation}, default: {shown})")
            if prefix == "trainer" and name in ("accelerator", *_OF_CLASSES):
                _add(group, f"{prefix}.{name}.help", "a class; shows what it takes, and exits")
    group = parser.add_argument_group(f"{command} alone")
    for name, annotation, default, text in _arguments(trainer, command):
        if name not in (
            "model",
            "datamodule",
            "dataloaders",
            "train_dataloaders",
            "val_dataloaders",
        ):
            _add(group, name, f"{text} (type: {annotation}, default: {default})")
    parser.print_help()


_OF_CLASSES = ("callbacks", "logger", "plugins", "profiler", "strategy")


def _add(group: Any, name: str, text: str, *flags: str) -> None:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 72)]
    group.add_argument(
        *(flags or (f"--{name}",)),
        metavar=name.rpartition(".")[2].upper(),
        help="\n".join(lines).replace("%", "%%"),
    )


def _class(package: str, file: str, name: str) -> ast.ClassDef:
    found = importlib.util.find_spec(package)  # which does not import it
    assert found is not None, f"{package} is not installed"
    source = Path((found.submodule_search_locations or [""])[0]) / file
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef:
    return next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name)


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return first_sentence(ast.get_docstring(node)) or f"settings of the {node.name}"


def _arguments(node: ast.ClassDef, method: str) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of what a method takes."""
    function = _method(node, method)
    said = {
        p.arg_name: " ".join((p.description or "").split())
        for source in (node, function)
        for p in parse(ast.get_docstring(source) or "").params
    }
    plain, defaults = function.args.args[1:], function.args.defaults
    given = [*[None] * (len(plain) - len(defaults)), *defaults]
    pairs = [
        *zip(plain, given, strict=True),
        *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
    ]
    return [
        (
            argument.arg,
            "any" if argument.annotation is None else ast.unparse(argument.annotation),
            "required" if default is None else ast.unparse(default),
            _first_sentences(said.get(argument.arg, "")),
        )
        for argument, default in pairs
    ]


def _first_sentences(text: str, width: int = 300) -> str:
    """As many whole sentences as fit; Lightning's descriptions run to pages."""
    if len(text) <= width:
        return text
    cut = text.rfind(". ", 0, width)
    return text[: cut + 1] if cut > 0 else text[:width] + " ..."


def _classes(base: str) -> list[str]:
    """This project's public classes of a kind: their path and what they are."""
    header = re.compile(rf"^class (\w+)\((?:L\.)?(?:{'|'.join(FAMILIES[base])})\):", re.MULTILINE)
    found = []
    for path in sorted(Path(__file__).resolve().parent.parent.glob("*/*.py")):
        text = path.read_text(encoding="utf-8")
        public = (path.parent / "__init__.py").read_text(encoding="utf-8")
        names = [name for name in header.findall(text) if f'"{name}"' in public]
        for node in ast.parse(text).body if names else ():
            if isinstance(node, ast.ClassDef) and node.name in names and node.name not in BASES:
                found.append(f"lit_iba.{path.parent.name}.{node.name}: {_summary(node)}")
    return found
