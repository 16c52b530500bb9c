"""Packed self-attention against torch's own, and where it must step aside."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import VisionTransformer

from lit_iba import FrozenClassifier
from lit_iba.classifier import Preprocessing
from lit_iba.classifier.packed_attention import PackedAttention
from lit_iba.classifier.packing import PackedLinear, can_pack
from lit_iba.classifier.precision import computes_bfloat16

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch cannot pack weights")


def frozen(**options: bool) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(12, 3, batch_first=True, dropout=0.5, **options)
    nn.init.normal_(made.in_proj_bias) if made.in_proj_bias is not None else None
    return made.eval().requires_grad_(False)


def tokens() -> Tensor:
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_attention_and_its_gradient(bias: bool, precision: str) -> None:
    if precision == "bf16" and not computes_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 arithmetic")
    own = frozen(bias=bias)
    assert PackedAttention.suits(own)
    results = []
    for run in (own, PackedAttention(own)):
        x = tokens().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            y, none = run(x, x, x, need_weights=False)
        assert none is None
        results.append((y, *torch.autograd.grad(y.float().pow(2).sum(), x)))
    for theirs, ours in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        tolerance = 2**-6 if precision == "bf16" else 1e-5
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_it_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    own, x = frozen(), tokens()
    packed = PackedAttention(own)
    with monkeypatch.context() as patch:
        patch.setattr(PackedLinear, "forward", lambda *_: pytest.fail("it was used"))
        assert packed(x, x, x)[1].shape == (2, 7, 7)  # the weights are asked for
        other = torch.randn(2, 7, 12)
        expected = own(x, other, other, need_weights=False)[0]
        assert torch.allclose(packed(x, other, other, need_weights=False)[0], expected)
        mask = torch.ones(7, 7).triu(1).bool()
        masked = packed(x, x, x, attn_mask=mask, need_weights=False)[0]
        assert torch.allclose(masked, own(x, x, x, attn_mask=mask, need_weights=False)[0])
    assert not PackedAttention.suits(nn.MultiheadAttention(12, 3).eval().requires_grad_(False))
    assert not PackedAttention.suits(frozen(add_zero_attn=True))
    assert not PackedAttention.suits(frozen(add_bias_kv=True))
    assert not PackedAttention.suits(frozen().requires_grad_(True))
    assert not PackedAttention.suits(frozen().train())
    hooked = frozen()
    hooked.register_forward_hook(lambda *_: None)
    assert not PackedAttention.suits(hooked)
    normed = frozen()
    weight_norm(normed.out_proj)
    assert not PackedAttention.suits(normed.requires_grad_(False))


def test_weights_that_change_are_noticed() -> None:
    own, x = frozen(), tokens()
    packed = PackedAttention(own)
    for _ in range(2):
        found, expected = (run(x, x, x, need_weights=False)[0] for run in (packed, own))
        assert torch.allclose(found, expected, atol=1e-5)
        own.in_proj_weight.mul_(-2)
        own.out_proj.weight.mul_(3)
    own.in_proj_weight = nn.Parameter(own.in_proj_weight + 1, requires_grad=False)
    again = PackedAttention(own)  # of another cut
    found, expected = (run(x, x, x, need_weights=False)[0] for run in (again, own))
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_frozen_vision_transformer_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[nn.Module] = []
    run = PackedLinear.run
    monkeypatch.setattr(PackedLinear, "run", lambda self, x: used.append(self) or run(self, x))
    network = VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5)
    nn.init.normal_(network.heads.head.weight)
    classifier = FrozenClassifier(network, preprocessing=Preprocessing(crop=32))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected, found = classifier(x), classifier.folded()(x)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert len(used) == 2 * 4 + 1  # both of an attention, both of an MLP, and the head
    gradients = [torch.autograd.grad(y.pow(2).sum(), x)[0] for y in (expected, found)]
    assert torch.allclose(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
