"""What each evaluation command does; the arguments of these functions are the command line's options.

Heavy imports stay inside the functions, so that help and argument errors answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_iba.errors import InputError
from lit_iba.survey_command import survey as survey
from lit_iba.text.commands import text_benchmark as text_benchmark
from lit_iba.text.commands import text_classifier_from, word_statistics_of
from lit_iba.uncertainty_command import uncertainty as uncertainty

if TYPE_CHECKING:
    from lit_iba.classifier import FrozenClassifier

# Arguments without a name of their own, or of several words: name, how many, help.
ARGUMENTS: dict[str, list[tuple[str, str | None, str]]] = {
    "explain": [
        ("images", "*", "photographs to explain, unless texts are given"),
        ("--text", "+", "texts to explain, each in quotes (needs --checkpoint)"),
    ],
    "panels": [("images", "+", "photographs to decompose")],
    "report": [("run", None, "folder of a benchmark")],
    "export": [("checkpoint", None, "checkpoint of a trained explainer")],
    "randomize": [("out", None, "file for the weights, .safetensors")],
    "shards": [
        ("folder", None, "pictures, a folder for each class; CIFAR-10's folder; an .npz; or the word embedded"),
        ("out", None, "where to"),
    ],
}


def explain(
    images: list[str],
    explainer: str | None = None,
    classifier: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    target: str | None = None,
    out: str = "outputs/explain",
    statistics_data: str | list[str] | None = None,
    statistics_images: int = 1000,
    statistics_folder: str | None = None,
    batch_size: int = 8,
    device: str = "auto",
    text: list[str] | None = None,
    text_file: str | None = None,
    checkpoint: str | None = None,
) -> None:
    """Heatmaps of single photographs (PNG, overlay, npy, totals) or of texts (coloured words, HTML, JSON).

    Args:
        images: Photographs.
        explainer: Name of an explainer, or a class path; by default per_sample_iba, and input_iba for texts.
        classifier: ``model`` and ``weights``; a readout's checkpoint knows its own.
        settings: Settings of the explainer, such as ``layer`` and ``beta``, or ``checkpoint``.
        target: Class to explain, by index or name; by default the predicted one of each image or text.
        out: Folder for the results.
        statistics_data: Shards (for texts: reviews) that feature statistics are estimated on, for explainers that need them.
        statistics_images: How many of their images or reviews.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        batch_size: Images or texts that are explained together.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
        text: Texts to explain.
        text_file: A file of texts: one a line, or ``.jsonl`` reviews.
        checkpoint: Of the text classifier, as ``train.py fit`` writes it.
    """
    if text is not None or text_file is not None:
        if images or classifier or isinstance(statistics_data, list):
            raise InputError(
                "texts are explained by themselves: leave out photographs and classifier (give checkpoint), and name one "
                "file or folder of reviews as statistics_data"
            )
        from lit_iba.text.explain_command import explain_texts, gather_texts

        texts = gather_texts(text, text_file)
        statistics = word_statistics_of(statistics_data, statistics_images, statistics_folder or f"{out}/statistics")
        explain_texts(
            texts, explainer or "input_iba", text_classifier_from(checkpoint, device), dict(settings or {}), target, out,
            statistics, batch_size,
        )  # fmt: skip
        return
    if not images:
        raise InputError("there is nothing to explain: give photographs, or texts as --text or --text_file")
    from lit_iba.explain_command import explain_photographs

    explain_photographs(
        images, explainer or "per_sample_iba", classifier_from(classifier, settings, device), dict(settings or {}), target,
        out, statistics_data, statistics_images, statistics_folder, batch_size,
    )  # fmt: skip


def panels(
    images: list[str],
    classifier: dict[str, Any] | None = None,
    target: str | None = None,
    layers: list[str] | None = None,
    biases: bool = True,
    out: str = "outputs/panels",
    device: str = "auto",
) -> None:
    """Activity and bias attributions of every layer with their sums, a PNG a photograph, and all sums as JSON.

    Args:
        images: Photographs.
        classifier: ``model`` and ``weights``.
        target: Class to decompose, by index or name; by default the predicted one of each image.
        layers: The network's layers; by default they are found.
        biases: Whether to draw the bias attributions too.
        out: Folder for the results.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    from lit_iba.panels_command import panels_of_photographs

    panels_of_photographs(images, classifier_from(classifier, None, device), target, layers, biases, out)


