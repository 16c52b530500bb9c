"""Data modules under a real Trainer: a resumed run sees what the interrupted one had left."""

import gc
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from data_toys import samples
from recorder import Recorder, SaveAt, trainer

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardDataModule, ShardIndex, write_shards
from lit_iba.errors import InputError

MakeShards = Callable[..., ShardIndex]
SMALL = Preprocessing(resize=24, crop=20)
# Lightning 2.6 under torch 2.15: its own use of a deprecated class.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


def module(folder: Path, **options: Any) -> ShardDataModule:
    return ShardDataModule(
        str(folder), str(folder), preprocessing=SMALL, **{"batch_size": 4, "block": 2, **options}
    )


@pytest.mark.parametrize("limit", [None, 3])
def test_a_resumed_run_sees_what_was_left_at_every_step(
    tmp_path: Path, make_shards: MakeShards, limit: int | None
) -> None:
    make_shards(22, 7)
    folder = tmp_path / "shards"
    reference = Recorder()
    trainer(tmp_path, limit_train_batches=limit).fit(reference, module(folder))
    steps = len(reference.trained)
    assert steps == 2 * (limit or 6)
    for stop in range(1, steps):
        checkpoint = tmp_path / f"{stop}.ckpt"
        saver = trainer(tmp_path, limit_train_batches=limit, callbacks=[SaveAt(stop, checkpoint)])
        first, rest = Recorder(), Recorder()
        saver.fit(first, module(folder))
        assert first.trained[:stop] == reference.trained[:stop]
        trainer(tmp_path, limit_train_batches=limit).fit(
            rest, module(folder), ckpt_path=checkpoint, weights_only=True
        )
        assert rest.trained == reference.trained[stop:], stop


@pytest.mark.parametrize("changed", ["cut otherwise", "other pictures"])
def test_a_resume_with_as_many_samples_of_other_shards_is_refused(
    tmp_path: Path, make_shards: MakeShards, changed: str
) -> None:
    make_shards(22, 7)
    make_shards(22, 5, "cut otherwise")
    write_shards(list(samples(44))[22:], tmp_path / "other pictures", "x", 7)
    make_shards(22, 7, "elsewhere")
    folder, checkpoint = tmp_path / "shards", tmp_path / "c.ckpt"
    trainer(tmp_path, callbacks=[SaveAt(2, checkpoint)]).fit(Recorder(), module(folder))
    with pytest.raises(InputError, match="as many samples of other data, or of other shards"):
        trainer(tmp_path).fit(
            Recorder(), module(tmp_path / changed), ckpt_path=checkpoint, weights_only=True
        )
    moved = module(tmp_path / "elsewhere")  # the same, in another place
    trainer(tmp_path).fit(Recorder(), moved, ckpt_path=checkpoint, weights_only=True)


