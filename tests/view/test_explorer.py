"""The explorer's server: who is let in, what it answers, and whether that is the metrics' own."""

import asyncio
import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from explorer_toys import Unsure, events, values
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lit_iba import InputError
from lit_iba.cli.main import main
from lit_iba.cli.view_photographs import photograph_session
from lit_iba.report import read_run
from lit_iba.view import ExplorerSession, LiveClassifier, explorer_app, serve
from lit_iba.view.server import listening
from lit_iba.view.worker import Worker

TOKEN = "the-secret"


def client(session: ExplorerSession, worker: Worker, **settings: Any) -> httpx.AsyncClient:
    """The page's own requests, in this process."""
    transport = httpx.ASGITransport(explorer_app(session, TOKEN, worker))
    settings = {"base_url": f"http://127.0.0.1:8000/{TOKEN}/", **settings}
    return httpx.AsyncClient(transport=transport, **settings)


def answered(
    session: ExplorerSession, worker: Worker, method: str, path: str, **given: Any
) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with client(session, worker) as page:
            return await page.request(method, path, **given)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("/", "127.0.0.1:8000"),
        ("/session", "127.0.0.1:8000"),
        ("/wrong/session", "127.0.0.1:8000"),
        (f"/{TOKEN}x/session", "127.0.0.1:8000"),
        (f"/{TOKEN}/session", "attacker.example:8000"),
        (f"/{TOKEN}/session", "127.0.0.1.attacker.example"),
        (f"/{TOKEN}/session", ""),
    ],
)
def test_strangers_are_refused(
    session: ExplorerSession, worker: Worker, address: str, host: str
) -> None:
    found = answered(
        session, worker, "GET", f"http://127.0.0.1:8000{address}", headers={"host": host}
    )
    assert found.status_code == 403
    assert TOKEN not in found.text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9"])
def test_the_page_loads_nothing_from_elsewhere(
    session: ExplorerSession, worker: Worker, host: str
) -> None:
    assert answered(session, worker, "GET", "session.js").status_code == 404
    for path in ("", "page.css", "view.js", "zoom.js"):
        found = answered(session, worker, "GET", path, headers={"host": host})
        assert found.status_code == 200
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "://" not in found.text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in found.text


def test_a_live_answer_is_a_point_of_the_metrics_own_curve(
    session: ExplorerSession, worker: Worker, run: Path
) -> None:
    from lit_iba.evaluation.results import gather_rows
    from lit_iba.resumable.store import ShardStore

    shards = sorted(path.stem for path in (run / "rows/degradation/random").glob("*.safetensors"))
    rows, keys = gather_rows(ShardStore(run / "rows"), "degradation/per_sample_iba", shards)
    place = keys.index(session.keys[2])
    for order, curve in (("most", "morf"), ("least", "lerf")):
        for share, gone in ((0.0, 0), (0.25, 4), (0.6875, 11), (1.0, 16)):
            question = {
                "picture": 2,
                "methods": ["per_sample_iba"],
                "order": order,
                "fraction": share,
                "tile": 4,
            }
            found = answered(session, worker, "POST", "ask", json=question)
            answer = found.json()["per_sample_iba"]
            assert (answer["removed"], answer["tiles"]) == (gone, 16)
            assert answer["probability"] == pytest.approx(float(rows[curve][place, gone]), abs=1e-6)
            names = [name for name, _ in answer["top"]]
            assert len(set(names)) == 5
            assert [p for _, p in answer["top"]] == sorted(
                (p for _, p in answer["top"]), reverse=True
            )


def test_what_is_seen_is_the_fill_where_pixels_are_gone(session: ExplorerSession) -> None:
    from lit_iba.view import Removal

    live = session.live
    assert live is not None
    ramp = torch.arange(256.0).view(16, 16)
    picture = live.pictures[1]
    for fill in ("zero", "mean", "blur"):
        seen = live.removed(1, ramp, Removal("least", 0.5, fill)).picture
        assert (seen[:, 8:].int() - picture[:, 8:].int()).abs().max() <= 1
        assert not seen[:, :8].equal(picture[:, :8])
        flat = seen[:, :8].flatten(1)
        assert bool((flat == flat[:, :1]).all()) == (fill != "blur")


def test_asked_as_in_the_run_per_sample_iba_gives_the_runs_map_with_progress(
    session: ExplorerSession, worker: Worker
) -> None:
    query = {"picture": "3", "layer": "layer2", "beta": "5"}
    told = events(answered(session, worker, "GET", "explain", params=query).text)
    assert [kind for kind, _ in told] == ["progress"] * 3 + ["map"]
    assert [value["done"] for _, value in told[:3]] == [1, 2, 3]
    found = told[-1][1]
    own = answered(session, worker, "GET", "maps/3/per_sample_iba").json()
    assert torch.allclose(values(found), values(own), rtol=1e-4)
    assert not found["own_statistics"]
    other = events(
        answered(session, worker, "GET", "explain", params={**query, "layer": "layer1"}).text
    )[-1]
    assert other[0] == "map"
    assert other[1]["own_statistics"]  # those of this layer were never measured


