"""Networks as people have them: in half precision, compiled, wrapped, scripted, shared by threads,
pickled, explained in inference mode, with modules that run twice or write into what they are given.
"""

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from test_contract import Net, frozen, images, made, net
from torch import Tensor, nn

from lit_iba import InputError, build_explainer
from lit_iba.explainer import Explainer


class WritesIntoImages(Net):
    """In place on the images themselves, and on a view of what a layer gives."""

    def forward(self, images: Tensor) -> Tensor:
        images.sub_(0.3)
        x = self.norm(self.first(images))
        x.flatten(2).clamp_(min=0)
        return self.fc(self.second(x).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "name", ["saliency", "integrated_gradients", "occlusion_8", "grad_cam", "per_sample_iba"]
)
def test_a_network_does_not_write_into_the_callers_images(name: str) -> None:
    torch.manual_seed(0)
    classifier, given = frozen(WritesIntoImages()), images()
    explainer = made(name, classifier)
    first = explainer.attribute(given, 1).values
    assert torch.equal(given, images())
    with torch.no_grad():
        classifier(given)
    assert torch.equal(given, images())
    torch.testing.assert_close(explainer.attribute(given, 1).values, first)


@pytest.mark.parametrize("layer", ["first", "norm", "second"])
def test_a_cut_survives_what_writes_into_a_view_of_it(layer: str) -> None:
    torch.manual_seed(0)
    classifier = frozen(WritesIntoImages())
    split = classifier.split(layer)
    with torch.no_grad():
        r, carried = split.head(images())
        before, wanted = r.clone(), classifier(images())
        for _ in range(2):
            torch.testing.assert_close(split.tail(r, carried), wanted)
            torch.testing.assert_close(split.folded_tail(r, carried), wanted)
        assert torch.equal(r, before)


class RunsTwice(Net):
    """The second convolution of a kind runs twice, and a branch on values keeps torch.fx out."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(images)))
        x = self.again(x) if float(x.detach().abs().max()) >= 0 else x
        x = self.relu(self.again(x))
        return self.fc(self.second(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("layer", ["again", "relu"])
def test_a_module_that_runs_twice_is_cut_behind_its_last_run(layer: str) -> None:
    torch.manual_seed(0)
    classifier = frozen(RunsTwice())
    split = classifier.split(layer, taps=[layer])
    with torch.no_grad():
        (r, carried), wanted = split.head(images()), classifier(images())
        torch.testing.assert_close(split.tail(r, carried), wanted)
        assert torch.equal(r, split.observe(images())[2][layer])
        assert torch.equal(r, classifier.taps([layer])(images())[layer])


# How a network is given.


def scripted(model: nn.Module) -> nn.Module:
    return torch.jit.script(model.eval())


def parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(
        model
    ).cpu()  # it takes the network to an accelerator, where there is one


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("wrap", [torch.compile, parallel, scripted])
@pytest.mark.parametrize("name", ["per_sample_iba", "saliency", "lrp_epsilon"])
def test_a_wrapped_network_is_explained_or_refused(
    wrap: Callable[[nn.Module], nn.Module], name: str
) -> None:
    class Plain(Net):
        def forward(self, images: Tensor) -> Tensor:
            x = self.relu(self.norm(self.first(images)))
            return self.fc(self.relu(self.second(x)).mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Plain()
    wanted = made(name, frozen(model)).attribute(images(), 1).values
    classifier = frozen(wrap(model))
    assert classifier.name == "Plain"
    if wrap is scripted and name != "saliency":
        with pytest.raises(InputError, match=r"is scripted|cannot be traced"):
            made(name, classifier)
    else:
        torch.testing.assert_close(made(name, classifier).attribute(images(), 1).values, wanted)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("per_sample_iba", torch.float16),
        ("smoothgrad", torch.bfloat16),
        ("per_sample_iba", torch.float64),
        ("extremal_perturbation", torch.float64),
    ],
)
def test_a_network_of_another_precision_is_explained(name: str, dtype: torch.dtype) -> None:
    settings = {"smoothgrad": {"samples": 2}, "extremal_perturbation": {"steps": 2}}
    model = net().to(dtype)
    classifier = frozen(model)
    explainer = (
        made(name, classifier)
        if name == "per_sample_iba"
        else build_explainer(name, classifier, settings.get(name, {}))
    )
    before = explainer.attribute(images(), 1).values
    assert torch.isfinite(before).all()
    assert model.fc.weight.dtype == dtype
    with torch.no_grad():
        model.first.weight.mul_(-1)
    with torch.no_grad():
        wanted = frozen(copy.deepcopy(model))(images().to(classifier.dtype))
        torch.testing.assert_close(classifier(images().to(classifier.dtype)), wanted)


EXPLAINERS = ("per_sample_iba", "grad_cam", "guided_grad_cam", "activity", "fullgrad", "captum")


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_works_in_inference_mode_and_can_be_copied_and_pickled(name: str) -> None:
    settings = {"method": "Saliency"} if name == "captum" else {}
    classifier = frozen(net())
    explainer = build_explainer(name, classifier, settings) if settings else made(name, classifier)
    wanted = explainer.attribute(images(), torch.tensor([1, 2])).values
    with torch.inference_mode():
        found = explainer.attribute(images(), torch.tensor([1, 2])).values
        torch.testing.assert_close(found, wanted)
        type(explainer)(*explainer._given[0], **explainer._given[1]).attribute(images(), 1)
    for other in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        torch.testing.assert_close(other.attribute(images(), torch.tensor([1, 2])).values, wanted)


@pytest.mark.parametrize("name", ["per_sample_iba", "guided_grad_cam", "activity"])
def test_threads_share_an_explainer(name: str) -> None:
    torch.manual_seed(0)
    classifier = frozen(RunsTwice()) if name == "per_sample_iba" else frozen(net())
    shared = made(name, classifier)
    other = build_explainer("saliency", classifier)
    batches = [images() + i for i in range(3)]
    wanted = [made(name, frozen(copy.deepcopy(classifier.model))).attribute(b, 1) for b in batches]
    plain = classifier(batches[0])
    errors: list[object] = []

    def work(explainer: Explainer, batch: Tensor, expected: Tensor | None) -> None:
        try:
            for _ in range(4):
                found = explainer.attribute(batch, 1).values
                if expected is not None:
                    torch.testing.assert_close(found, expected)
                # Where another thread has put its hooks, the network is still the network.
                torch.testing.assert_close(classifier(batches[0]), plain)
        except Exception as error:
            errors.append(error)

    jobs = [(shared, b, w.values) for b, w in zip(batches, wanted, strict=True)]
    threads = [
        threading.Thread(target=work, args=job) for job in [*jobs, (other, batches[0], None)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_tracing_leaves_other_threads_alone() -> None:
    stop, errors = threading.Event(), []
    torch.manual_seed(0)
    running = net().eval()

    def run() -> None:
        while not stop.is_set():
            try:
                running(images())
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(20):
        assert "norm" in frozen(net()).layers()
    stop.set()
    thread.join()
    assert not errors, errors[0]
