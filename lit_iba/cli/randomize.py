"""``randomize``: a classifier's weights with its last layers drawn at random."""

from __future__ import annotations

from typing import Any

from lit_iba.errors import InputError

ARGUMENTS = [("out", None, "file for the weights, .safetensors")]


def randomize(
    out: str, layers: int, classifier: dict[str, Any] | None = None, seed: int = 0
) -> None:
    """Write a classifier's weights with its last layers drawn at random, exactly as the sanity
    check draws them.

    For explainers that must be trained for each randomised classifier (VarSal).

    Args:
        out: File for the weights, ``.safetensors``.
        layers: How many layers with weights, from the output down.
        classifier: ``model`` and ``weights``.
        seed: Of the draw; that of the sanity check.
    """
    from lit_iba.classifier.randomization import cascade, randomized
    from lit_iba.classifier.weights import save_weights
    from lit_iba.cli.classifier import classifier_from

    whole = classifier_from(classifier, None, "cpu")
    order = cascade(whole)
    if not 1 <= layers <= len(order):
        raise InputError(
            f"layers is {layers}; {whole.name} has 1 to {len(order)} layers with weights"
        )
    made = randomized(whole, order[:layers], seed=seed)
    settings = {
        "num_classes": whole.num_classes,
        "preprocessing": whole.preprocessing.to_dict(),
        "class_names": list(whole.class_names),
    }
    save_weights(out, made.model.state_dict(), settings)
    print(
        f"wrote {out}: {whole.name} with {layers} of {len(order)} layers random, down to"
        f" {order[layers - 1][0]}"
    )
