"""Values of a traced graph that are computed from the shape of a tensor."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as fx


def shape_of(node: fx.Node) -> torch.Size | None:
    """Shape of the node's output for a batch of two; None if it is no tensor."""
    return getattr(node.meta.get("tensor_meta"), "shape", None)


def nodes_in(arguments: Any) -> list[fx.Node]:
    """The nodes among arguments, in order and as often as they occur."""
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found


def from_shape(tensor: fx.Node, settings: dict[str, Any]) -> fx.GraphModule | None:
    """From a tensor to settings that are computed from its shape; None where they are computed from
    anything else.
    """
    graph = fx.Graph()
    found = {tensor: graph.placeholder("x")}
    needed, pending = set(), nodes_in(settings)
    while pending:
        node = pending.pop()
        if node is not tensor and node not in needed:
            needed.add(node)
            pending += nodes_in((node.args, node.kwargs))
    if any(shape_of(n) is not None or n.op in ("placeholder", "get_attr") for n in needed):
        return None
    for node in tensor.graph.nodes:  # in order of execution
        if node in needed:
            found[node] = graph.node_copy(node, lambda n: found[n])
    graph.output(fx.map_arg(settings, lambda n: found[n]))
    return fx.GraphModule({}, graph)
