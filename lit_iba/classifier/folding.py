"""Folding batch norms into the convolutions before them, in a copy: the same function with fewer
passes over memory.
"""

from __future__ import annotations

import copy
import inspect

import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lit_iba.classifier.plain import has_plain_weights, kind_of, plain_copy


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
    """A graph module in which every convolution that only feeds a batch norm, a module or a call of
    ``F.batch_norm``, has taken it in.

    The convolutions concerned are copied; everything else, the caller's modules above all, is
    shared and unchanged. Exact to float rounding in eval mode. What hooks or a ``forward`` of its
    own may change is left as it is.

    Args:
        network: A traced network in eval mode.
    """
    folded = graph_module(network, copy.deepcopy(network.graph))
    for node in list(folded.graph.nodes):
        batch_norm = _batch_norm(folded, node)
        source = node.args[0] if node.args else None
        if batch_norm is None or not isinstance(source, fx.Node):
            continue
        if source.op != "call_module" or len(source.users) != 1:
            continue
        convolution = folded.get_submodule(str(source.target))
        if kind_of(convolution) is not nn.Conv2d or not has_plain_weights(convolution):
            continue
        fused = fuse_conv_bn_eval(plain_copy(convolution), batch_norm).requires_grad_(False)
        name = f"folded_{node.name}"
        folded.add_submodule(name, fused)
        source.target = name
        node.replace_all_uses_with(source)
        read = [other for other in node.all_input_nodes if other.op == "get_attr"]
        folded.graph.erase_node(node)
        for tensor in read:
            if not tensor.users:
                folded.graph.erase_node(tensor)
    folded.recompile()
    return folded


def _batch_norm(network: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d | None:
    """The batch norm that a node is, if it has statistics and is nothing more; else None."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        known = kind_of(module) is nn.BatchNorm2d and module.running_mean is not None
        return plain_copy(module) if known and not module.training else None
    return called_batch_norm(network, node)


def called_batch_norm(root: nn.Module, node: fx.Node) -> nn.BatchNorm2d | None:
    """A module, in eval mode and on the same tensors, for a call of ``F.batch_norm`` on statistics
    that are kept; None for any other node.

    Networks of timm call it so: their batch norm and its activation are one module.

    Args:
        root: What the graph of the node reads its tensors from.
        node: A node of a traced network.
    """
    if node.op != "call_function" or node.target is not F.batch_norm:
        return None
    given = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    tensors: dict[str, Tensor | None] = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = given.arguments[name]
        if value is not None and not (isinstance(value, fx.Node) and value.op == "get_attr"):
            return None  # computed by the network
        tensors[name] = None if value is None else _tensor(root, str(value.target))
    mean = tensors["running_mean"]
    if mean is None or given.arguments["training"]:
        return None
    norm = nn.BatchNorm2d(len(mean), eps=given.arguments["eps"], device="meta").eval()
    norm.num_batches_tracked = None
    for name, tensor in tensors.items():
        if name in norm._parameters:
            kept = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            norm.register_parameter(name, kept)
        else:
            norm.register_buffer(name, tensor)
    return norm


def _tensor(root: nn.Module, path: str) -> Tensor:
    parent, _, name = path.rpartition(".")
    found: Tensor = getattr(root.get_submodule(parent), name)
    return found
