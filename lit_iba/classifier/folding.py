"""Folding batch norms into the convolutions before them, in a copy: the same function with fewer
passes over memory.
"""

from __future__ import annotations

import copy

import torch.fx as fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def graph_module(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs ``graph`` on the very modules, parameters and buffers of ``root``.

    ``fx.GraphModule`` copies the reference to a tensor that the graph reads; a buffer moved to
    another device is a new tensor, which such a copy would not see. Sharing the child module that
    holds it does.
    """
    made = fx.GraphModule(root, graph)
    for node in graph.nodes:
        child, _, rest = str(node.target).partition(".")
        if node.op == "get_attr" and rest:
            setattr(made, child, getattr(root, child))
    return made


def fold_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    """A graph module in which every convolution that only feeds a batch norm has taken it in.

    The convolutions concerned are copied; everything else, the caller's modules above all, is
    shared and unchanged. Exact to float rounding in eval mode.

    Args:
        network: A traced network in eval mode.
    """
    folded = graph_module(network, copy.deepcopy(network.graph))
    for node in list(folded.graph.nodes):
        if node.op != "call_module" or not isinstance(
            folded.get_submodule(node.target), nn.BatchNorm2d
        ):
            continue
        source = node.args[0]
        if source.op != "call_module" or len(source.users) != 1:
            continue
        convolution = folded.get_submodule(source.target)
        batch_norm = folded.get_submodule(node.target)
        if not (isinstance(convolution, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d)):
            continue
        if batch_norm.running_mean is None:
            continue
        fused = fuse_conv_bn_eval(convolution, batch_norm).requires_grad_(False)
        name = f"folded_{node.name}"
        folded.add_submodule(name, fused)
        source.target = name
        node.replace_all_uses_with(source)
        folded.graph.erase_node(node)
    folded.recompile()
    return folded
