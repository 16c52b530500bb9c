"""Packed convolutions and linear layers against torch's own, in all that they share, and where they
must step aside.
"""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from lit_iba import FrozenClassifier
from lit_iba.classifier import Preprocessing, kept_forms, packing
from lit_iba.classifier.packing import PackedConv2d, PackedLinear, can_pack
from lit_iba.classifier.precision import computes_bfloat16

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch cannot pack weights")


def frozen(*arguments: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*arguments, **options).requires_grad_(False)


def pictures(*shape: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=torch.channels_last)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(8, 13), st.integers(8, 13)),
    bias=st.booleans(),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    batch=st.integers(1, 3),
)
def test_it_is_the_convolution_and_its_gradient(
    kernel, stride, padding, dilation, size, bias, channels, batch
) -> None:
    own = frozen(*channels, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)
    packed = PackedConv2d(own)
    x, again = (pictures(batch, channels[0], *size).requires_grad_() for _ in range(2))
    assert packed._usable(x) == (channels[0] > 1)  # one channel lies in the usual order as well
    expected, found = own(x), packed(again)
    assert found.stride() == expected.stride()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert torch.allclose(again.grad, x.grad, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(packed(again), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
)
def test_it_is_the_linear_layer_and_its_gradient(shape, sizes, bias) -> None:
    own = nn.Linear(*sizes, bias=bias).requires_grad_(False)
    packed = PackedLinear(own)
    x, again = (
        torch.randn(*shape, sizes[0], generator=torch.Generator().manual_seed(1)).requires_grad_()
        for _ in range(2)
    )
    expected, found = own(x), packed(again)
    assert type(found.grad_fn).__name__ == "_LinearBackward"
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    expected.pow(2).sum().backward()
    found.pow(2).sum().backward()
    assert torch.allclose(again.grad, x.grad, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(packed(again), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [PackedConv2d, PackedLinear])
def test_autocast_computes_with_the_weights_that_it_would_have_cast(kind) -> None:
    if not computes_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 arithmetic")
    torch.manual_seed(0)
    own = nn.Linear(30, 20) if kind is PackedLinear else nn.Conv2d(3, 20, 3)
    own.requires_grad_(False)
    given = torch.randn(5, 30) if kind is PackedLinear else pictures(5, 3, 9, 9)
    found = []
    for run in (own, kind(own)):
        x = given.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            y = run(x)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
        found.append((y, *torch.autograd.grad((y * weights).sum(), x)))
    assert "Backward" in type(found[1][0].grad_fn).__name__
    assert [t.dtype for t in found[1]] == [torch.bfloat16, torch.float32]
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=2**-7)
    own.weight.mul_(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(kind(own)(given), own(given), rtol=2**-7, atol=2**-6)


def test_what_is_packed_is_shared_and_goes_with_its_layer() -> None:
    linear = nn.Linear(4, 3).requires_grad_(False)
    for _ in range(2):
        PackedLinear(linear)(torch.randn(2, 4))
    (form,) = kept_forms._forms[linear].values()
    kept = weakref.ref(form[1])
    del form
    assert kept() is not None
    del linear
    gc.collect()
    assert kept() is None


def test_changed_weights_and_other_sizes_are_noticed() -> None:
    own = frozen(4, 6, 3, padding=1)
    packed = PackedConv2d(own)
    with torch.inference_mode():
        packed(pictures(2, 4, 8, 8))
    for size in (8, 11, 8):
        with torch.no_grad():
            own.weight.mul_(-2)
        x = pictures(3, 4, size, size).requires_grad_()
        (found,) = torch.autograd.grad(packed(x).square().sum(), x)
        (expected,) = torch.autograd.grad(own(x).square().sum(), x)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    own.weight.data = own.weight.data.clone() + 1  # as when a model is moved
    assert torch.allclose(packed(x), own(x), rtol=1e-4, atol=1e-4)
    linear = nn.Linear(4, 3).requires_grad_(False)
    rows, again = torch.randn(2, 4), PackedLinear(linear)
    for _ in range(2):
        assert torch.allclose(again(rows), linear(rows), atol=1e-5)
        linear.weight.mul_(-2)


def test_a_change_past_torchs_counter_beside_one_that_is_counted_is_noticed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    classifier = FrozenClassifier(network, preprocessing=Preprocessing(crop=8))
    images = pictures(2, 3, 8, 8)
    classifier.look_at_weights()
    before = classifier.folded()(images)
    network.train()(images)  # the batch norm's statistics
    network[3].weight.data.mul_(-2)  # as many an optimiser does
    classifier.look_at_weights()
    found = classifier.folded()(images)
    assert torch.allclose(found, network.eval()(images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)


LAYERS = [
    (PackedConv2d, frozen(3, 4, 3), pictures(2, 3, 5, 5)),
    (PackedLinear, nn.Linear(5, 4).requires_grad_(False), torch.randn(2, 3, 5)),
]


@pytest.mark.filterwarnings(
    "ignore:.*jit.trace:FutureWarning", "ignore:.*jit.trace:DeprecationWarning"
)
@pytest.mark.parametrize(("kind", "own", "x"), LAYERS)
def test_other_derivatives_and_tracers_get_torchs_own_operations(kind, own, x) -> None:
    packed = kind(own)
    packed(x)
    for run in (
        torch.func.jacrev,
        torch.func.vmap,
        lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1],
    ):
        torch.testing.assert_close(run(packed)(x), run(own)(x))
    with forward_ad.dual_level():
        tangents = [
            forward_ad.unpack_dual(run(forward_ad.make_dual(x, x))) for run in (packed, own)
        ]
        torch.testing.assert_close(tangents[0].tangent, tangents[1].tangent)
    torch.testing.assert_close(torch.jit.trace(packed.eval(), x)(2 * x), own(2 * x))


@pytest.mark.parametrize(("kind", "own", "x"), LAYERS)
def test_what_follows_may_overwrite_the_output(kind, own, x) -> None:
    for part in (x, x[0]):
        found = []
        for run in (kind(own), own):
            images = part.clone(memory_format=torch.preserve_format).requires_grad_()
            y = run(images).mul_(3).relu_()
            found.append(torch.autograd.grad(y.sum(), images)[0])
        torch.testing.assert_close(*found)


@pytest.mark.parametrize(("kind", "own", "x"), LAYERS)
def test_weights_that_change_before_the_gradient_are_refused_as_by_torch(kind, own, x) -> None:
    y = kind(own)(x.clone(memory_format=torch.preserve_format).requires_grad_())
    own.weight.mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_it_is_copied_pickled_and_saved_without_what_is_packed() -> None:
    packed = PackedConv2d(frozen(3, 4, 3))
    x = pictures(1, 3, 8, 8)
    expected = packed(x)
    assert list(packed.state_dict()) == ["convolution.weight", "convolution.bias"]
    for made in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(made(x), expected)
        assert made.convolution.weight.data_ptr() != packed.convolution.weight.data_ptr()


def test_it_can_be_differentiated_twice() -> None:
    convolution = PackedConv2d(frozen(2, 3, 3, stride=2))
    linear = PackedLinear(nn.Linear(7, 5).requires_grad_(False))
    for packed, own in ((convolution, convolution.convolution), (linear, linear.linear)):
        x = pictures(1, 2, 7, 7).requires_grad_()
        (first,) = torch.autograd.grad(packed(x).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        y = x.detach().clone().requires_grad_()
        (one,) = torch.autograd.grad(own(y).pow(3).sum(), y, create_graph=True)
        assert torch.allclose(second, torch.autograd.grad(one.sum(), y)[0], rtol=1e-3, atol=1e-4)


def test_it_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, x = PackedConv2d(frozen(4, 5, 3)), pictures(2, 4, 9, 9)
    expected = packed(x)
    monkeypatch.setattr(packed, "run", lambda *_: pytest.fail("the packed weights were used"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        assert torch.allclose(packed(x), expected, atol=1e-5)
    with monkeypatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(packing, "computes_bfloat16", lambda _device: False)
        assert packed(x).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        packed(x.bfloat16())
    assert torch.allclose(packed(x.contiguous()), expected, atol=1e-5)
    seen: list[Tensor] = []
    handle = packed.convolution.register_forward_hook(lambda _m, _i, output: seen.append(output))
    packed(x)
    handle.remove()
    assert len(seen) == 1
    packed.double()
    assert packed(x.double()).dtype == torch.float64
    assert not PackedConv2d.suits(nn.Conv2d(4, 4, 3, groups=2).requires_grad_(False))
    assert not PackedConv2d.suits(nn.Conv2d(4, 4, 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_its_operations_are_counted(stride: int) -> None:
    convolution = PackedConv2d(frozen(4, 6, 3, stride=stride, padding=1))
    linear = PackedLinear(nn.Linear(9, 5).requires_grad_(False))
    for pair in ((convolution, convolution.convolution), (linear, linear.linear)):
        counts = []
        for run in pair:
            x = pictures(2, 4, 9, 9).requires_grad_()
            with FlopCounterMode(display=False) as counter:
                run(x).sum().backward()
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("network", ["squeezenet1_1", "resnet18"])
def test_a_frozen_classifier_uses_it(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[nn.Module] = []
    run = PackedConv2d.run
    monkeypatch.setattr(PackedConv2d, "run", lambda self, x: used.append(self) or run(self, x))
    classifier = FrozenClassifier(network, "random")
    x = pictures(2, 3, 64, 64).requires_grad_()
    expected, found = classifier(x), classifier.folded()(x)
    assert torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max())
    )
    assert len(used) == sum(isinstance(m, nn.Conv2d) for m in classifier.modules())
    gradients = [
        torch.autograd.grad(F.cross_entropy(y, torch.tensor([1, 2])), x)[0]
        for y in (expected, found)
    ]
    assert torch.allclose(
        gradients[1], gradients[0], rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max())
    )
