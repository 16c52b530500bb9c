"""Exports on the Hugging Face Hub, by its own client: against a hub of the tests' own, since none
of elsewhere is asked.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, hub_of

from lit_iba.classifier import FrozenClassifier
from lit_iba.cli.main import main
from lit_iba.export import load_exported

constants = pytest.importorskip("huggingface_hub.constants")
pytestmark = pytest.mark.filterwarnings(  # huggingface_hub's own call of httpx
    "ignore:Use 'content=<...>' to upload:DeprecationWarning"
)
HERE = "hf://someone/readout"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Files of 4,000 bytes and more go by git-lfs, as the weights do. The newer store, Xet, is a
    protocol of its own, which this hub does not speak.
    """
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_of("someone/readout", large=4000) as made:
        yield made


def run(hub: Hub, *words: str, token: str = "secret") -> int:
    options = {"endpoint": hub.url, "token": token}
    return main([*words, "--storage_options", json.dumps(options)])


@pytest.mark.parametrize("place", ["", "/digits/first"])
def test_an_export_goes_to_the_hub_and_back(
    exported: Path, hub: Hub, tmp_path: Path, place: str
) -> None:
    assert run(hub, "push", str(exported), HERE + place) == 0
    pushed = hub.repositories["someone/readout"]
    assert len(hub.uploads) >= 1  # the weights are large
    assert run(hub, "pull", HERE + place, str(tmp_path / "back")) == 0
    prefix = f"{place.strip('/')}/".lstrip("/")
    assert {prefix + path.name: path.read_bytes() for path in exported.iterdir()} == pushed
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        name.removeprefix(prefix): content for name, content in pushed.items()
    }
    load_exported(tmp_path / "back", FrozenClassifier("small_cnn", "random"))
    assert run(hub, "push", str(exported), HERE + place) == 0  # in place of the one that is there


def test_what_the_hub_refuses_or_has_changed_is_said_in_one_sentence(
    exported: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str, token: str = "secret") -> str:
        capsys.readouterr()  # the hub's own bar of the upload before
        assert run(hub, *words, token=token) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        return said

    back = str(tmp_path / "back")
    assert "access is refused" in refused("push", str(exported), HERE, token="wrong")
    assert not hub.repositories["someone/readout"]
    assert "it is not there" in refused("push", str(exported), "hf://nobody/nothing")
    assert "explainer.json cannot be had: it is not there" in refused("pull", HERE, back)
    hub.repositories["someone/readout"]["README.md"] = b"# Something else\n"
    assert "README.md of something else" in refused("push", str(exported), HERE)
    hub.repositories["someone/readout"].clear()
    assert run(hub, "push", str(exported), HERE) == 0
    weights = hub.repositories["someone/readout"]["explainer.safetensors"]
    hub.repositories["someone/readout"]["explainer.safetensors"] = weights[:-1] + b"?"
    assert "sha256 differs" in refused("pull", HERE, back)
    hub.repositories["someone/readout"]["explainer.safetensors"] = weights + b"more"
    assert "bytes" in refused("pull", HERE, back)
    assert not Path(back).exists()