def test_a_newer_question_ends_an_optimisation_at_its_next_step(
    session: ExplorerSession, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_step, asked = threading.Event(), threading.Event()
    steps = []

    def explained(self: Any, picture: int, name: str, settings: Any, on_step: Any) -> Any:
        for step in range(100):
            steps.append(step)
            first_step.set()
            asked.wait(10)
            on_step("slow", step + 1, 100)

    monkeypatch.setattr(LiveClassifier, "explained", explained)

    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with client(session, worker) as page:
            query = {"picture": 0, "layer": "layer1", "beta": 77}
            slow = asyncio.create_task(page.get("explain", params=query))
            await asyncio.to_thread(first_step.wait, 10)
            before = dict(worker._newest)
            question = {"picture": 0, "methods": ["random"], "fraction": 0.5}
            quick = asyncio.create_task(page.post("ask", json=question))
            while worker._newest == before:
                await asyncio.sleep(0.01)
            asked.set()
            return await slow, await quick

    slow, quick = asyncio.run(both())
    assert [kind for kind, _ in events(slow.text)] == ["superseded"]
    assert len(steps) == 1
    assert quick.status_code == 200


def test_an_uncertainty_comes_with_its_map_or_when_it_is_asked_for(
    session: ExplorerSession, worker: Worker
) -> None:
    live = session.live
    assert live is not None
    heatmap = Unsure(live.classifier).attribute(live.classifier.images(live.pictures))
    assert heatmap.uncertainty is not None
    explainers = {"unsure": ("explorer_toys.Unsure", {})}
    made = ExplorerSession.of_photographs(
        live, session.keys, session.titles, {"unsure": heatmap}, explainers
    )
    assert made.described()["methods"][0]["deviates"]
    with_map = answered(made, worker, "GET", "maps/2/unsure").json()
    query = {"picture": 2, "method": "unsure"}
    asked = events(answered(made, worker, "GET", "explain", params=query).text)[-1][1]
    for found in (with_map, asked):
        assert torch.allclose(values(found["deviation"]), heatmap.uncertainty[2].flatten())
        assert torch.allclose(values(found), heatmap.values[2].flatten())


def test_a_pictures_place_is_counted_among_all_images(
    session: ExplorerSession, worker: Worker, run: Path
) -> None:
    scores = read_run(run).rows["bounding_box"]["per_sample_iba"]["score"]
    shown = answered(session, worker, "GET", "pictures/1").json()
    metric = next(one for one in shown["metrics"] if one["label"] == "Bounding box")
    found = metric["methods"]["per_sample_iba"]
    own, finite = scores[session.keys[1]], [s for s in scores.values() if math.isfinite(s)]
    assert found["images"] == sum(found["counts"]) == len(finite)
    assert found["place"] == 1 + sum(score > own for score in finite)


def test_photographs_are_explained_and_can_be_explained_again(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    Image.effect_noise((64, 64), 60).convert("RGB").save(path)
    settings = {"layer": "layer2", "steps": 2, "copies": 2}
    network = {"model": "small_cnn", "weights": "random"}
    session = photograph_session(
        [str(path)], ["per_sample_iba"], network, settings, "3", None, 8, "cpu"
    )
    assert session.titles[0].startswith("3 ")  # the class that was asked for
    assert session.live is not None
    again, own = session.live.explained(0, "per_sample_iba", settings, lambda *_: None)
    assert own
    assert torch.allclose(again.values[0], session.maps["per_sample_iba"][0])


def test_ctrl_c_ends_the_server(session: ExplorerSession) -> None:
    seen = []

    def ready(address: str) -> None:
        threading.Thread(target=visit, args=(address,)).start()

    def visit(address: str) -> None:
        seen.append(httpx.get(address).status_code)
        os.kill(os.getpid(), signal.SIGINT)

    serve(session, ready=ready)
    assert seen == [200]
    assert not [thread for thread in threading.enumerate() if "classifier" in thread.name]


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"picture": 99}, "there is no picture 99"),
        ({"picture": "0"}, "must be a whole number"),
        ({"picture": 0, "methods": []}, "name at least one"),
        ({"picture": 0, "methods": ["nothing"]}, "no method 'nothing'"),
        ({"picture": 0, "methods": ["own/layer2/3"]}, "make it again"),
        ({"picture": 0, "methods": ["random"], "fraction": 2}, "from 0 to 1"),
        ({"picture": 0, "methods": ["random"], "fill": "red"}, "must be one of"),
        ({"picture": 0, "methods": ["random"], "tile": 0}, "at least 1"),
        ({"picture": 0, "methods": ["random"], "colour": 1}, "no such setting"),
    ],
)
def test_a_bad_question_gets_one_sentence(
    session: ExplorerSession, worker: Worker, question: dict[str, Any], sentence: str
) -> None:
    found = answered(session, worker, "POST", "ask", json=question)
    assert found.status_code == 400
    assert sentence in found.json()["error"]


