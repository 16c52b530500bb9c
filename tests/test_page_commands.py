"""Every command on a page can be given as it stands: its variables are set on that page, its files
are there, and its options, explainers, metrics and their settings exist.
"""

import argparse
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pages import PAGES, ROOT

from lit_iba import InputError
from lit_iba.cli.explain import settings_of
from lit_iba.cli.main import COMMANDS, TRAINING, _parsed, main
from lit_iba.cli.recipes import with_recipes
from lit_iba.cli.sentences import as_sentence
from lit_iba.evaluation.entries import class_and_settings
from lit_iba.evaluation.sweep import with_dots
from lit_iba.explainer import explainer_class
from lit_iba.iba.per_sample_settings import settings_from
from lit_iba.metrics import build_metric
from lit_iba.training.trained_explainer import TrainedExplainer

BEGINS = re.compile(r"\s*(python|lit-iba|make|for|export|[A-Z_0-9]+=)")
SHELL = ("", "sh", "bash", "console")
# Within a sentence: commands with a config or several options, that leave nothing out.
INLINE = re.compile(
    r"`((?:[A-Z_]+=\S+ )?(?:python|lit-iba) (?=[^`]*(?:--config configs/\S*[a-z]\.yaml|--[^`]* --))"
    r"(?![^`]*\.\.\.)[^`]+)`"
)
# Nothing but the shell itself is found, and the two programs only say what they were given.
STUBS = r"""
PATH=
say() { printf '%s\0' "$@" $'\n' >&9; }
python() { say python "$@"; }
lit-iba() { say lit-iba "$@"; }
"""


def shell_blocks(text: str) -> Iterator[str]:
    """Blocks of shell commands, fenced or indented, and commands within sentences."""
    fence: str | None = None
    fenced, indented = list[str](), list[str]()
    for line in [*text.split("\n"), "."]:
        mark = re.match(r"\s*```(\w*)", line)
        if mark and fence is None:
            fence, fenced = mark[1], []
        elif mark:
            if fence in SHELL:
                yield "\n".join(fenced)
            fence = None
        elif fence is not None:
            fenced.append(line)
        elif line.startswith("    ") or (indented and not line.strip()):
            indented.append(line)
        elif indented:
            if any(BEGINS.match(one) for one in indented):
                yield "\n".join(indented)
            indented = []
    yield from (one.replace("\n", " ") for one in INLINE.findall(text))