def benchmark(
    data: str | list[str],
    explainers: dict[str, dict[str, Any]],
    metrics: dict[str, dict[str, Any]],
    out: str,
    classifier: dict[str, Any] | None = None,
    batch_size: int = 16,
    max_images: int | None = None,
    max_box_fraction: float | None = None,
    target: str = "label",
    gallery: int = 12,
    panels: int = 0,
    statistics_data: str | list[str] | None = None,
    statistics_images: int = 1000,
    statistics_folder: str | None = None,
    seed: int = 0,
    fresh: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: bool = True,
) -> None:
    """Explain a data set and judge the heatmaps; started again, it does only what is missing.

    Args:
        data: Shards to evaluate: a folder with an index, tars or a pattern.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an alias.
        metrics: Settings by name; likewise with ``metric: NAME``.
        out: Folder of the run.
        classifier: ``model`` and ``weights``.
        batch_size: Images that are explained together.
        max_images: At most so many images.
        max_box_fraction: Only images whose boxes cover less than this share of the picture.
        target: ``"label"`` or ``"predicted"``.
        gallery: Pictures kept for the report.
        panels: Of so many of them, the class score's decomposition by layers is drawn (Grabska-Barwinska, figures 2 and 4).
        statistics_data: Shards that feature statistics are estimated on.
        statistics_images: How many of their images.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        seed: Of the draw of images where ``max_images`` leaves a choice.
        fresh: Whether to delete what an earlier run left in ``out``.
        accelerator: As in ``lightning.Trainer``.
        devices: Processes a machine.
        num_nodes: Machines.
        report: Whether to write the report at the end.
    """
    from lightning import Fabric

    from lit_iba.evaluation import Benchmark
    from lit_iba.report import write_report

    strategy = "ddp" if devices * num_nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    fabric.launch()
    run = Benchmark(
        classifier_from(classifier, None, "cpu"), data, explainers, metrics, out, batch_size=batch_size,
        max_images=max_images, max_box_fraction=max_box_fraction, target=target, gallery=gallery,
        panels=panels,
        statistics_data=statistics_data, statistics_images=statistics_images, statistics_folder=statistics_folder,
        seed=seed, fresh=fresh,
    )  # fmt: skip
    run.run(fabric)
    if report and fabric.is_global_zero:
        for path in write_report(run.out):
            print(f"wrote {path}")


def roar(
    train: str | list[str],
    test: str | list[str],
    explainers: dict[str, dict[str, Any]],
    out: str,
    classifier: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    percents: list[float] = [10, 30, 50, 70, 90],  # noqa: B006 - never changed
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    size: int = 32,
    batch_size: int = 64,
    max_train: int | None = None,
    max_test: int | None = None,
    target: str = "predicted",
    statistics_images: int = 1000,
    gallery: int = 12,
    fresh: bool = False,
    accelerator: str = "auto",
    report: bool = True,
) -> None:
    """Remove the pixels that methods find relevant and retrain; started again, it does only what is missing.

    Args:
        train: Shards of training pictures.
        test: Shards of test pictures.
        explainers: Settings by name; another name with ``explainer: NAME`` among the settings is an alias.
        out: Folder of the run.
        classifier: ``model`` and ``weights`` of the network that is explained; without it, one is trained by the recipe.
        recipe: ``network``, ``epochs``, ``batch_size``, ``learning_rate``, ``weight_decay``, ``decay_every``, ``decay``,
            ``validation_fraction``, ``augment``.
        percents: How much is removed, in percent of the pixels.
        seeds: A network is trained for each.
        size: Side of the pictures, where no classifier says it.
        batch_size: Pictures explained together.
        max_train: At most so many training pictures.
        max_test: At most so many test pictures.
        target: ``"predicted"`` or ``"label"``, whose shape in test pictures the retrained network can read.
        statistics_images: How many training pictures feature statistics are estimated from.
        gallery: Test pictures kept for the report.
        fresh: Whether to delete what an earlier run left in ``out``.
        accelerator: As in ``lightning.Trainer``; one device.
        report: Whether to write the report at the end.
    """
    from lightning import Fabric

    from lit_iba.evaluation.roar import Roar
    from lit_iba.report import write_report

    run = Roar(
        train, test, explainers, out, classifier=None if classifier is None else classifier_from(classifier, None, "cpu"),
        recipe=recipe, percents=percents, seeds=seeds, size=size, batch_size=batch_size, max_train=max_train,
        max_test=max_test, target=target, statistics_images=statistics_images, gallery=gallery, fresh=fresh,
    )  # fmt: skip
    run.run(Fabric(accelerator=accelerator, devices=1))
    if report:
        for path in write_report(run.out):
            print(f"wrote {path}")


