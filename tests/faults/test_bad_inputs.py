"""Bad inputs of the command line, a table of them: each ends with status 2 and one sentence, which
says what is wrong and what to do, and nothing is written.
"""

import logging
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import pytest
import torch
from damaged import make
from lightning.pytorch.callbacks import EarlyStopping

from lit_iba.cli.main import main
from lit_iba.cli.sentences import as_sentence

pytestmark = pytest.mark.filterwarnings("default")  # as for a user, whom warnings do not stop
NETWORK = "--classifier.model small_cnn --classifier.weights random"
NAMES = {
    "NET": NETWORK,
    "EXPLAIN": f"explain cat.jpg {NETWORK} --explainer saliency --device cpu --out out",
    "IBA": (
        f"explain cat.jpg {NETWORK} --explainer per_sample_iba --settings.layer layer2"
        " --settings.steps 1 --device cpu --out out"
    ),
    "READ": "explain cat.jpg --explainer readout_iba --device cpu --out out",
    "TEXTS": (
        "explain --text 'A great film.' --checkpoint text.ckpt --explainer random --device cpu"
        " --out out"
    ),
    "PANELS": f"panels cat.jpg {NETWORK} --device cpu --out out",
    "BENCH": "benchmark -c benchmark.yaml",
    "TEXTBENCH": "text-benchmark -c texts.yaml",
    "ROAR": "roar -c roar.yaml",
    "SWEEP": "sweep -c sweep.yaml",
    "SURVEY": "survey -c survey.yaml",
    "UNCERTAIN": "uncertainty -c uncertainty.yaml",
    "EXPORT": "export readout.ckpt --format safetensors --out out",
    "FIT": "fit -c fit.yaml",
    "VALIDATE": "validate -c fit.yaml",
    "LONG": "x" * 300,
}
# What these do when nothing is wrong: write.
WRITERS = (
    *("$EXPLAIN", "$TEXTS", "$BENCH", "$TEXTBENCH", "$ROAR", "$SURVEY", "$EXPORT", "$FIT"),
    "$SWEEP",
    "randomize out/x.safetensors --layers 1 $NET",
    "shards photographs out",
)
# Takes ten times as long as any other.
SLOW_WRITERS = ("$PANELS", "$UNCERTAIN")


def table() -> list[tuple[str, str]]:
    """The commands, and the sentence that each ends with."""
    text = (Path(__file__).parent / "bad_inputs.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(command, said.strip()) for command, said in zip(lines[::2], lines[1::2], strict=True)]


def words(command: str) -> list[str]:
    return shlex.split(Template(command).substitute(NAMES))


@pytest.fixture(scope="session")
def damaged(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("damaged") / "place"
    shutil.copytree(shared, place)
    make(place)
    return place


@pytest.fixture
def place(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of damaged files, in which the test is; new files are deleted behind it."""
    monkeypatch.chdir(damaged)
    before = set(damaged.rglob("*"))
    yield damaged
    for path in sorted(set(damaged.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def content(place: Path) -> dict[Path, tuple[int, int]]:
    """Everything there, with its size and time of change; folders without the latter."""
    found = {path: path.stat() for path in place.rglob("*")}
    return {
        path: (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        for path, stat in found.items()
    }


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command is refused with."""
    try:
        status = main(words(command))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 2, error
    assert [line for line in error if line.startswith("error:")] == error[-1:], error
    assert not any("Traceback" in line or line.startswith("usage:") for line in error), error
    return error[-1].removeprefix("error: ")


def test_the_table_is_long_enough() -> None:
    assert len({command for command, _ in table()}) == len(table()) >= 250


@pytest.mark.parametrize(("command", "said"), table(), ids=[command for command, _ in table()])
def test_a_bad_input_ends_in_one_sentence_and_writes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    if torch.cuda.is_available() and "cuda" in command:
        pytest.skip("what is refused without a GPU is taken here")
    before = content(place)
    sentence = refused(command, capsys)
    assert re.fullmatch(".*".join(map(re.escape, said.split("..."))), sentence), sentence
    assert content(place) == before


def test_only_what_the_trainer_itself_refuses_becomes_a_sentence() -> None:
    stopping = EarlyStopping("nothing", verbose=False)
    with pytest.raises(RuntimeError, match="not available") as refusal:
        stopping._validate_condition_metric({})
    assert "not available" in str(as_sentence(refusal.value))
    # Code of the trainer's that fails, and a refusal of other code, may be faults of the program.
    with pytest.raises(RuntimeError, match="ambiguous") as fault:
        stopping._evaluate_stopping_criteria(torch.zeros(2))
    assert as_sentence(fault.value) is None
    assert as_sentence(ValueError("never raised")) is None


@contextmanager
def no_space() -> Iterator[None]:
    """No file may have a single byte, as on a disk that is full; also those that tests log to,
    which is not to be said.
    """
    logging.raiseExceptions = False
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logging.raiseExceptions = True


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = content(place)
    with no_space():
        sentence = refused(command, capsys)
    assert re.search("File too large|could not be written", sentence), sentence
    assert re.search("disk|make room", sentence), sentence
    assert content(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW_WRITERS)
def test_a_full_disk_ends_slow_commands_likewise(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    test_a_full_disk_ends_in_one_sentence_and_leaves_nothing(place, capsys, command)


def test_names_of_a_file_neither_steer_the_terminal_nor_mark_up_its_output(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = "--classifier.model small_cnn --classifier.weights escape.safetensors"
    assert main(words(f"explain cat.jpg {network} --explainer saliency --device cpu")) == 0
    output = capsys.readouterr().out
    assert "\x1b]0;" not in output
    assert "\x07" not in output
    assert "[bold red]" in output.replace("\n", "")