def commands(text: str, folder: Path) -> tuple[list[list[str]], list[str]]:
    """What a page's blocks give to the programs, in their order, and the variables that they use
    without having set them.
    """
    script, said = folder / "page.sh", folder / "said"
    script.write_text(STUBS + "\n".join(shell_blocks(text)) + "\n")
    found = list[list[str]]()
    done = subprocess.run(
        ["/bin/bash", "--norc", "-u", "-c", f"exec 9>{said}; source {script}"],
        cwd=folder,
        env={"REALDATA": "/realdata"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    words = said.read_text().split("\0")[:-1]
    while words:
        end = words.index("\n")
        found.append(words[:end])
        words = words[end + 1 :]
    return found, re.findall(r"(\w+): unbound variable", done.stderr)


def without_elisions(words: list[str]) -> list[str]:
    """A page's "..." stands for more of the same."""
    return [word.replace("...", "") if "{" in word else word for word in words if word != "..."]


class ParsedError(Exception):
    """The arguments are right, and nothing else is to happen."""


def check_script(script: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of a script that reads them with argparse."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> NoReturn:
        parse(parser, *given, **named)
        raise ParsedError

    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [str(script), *arguments])
        patched.setattr(sys, "path", [str(script.parent), *sys.path])
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        with pytest.raises(ParsedError):
            runpy.run_path(str(script), run_name="__main__")


def check_explainer(name: str, settings: Mapping[str, Any]) -> None:
    """Its class and its settings."""
    if "." in name:  # of the reader's own
        return
    cls, given = explainer_class(name), dict(settings)
    given.pop("smooth", None)
    if issubclass(cls, TrainedExplainer):
        given.pop("checkpoint", None)
    taken = inspect.signature(cls.__init__).parameters
    if name == "per_sample_iba":
        own = {key: value for key, value in given.items() if key not in taken}
        settings_from(given.get("preset", "default"), own)
    elif not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        assert given.keys() <= taken.keys(), (name, settings)


def check_settings(command: str, settings: dict[str, Any]) -> None:
    """What the parser takes as it is: names and settings of explainers and metrics."""
    if command in ("benchmark", "sweep"):
        for name, given in (settings["metrics"] or {}).items():
            metric, own = class_and_settings("metric", name, given)
            if "." not in metric:
                build_metric(metric, own)
    if command == "benchmark":
        for name, given in settings["explainers"].items():
            check_explainer(*class_and_settings("explainer", name, given))
    if command == "sweep":
        whole = with_dots if settings["train"] else dict
        varied = {k: v[0] for k, v in with_dots(settings["vary"]).items()}
        own = {**whole(settings["settings"] or {}), **varied}
        check_explainer(settings["explainer"], {k: v for k, v in own.items() if "." not in k})
    if command == "explain" and settings["explainer"]:
        names = settings["explainer"]
        names = names.split(",") if isinstance(names, str) else names
        for name, given in settings_of(names, settings["settings"] or {}).items():
            check_explainer(*class_and_settings("explainer", name, given))


def own_configs(text: str, folder: Path) -> dict[str, str]:
    """The configs that a page shows, written: named in the block's first line, or just above it."""
    found = dict[str, str]()
    for above, block in re.findall(r"([^\n]*)\n+```yaml\n(.*?)```", text, re.DOTALL):
        named = re.match(r"# ([\w.]+\.yaml)\n", block) or re.search(r"`([\w.]+\.yaml)` is:$", above)
        if named:
            (folder / named[1]).write_text(block)
            found[named[1]] = str(folder / named[1])
    return found


def check(
    words: list[str], text: str, configs: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a command can be given.

    Raises:
        InputError: It cannot.
        SystemExit: With another status than 0, it cannot.
    """
    program, *arguments = without_elisions(words)
    if program == "python":
        script = ROOT / arguments.pop(0)
        assert script.is_file(), words
        program = script.name
        if program not in COMMANDS:
            if "argparse" in script.read_text("utf-8"):
                check_script(script, arguments, monkeypatch)
            return
    arguments = [configs.get(argument, argument) for argument in arguments]
    for flag, config in pairwise(arguments):
        if flag == "--config" and ":" not in config and not (ROOT / config).is_file():
            assert f"`{config}` names" in text, f"{config} is nowhere, and the page does not say it"
            return
    command, *rest = with_recipes(arguments)
    if command in TRAINING:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, *rest, "--print_config"], program)
        return
    assert command in COMMANDS[program], words
    try:
        settings = _parsed(command, rest, program)[1]
    except InputError as error:
        if "..." in words and "must be given" in str(error):
            return
        raise
    check_settings(command, settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_can_be_given(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text("utf-8")
    configs = own_configs(text, tmp_path)
    found, unset = commands(text, tmp_path)
    assert not unset, f"variables that the page does not set: {unset}"
    monkeypatch.chdir(ROOT)
    wrong = list[str]()
    for words in found:
        try:
            check(words, text, configs, monkeypatch)
        except (Exception, SystemExit) as error:
            said = capsys.readouterr().err.strip().split("\n")[-1]
            wrong.append(f"{' '.join(words)}\n    {as_sentence(error) or error!r} {said}")
    assert not wrong, "\n".join(wrong)


def settings_in(page: str, kind: str, column: int) -> Iterator[tuple[str, str, str]]:
    """Name, setting and default of the rows of a page's table, where the default is one word."""
    for line in (ROOT / "docs" / page).read_text("utf-8").split("\n"):
        cells = re.split(r"(?<!\\)\|", line)
        for name in re.findall(r"`(\w+)`", cells[1]) if len(cells) > column + 1 else ():
            for setting, default in re.findall(
                r"`(\w+)` (\w+(?:\.\w+)?)(?=[,; ])", cells[column] + " "
            ):
                if default not in ("every", "as", "sum"):  # begins a phrase
                    yield f"{kind} {name}", setting, default


@pytest.mark.parametrize(
    ("name", "setting", "default"),
    [*settings_in("metrics.md", "metric", 5), *settings_in("baselines.md", "explainer", 2)],
)
def test_the_default_that_a_table_names_is_the_one_of_the_class(
    name: str, setting: str, default: str
) -> None:
    kind, name = name.split()
    cls = type(build_metric(name, {})) if kind == "metric" else explainer_class(name)
    own = (inspect.signature(c.__init__).parameters for c in cls.__mro__ if "__init__" in vars(c))
    found = next(taken[setting].default for taken in own if setting in taken)
    assert str(found).lower() in (default, f"{default}.0", default.replace("null", "none"))