def randomize(out: str, layers: int, classifier: dict[str, Any] | None = None, seed: int = 0) -> None:
    """Write a classifier's weights with its last layers drawn anew, exactly as the sanity check draws them.

    For explainers that must be trained for each randomised classifier (VarSal).

    Args:
        out: File for the weights, ``.safetensors``.
        layers: How many layers with weights, from the output down.
        classifier: ``model`` and ``weights``.
        seed: Of the draw; that of the sanity check.
    """
    from lit_iba.classifier.randomization import cascade, randomized
    from lit_iba.classifier.weights import save_weights

    whole = classifier_from(classifier, None, "cpu")
    order = cascade(whole)
    if not 1 <= layers <= len(order):
        raise InputError(f"layers is {layers}; {whole.name} has 1 to {len(order)} layers with weights")
    made = randomized(whole, order[:layers], seed=seed)
    settings = {
        "num_classes": whole.num_classes,
        "preprocessing": whole.preprocessing.to_dict(),
        "class_names": list(whole.class_names),
    }
    save_weights(out, made.model.state_dict(), settings)
    print(f"wrote {out}: {whole.name} with {layers} of {len(order)} layers random, down to {order[layers - 1][0]}")


def report(run: str, title: str | None = None) -> None:
    """A self-contained HTML page, Markdown and LaTeX tables of a benchmark's folder.

    Args:
        run: Folder of a benchmark.
        title: Heading of the page.
    """
    from pathlib import Path

    from lit_iba.report import write_report

    for path in write_report(Path(run), title):
        print(f"wrote {path}")


def export(
    checkpoint: str,
    format: list[str] | str = "all",
    out: str | None = None,
    classifier: dict[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """A trained explainer as programs that need no lit_iba: .pt2, ONNX, and its weights as safetensors.

    Args:
        checkpoint: Checkpoint of a trained explainer.
        format: ``pt2``, ``onnx``, ``safetensors``, a list of them, or ``all``.
        out: Folder for the files; by default ``export`` beside the checkpoint.
        classifier: ``model`` and ``weights``, where the checkpoint's own record does not fit any more.
        tolerance: Largest relative error of an exported program against the explainer.
    """
    from pathlib import Path

    from lit_iba.export import FORMATS, export_checkpoint

    formats = list(FORMATS) if format == "all" else [format] if isinstance(format, str) else format
    folder = Path(out) if out else Path(checkpoint).parent / "export"
    given = None if classifier is None else classifier_from(classifier, None, "cpu")
    export_checkpoint(Path(checkpoint), folder, formats, classifier=given, tolerance=tolerance)
    print(f"wrote {folder}")


def shards(
    folder: str,
    out: str,
    boxes: str | None = None,
    shard_size: int = 1000,
    class_names: list[str] | None = None,
    prefix: str = "shard",
    seed: int = 0,
) -> None:
    """Write shards from a folder of pictures (``folder/<class>/*.jpg``), CIFAR-10, arrays, or the embedded data.

    Args:
        folder: Pictures, a folder for each class; a folder with ``cifar-10-batches-py`` in it (as torchvision keeps
            CIFAR-10), or an ``.npz`` with x_train, y_train, x_test, y_test, both to ``out/train`` and ``out/test``; or the
            word ``embedded`` for the embedded digits.
        out: Where the shards go.
        boxes: Pascal VOC files in a folder, or a CSV file with the columns filename,xmin,ymin,xmax,ymax.
        shard_size: Pictures a shard.
        class_names: Names of the class folders in the order of their labels; by default they are sorted.
        prefix: How shard names begin.
        seed: Seeds the order.
    """
    from lit_iba.data.import_arrays import is_arrays, shards_from_arrays
    from lit_iba.data.import_folder import shards_from_folder, shards_from_quickstart

    if is_arrays(folder):
        found = shards_from_arrays(folder, out, shard_size, class_names, seed=seed)
        written = {f"{out}/{split}": index for split, index in found.items()}
    elif folder == "embedded":
        written = {f"{out}/{split}": index for split, index in shards_from_quickstart(out).items()}
    else:
        index = shards_from_folder(folder, out, boxes, shard_size, class_names, prefix=prefix, seed=seed)
        written = {out: index}
    for place, index in written.items():
        print(f"{place}: {index.total} samples in {len(index.shards)} shards")


def classifier_from(record: dict[str, Any] | None, settings: dict[str, Any] | None, device: str) -> FrozenClassifier:
    """The classifier that a command names, or the one that a checkpoint among the settings was trained for."""
    import torch

    from lit_iba.classifier import FrozenClassifier
    from lit_iba.training.checkpoint import classifier_of, read_checkpoint

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if record is None:
        checkpoint = (settings or {}).get("checkpoint")
        if checkpoint is None:
            raise InputError(
                "name the classifier: --classifier.model resnet50 --classifier.weights DEFAULT (or a file)"
            )
        return classifier_of(read_checkpoint(checkpoint), checkpoint).to(device)
    try:
        return FrozenClassifier(**record).to(device)
    except TypeError as error:
        raise InputError(
            f"classifier {record}: {error}; it takes model, weights, num_classes, preprocessing"
        ) from error