def test_a_resume_may_use_other_workers(tmp_path: Path, make_shards: MakeShards) -> None:
    make_shards(45, 7)
    folder, checkpoint = tmp_path / "shards", tmp_path / "c.ckpt"
    reference, rest = Recorder(), Recorder()
    trainer(tmp_path).fit(reference, module(folder, num_workers=2))
    trainer(tmp_path, callbacks=[SaveAt(5, checkpoint)]).fit(
        Recorder(), module(folder, num_workers=2)
    )
    trainer(tmp_path).fit(rest, module(folder), ckpt_path=checkpoint, weights_only=True)
    assert rest.trained == reference.trained[5:]
    with pytest.raises(InputError, match=r"seed 0 \(now 1\)"):
        trainer(tmp_path).fit(
            Recorder(), module(folder, seed=1), ckpt_path=checkpoint, weights_only=True
        )


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 8, 11])
def test_a_resume_in_another_arrangement_repeats_and_loses_nothing(
    tmp_path: Path, make_shards: MakeShards, stop: int
) -> None:
    """Batch size 4, then 3 with workers, then 2: each epoch still sees its 22 samples once, and
    three epochs are run.
    """
    make_shards(22, 7)
    folder, saved = tmp_path / "shards", [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    runs = [Recorder(), Recorder(), Recorder()]
    options = {"max_epochs": 3}
    trainer(tmp_path, callbacks=[SaveAt(stop, saved[0])], **options).fit(runs[0], module(folder))
    resume = {"weights_only": True}
    second = trainer(tmp_path, callbacks=[SaveAt(stop + 2, saved[1])], **options)
    second.fit(runs[1], module(folder, batch_size=3, num_workers=2), ckpt_path=saved[0], **resume)
    trainer(tmp_path, **options).fit(
        runs[2], module(folder, batch_size=2), ckpt_path=saved[1], **resume
    )
    taken = [
        key
        for batch in (*runs[0].trained[:stop], *runs[1].trained[:2], *runs[2].trained)
        for key in batch
    ]
    every = sorted(f"s{n:04d}" for n in range(22))
    assert [sorted(taken[i : i + 22]) for i in range(0, len(taken), 22)] == [every] * 3


def test_validation_sees_everything_once_each_time(tmp_path: Path, make_shards: MakeShards) -> None:
    make_shards(22, 7)
    model = Recorder()
    data = module(tmp_path / "shards", num_workers=1)
    trainer(tmp_path, limit_val_batches=1.0, num_sanity_val_steps=2).fit(model, data)
    every = [f"s{n:04d}" for n in range(22)]
    assert model.validated == every[:8] + every + every


@pytest.mark.slow
def test_a_finished_run_leaves_no_worker_and_can_go_on(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    make_shards(22, 7)
    data, before = module(tmp_path / "shards", num_workers=2), set(active_children())
    for _ in range(2):
        model = Recorder()
        trainer(tmp_path, max_epochs=1, limit_val_batches=1.0).fit(model, data)
        assert len(model.trained) == 6
        assert set(active_children()) == before


def test_an_abandoned_loader_takes_its_workers_along_at_once(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    """In a cycle, as a trainer's loaders are: the collector finalises their queues first."""
    make_shards(22, 7)
    data, before = module(tmp_path / "shards", num_workers=2), set(active_children())
    data.setup("fit")
    loader: Any = data.train_dataloader()
    next(iter(loader))
    assert len(set(active_children()) - before) == 2
    loader.itself = loader
    del loader, data
    start = time.monotonic()
    gc.collect()
    assert set(active_children()) == before
    assert time.monotonic() - start < 9  # torch waits for ten seconds a worker


def test_a_thread_ends_its_workers_without_an_error_in_the_main_thread(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    """Torch's handler raises there for each worker that is killed, once a loader was used there."""
    make_shards(22, 7)
    before, seen = set(active_children()), []

    def use(times: int) -> None:
        for _ in range(times):
            data = module(tmp_path / "shards", num_workers=2)
            data.setup("fit")
            next(iter(data.train_dataloader()))
            seen.append(len(set(active_children()) - before))
            data.teardown("fit")

    use(1)
    thread = threading.Thread(target=use, args=(3,))
    thread.start()
    while thread.is_alive():
        pass  # at work, and so there when the handler is called
    assert seen == [2] * 4
    assert set(active_children()) == before


def test_a_data_module_begins_anew_in_a_new_run_and_goes_on_when_reloaded(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    make_shards(22, 7)
    data, runs = module(tmp_path / "shards"), [Recorder(), Recorder(), Recorder()]
    for run, reload in zip(runs, (0, 0, 1), strict=True):
        trainer(tmp_path, reload_dataloaders_every_n_epochs=reload).fit(run, data)
    assert runs[0].trained == runs[1].trained == runs[2].trained
    assert len({key for batch in runs[0].trained for key in batch}) == 22


def test_overfitting_sees_the_same_batches_every_epoch(
    tmp_path: Path, make_shards: MakeShards
) -> None:
    make_shards(31)
    recorder = Recorder()
    trainer(tmp_path, max_epochs=3, overfit_batches=2).fit(recorder, module(tmp_path / "shards"))
    first, *later = [recorder.trained[i : i + 2] for i in (0, 2, 4)]
    assert len(set(first)) == 2
    assert later == [first, first]


def test_the_class_count_of_the_index_guards_the_labels(tmp_path: Path) -> None:
    from data_toys import samples

    from lit_iba.data import write_shards

    write_shards(samples(10), tmp_path / "s", class_names=["a", "b", "c"])
    data = module(tmp_path / "s")
    data.setup("fit")
    assert data.class_names == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"classes are 0\.\.2"):
        list(data.train_dataloader())


def test_setup_sees_missing_data_early(tmp_path: Path, make_shards: MakeShards) -> None:
    index = make_shards(22, 7)
    index.shards[2].path.unlink()
    with pytest.raises(InputError, match=r"x-000002\.tar does not exist"):
        module(tmp_path / "shards").setup("fit")
    data = ShardDataModule(val=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        data.setup("validate")
    with pytest.raises(InputError, match="there is no test data"):
        data.test_dataloader()
    assert ShardDataModule().val_dataloader() == []


def test_prediction_keeps_the_order_of_the_files(tmp_path: Path, make_shards: MakeShards) -> None:
    make_shards(22, 7)
    data = ShardDataModule(
        predict=str(tmp_path / "shards"), preprocessing=SMALL, batch_size=4, num_workers=2
    )
    data.setup("predict")
    keys = [key for batch in data.predict_dataloader() for key in batch["key"]]
    assert keys == [f"s{n:04d}" for n in range(22)] + ["", ""]