def test_a_question_is_short_and_flat(session: ExplorerSession, worker: Worker) -> None:
    for body, said in (("[" * 50_000, "no JSON"), ("[" * 100_000, "at most 65536 bytes")):
        found = answered(session, worker, "POST", "ask", content=body)
        assert found.status_code == 400
        assert said in found.json()["error"]
    half = answered(session, worker, "GET", "explain?picture=0.7&layer=layer2&beta=1")
    assert "whole number" in half.json()["error"]


def test_methods_are_called_by_what_ran_and_may_have_any_name(
    run: Path, worker: Worker, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    document = json.loads(path.read_text())
    iba = document["explainers"]["per_sample_iba"]
    iba["class"] = "lit_iba.iba.PerSampleIBA"
    document["explainers"] = {"per_sample_iba": iba, "grad_cam": {"class": "random"}}
    document["explainers"]["own"] = {"class": "random", "settings": {}}
    path.write_text(json.dumps(document))
    gallery = tmp_path / "run" / "gallery.safetensors"
    with safe_open(gallery, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name in ("grad_cam", "own"):
        tensors[f"heatmap/{name}"] = tensors["heatmap/random"].clone()
    save_file(tensors, gallery, metadata)
    session = ExplorerSession.of_run(tmp_path / "run")
    labels = {method.name: method.label for method in session.methods}
    assert labels["grad_cam"] == "Random (grad_cam)"
    assert session.described()["beta"] == 5.0
    asked = {"picture": 0, "methods": ["own"], "fraction": 0.5}
    assert answered(session, worker, "POST", "ask", json=asked).status_code == 200


def test_a_run_whose_weights_are_gone_is_still_shown(
    run: Path, worker: Worker, tmp_path: Path
) -> None:
    for path in run.iterdir():
        (tmp_path / path.name).symlink_to(path)
    results = json.loads((run / "results.json").read_text())
    results["network"]["weights"] = "gone.pth"
    (tmp_path / "results.json").unlink()
    (tmp_path / "results.json").write_text(json.dumps(results))
    session = ExplorerSession.of_run(tmp_path)
    (notice,) = [text for text in session.notices if text.startswith("Live")]
    assert notice.startswith("Live questions are off: ")
    assert "gone.pth" in notice
    page = answered(session, worker, "GET", "").text
    assert "Live questions are off" in page
    assert answered(session, worker, "GET", "maps/0/random").status_code == 200
    assert answered(session, worker, "GET", "pictures/0").json()["metrics"]
    refused = answered(session, worker, "POST", "ask", json={"picture": 0})
    assert refused.json()["error"] == "this page has no classifier to ask"
    live = ExplorerSession.of_run(tmp_path, {"weights": "random"})
    assert live.live is not None
    with pytest.raises(InputError, match="load the classifier that it was made with"):
        ExplorerSession.of_run(tmp_path, {"model": "resnet8", "weights": "random"})


@pytest.mark.parametrize(
    "change",
    [
        {"model": "planted:network"},
        {"objective": "planted.Objective"},
        {"objective": {"name": "custom", "function": "planted.loss"}},
    ],
)
def test_code_that_a_run_names_is_not_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    results = json.loads((run / "results.json").read_text())
    results["network"] |= change
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "gallery.safetensors").symlink_to(run / "gallery.safetensors")
    notices = ExplorerSession.of_run(tmp_path).notices
    (notice,) = [text for text in notices if text.startswith("Live")]
    assert "to be named again" in notice


def test_bad_input_is_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> str:
        assert main(["view", *map(str, arguments)]) == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        return said

    assert "results.json does not exist" in refused(tmp_path)
    (tmp_path / "results.json").write_text((run / "results.json").read_text())
    assert "no gallery.safetensors" in refused(tmp_path)
    assert "neither a run folder nor a photograph" in refused(tmp_path / "nothing")
    assert "leave out explainer" in refused(run, "--explainer", "random")
    with listening(None) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert "leave port out for a free one" in refused(run, "--port", port)
    monkeypatch.setattr("lit_iba.cli.view.find_spec", lambda name: None)
    assert refused(run).endswith(
        "view needs starlette and uvicorn, which are not installed; pip install 'lit_iba[view]'"
    )
