"""Self-attention of frozen weights by two packed products, for torch's ``nn.MultiheadAttention``.

Torch's own turns the batch and the tokens round, and then multiplies with a repeated copy of the
weights for each token: a ViT-B/16 took six times as long in bfloat16 as in float32.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lit_iba.classifier.kept_forms import kept_form
from lit_iba.classifier.packing import PackedLinear
from lit_iba.classifier.plain import is_plain, is_plain_tensor


class PackedAttention(nn.Module):
    """Frozen self-attention, equal to it to float rounding, and faster on the CPU.

    Args:
        attention: With weights that need no gradient. Shared, not copied; changed weights are
            noticed.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention
        self.inwards = PackedLinear(_in_projection(attention))
        self.outwards = PackedLinear(attention.out_proj)

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
        """Whether a module is an attention of the kind that can be packed."""
        return (
            is_plain(module, nn.MultiheadAttention)
            and module.batch_first
            and not module.training
            and module.in_proj_weight is not None
            and module.bias_k is None
            and not module.add_zero_attn
            and is_plain(module.out_proj, NonDynamicallyQuantizableLinear)
            and not any(parameter.requires_grad for parameter in module.parameters())
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *more: Any, **asked: Any) -> Any:
        """Tokens (B, N, C) three times to (B, N, C) and None; anything else is torch's."""
        x = query
        if not (
            key is x
            and value is x
            and is_plain_tensor(x)
            and x.ndim == 3
            and x.device.type == "cpu"
            and not more
            and asked == {"need_weights": False}
        ):
            return self.attention(query, key, value, *more, **asked)
        heads = self.inwards(x).unflatten(-1, (3, self.attention.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return self.outwards(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        ), None


def _in_projection(attention: nn.MultiheadAttention) -> nn.Linear:
    """The layer that makes queries, keys and values, on the attention's own parameters."""
    weight, bias, size = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim

    def make() -> nn.Linear:
        made = nn.Linear(size, 3 * size, bias=False, device="meta")
        made.weight, made.bias = weight, bias
        return made

    return kept_form(attention, "in projection", make)
