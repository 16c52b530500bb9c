"""The command line: ``lit-iba``, and ``train.py`` and ``evaluate.py``, which are parts of it.

Nothing heavy is imported before the command is known, so that ``--help`` answers at once. Errors
that a user can mend are printed as one sentence, with exit status 2. A training that a signal ended
after saving its state exits with 75, or with 130 if it was Ctrl-C. Any other run that a signal
ended exits with what a shell gives for it: 130 or 143.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lit_iba.cli.quick_start import import_torchvision
from lit_iba.cli.refused import nothing_left_behind
from lit_iba.cli.sentences import as_sentence, check_configs, complain
from lit_iba.errors import unknown_name
from lit_iba.files import check_folder

TRAINING = {
    "fit": "train an explainer or a classifier",
    "validate": "run the validation of a checkpoint",
    "test": "run the test of a checkpoint",
}
EVALUATION = {
    "explain": (
        "heatmaps of single photographs (PNG, overlay, npy, total bits) or texts (coloured words,"
        " HTML, JSON)"
    ),
    "panels": "activity and bias attributions of every layer of a network, with their sums",
    "benchmark": "explain a data set and judge the heatmaps; resumable, on any number of processes",
    "sweep": (
        "one explainer with many settings, trained where needed, judged and drawn side by side;"
        " resumable"
    ),
    "text-benchmark": "explain reviews word by word and judge the values; resumable",
    "roar": "remove the pixels that methods find relevant, retrain, report the accuracy; resumable",
    "survey": (
        "what biases do for classifiers: accuracy without them, robustness to scaling and shift;"
        " resumable"
    ),
    "uncertainty": (
        "what the uncertainty of VarSal's maps says about their error, on clean and corrupted"
        " images; resumable"
    ),
    "report": "a self-contained HTML page, Markdown and LaTeX tables of a benchmark's folder",
    "view": (
        "a local page of a benchmark's folder, or of photographs: maps side by side, and what the"
        " classifier sees as pixels are removed"
    ),
    "export": "a trained explainer as .pt2, ONNX or safetensors",
}
WEIGHTS = {
    "randomize": "a classifier's weights with its last layers at random, as in the sanity check"
}
EXCHANGE = {
    "push": "an export to a folder, a bucket or the Hugging Face Hub",
    "pull": "an export from there, every file verified",
}
HELP = {
    "recipes": "the configs that come with the package: what each is for, its cost, what it needs",
    "recipe": "the text of one of them",
    "doctor": "versions, devices, memory and the cluster's variables, and what is wrong with them",
}
DATA = {"shards": "write shards from a folder of pictures, CIFAR-10, arrays, or the embedded data"}
COMMANDS = {
    "train.py": TRAINING,
    "evaluate.py": EVALUATION,
    "lit-iba": {**TRAINING, **EVALUATION, **WEIGHTS, **EXCHANGE, **DATA, **HELP},
}


def main(arguments: Sequence[str] | None = None, program: str = "lit-iba") -> int:
    """Run a command; returns the exit status.

    Args:
        arguments: Without the program's name; by default those of the process.
        program: ``"lit-iba"``, ``"train.py"`` or ``"evaluate.py"``: which commands there are.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = COMMANDS[program]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND [--help] [--config FILE] ...\n")
        print("\n".join(f"  {name:<14} {text}" for name, text in commands.items()))
        return 0 if arguments else 2
    command = arguments[0]
    here = str(Path.cwd())
    if (
        here not in sys.path
    ):  # classes of the user's own; last, so that a file here hides no installed package
        sys.path.append(here)
    if "SLURM_JOB_ID" not in os.environ:  # Lightning's, and nobody outside a job would use it
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # kornia's before 0.9, under torch 2.15
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    from lit_iba.cli.launched import watched_launcher
    from lit_iba.cli.recipes import with_recipes

    try:
        arguments = with_recipes(arguments)
        with watched_launcher():
            check_configs(arguments[1:])
            return _command(command, arguments, program)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 141  # what a shell gives for it
        sentence = as_sentence(error)
        if sentence is None:
            raise
        return complain(sentence)
    except (KeyboardInterrupt, SystemExit) as end:
        status = _status_of_a_signal(end)
        if status is None:
            raise
        print("stopped", file=sys.stderr)
        return status


def _status_of_a_signal(end: BaseException) -> int | None:
    """What a shell gives for the signal that ended a run; None where none did. A trainer leaves
    with status 1 after Ctrl-C, and with 0 after SIGTERM.
    """
    if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
        return 130
    return 143 if type(end).__name__ == "SIGTERMException" else None  # Lightning's


def _reader_has_gone() -> bool:
    """Whether what reads our output has ended, as ``head`` does; then nothing more is written."""
    output = select.poll()
    output.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _command(command: str, arguments: list[str], program: str) -> int:
    commands = COMMANDS[program]
    if command == "--version":
        from lit_iba import __version__

        print(__version__)
    elif command not in commands:
        raise unknown_name(f"command of {program}", command, commands)
    elif command in TRAINING and arguments[1:] in (["-h"], ["--help"]):
        from lit_iba.cli.training_help import print_training_help

        print_training_help(program, command)
    elif command in TRAINING:
        from lit_iba.cli.training import run_training
        from lit_iba.training.callbacks.resume import PreemptedError

        try:
            run_training(arguments)
        except PreemptedError as error:
            print(error, file=sys.stderr)
            return error.status
    else:
        _run(command, arguments[1:], program)
    return 0


def _parsed(
    command: str, arguments: list[str], program: str
) -> tuple[Callable[..., object], dict[str, Any]]:
    """What a command calls, and with which settings."""
    from lit_iba.cli.choices import ChoicesInOneSentence
    from lit_iba.cli.docstrings import first_sentence

    name = command.replace("-", "_")
    module = importlib.import_module(f"lit_iba.cli.{name}")
    function = getattr(module, name)
    parser = ChoicesInOneSentence(
        prog=f"{program} {command}", description=first_sentence(function.__doc__)
    )
    parser.add_argument("-c", "--config", action="config", help="YAML file; later arguments win")
    # Arguments without a name of their own, or of several words: name, how many, help.
    own: list[tuple[str, str | None, str]] = getattr(module, "ARGUMENTS", [])
    for argument, count, text in own:
        parser.add_argument(argument, nargs=count, help=text)
    # Not as a group: its title would be the first line of the docstring, wherever that ends.
    parser.add_function_arguments(
        function, as_group=False, skip={argument.lstrip("-") for argument, _, _ in own}
    )
    settings: dict[str, Any] = parser.parse_args(arguments).as_dict()
    settings.pop("config", None)
    return function, settings


def _run(command: str, arguments: list[str], program: str) -> None:
    function, settings = _parsed(command, arguments, program)
    for place in ("out", "statistics_folder"):
        if isinstance(settings.get(place), str):
            check_folder(settings[place], place)
    if command in EVALUATION | WEIGHTS and command != "report":
        import_torchvision()
    with ExitStack() as stack:
        if isinstance(settings.get("out"), str):
            stack.enter_context(nothing_left_behind(Path(settings["out"])))
        function(**settings)
