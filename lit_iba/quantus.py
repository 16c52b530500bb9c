"""Our explainers as the ``explain_func`` of Quantus' metrics; Quantus itself is not needed here.

Quantus calls ``explain_func(model=..., inputs=..., targets=..., **explain_func_kwargs)`` with numpy
arrays and takes back a numpy array with the inputs' number of dimensions
(https://quantus.readthedocs.io).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer


def quantus_explain_func(
    explainer: Explainer | Callable[[FrozenClassifier], Explainer],
) -> Callable[..., np.ndarray]:
    """A function that Quantus' metrics take as ``explain_func``.

    Args:
        explainer: The explainer; or, for metrics that change the network (MPRT randomises a copy of
            it), a function that builds one for the network at hand:
            ``lambda classifier: build_explainer("grad_cam", classifier)``.

    Returns:
        ``explain_func(model, inputs, targets, **kwargs)``: heatmaps as float (B, 1, H, W).
        ``kwargs`` may hold Quantus' own ``device``, which is not looked at: the network's device
        counts.

    Raises:
        InputError: When called: ``model`` is not the network of the explainer, or there are other
            ``kwargs``.
    """

    def explain_func(model: nn.Module, inputs: Any, targets: Any, **kwargs: Any) -> np.ndarray:
        if kwargs.keys() - {"device"}:
            raise InputError(
                f"explain_func takes no settings, but got {sorted(kwargs)}; give them to the "
                "explainer"
            )
        if not isinstance(explainer, Explainer):
            chosen = explainer(_frozen(model))
        elif explainer.classifier.stands_for(model):
            chosen = explainer
        else:
            raise InputError(
                f"Quantus asks about another network ({type(model).__name__}) than "
                f"{explainer.name!r} was built for; give quantus_explain_func a function from a "
                "classifier to an explainer"
            )
        parameter = next(chosen.classifier.parameters(), torch.zeros(()))
        images = torch.as_tensor(inputs).to(parameter.device, parameter.dtype)
        heatmaps = chosen.attribute(images, torch.as_tensor(targets))
        return heatmaps.values.cpu().numpy()[:, None]

    return explain_func


def _frozen(model: nn.Module) -> FrozenClassifier:
    """A classifier of the network as it is now: Quantus changes a copy, whose old identity does not
    hold any more.
    """
    if isinstance(model, FrozenClassifier):
        return FrozenClassifier(
            model.model,
            preprocessing=model.preprocessing,
            class_names=model.class_names,
            objective=model.objective,
        )
    return FrozenClassifier(model)
