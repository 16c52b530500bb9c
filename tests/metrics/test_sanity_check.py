"""The sanity check against brute force, and the randomised copies that it works with."""

import copy

import pytest
import scipy.stats
import torch
import torch.fx
import torchvision
from explainer_toys import Edges, Negated, StoredPictures, shuffled
from metric_toys import SIDE, frozen, sample, slow_ssim
from slim_networks import slim
from torch import nn

from lit_iba import FrozenClassifier, InputError
from lit_iba.classifier.randomization import cascade, randomized
from lit_iba.explainer import build_explainer
from lit_iba.metrics import build_metric
from lit_iba.metrics.judged import Subject
from lit_iba.metrics.sanity_check import rescaled, ssim


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_no_layer_is_randomised_before_one_that_it_feeds(name):
    classifier = FrozenClassifier(slim(name))
    order = cascade(classifier)
    position = {member: i for i, layer in enumerate(order) for member in layer}
    graph = torch.fx.symbolic_trace(classifier.model).graph
    weighted = {
        str(n.target): n for n in graph.nodes if n.op == "call_module" and str(n.target) in position
    }
    holders = {p.rpartition(".")[0] for p, _ in classifier.model.named_parameters()}
    assert set(weighted) == set(position) == holders
    feeds = {}
    for node in reversed(graph.nodes):
        feeds[node] = (
            set().union(*[feeds[user] | {user} for user in node.users]) if node.users else set()
        )
    names = {node: target for target, node in weighted.items()}
    for target, node in weighted.items():
        behind = [names[other] for other in feeds[node] if other in names]
        assert all(position[other] <= position[target] for other in behind), target
    assert order[0] == ["fc"]
    assert all(
        len(layer) == 1 or isinstance(classifier.model.get_submodule(layer[1]), nn.BatchNorm2d)
        for layer in order
    )
    if name == "resnet18":
        assert len(order) == 21
        assert (
            position["layer4.0.downsample.1"]
            == position["layer4.0.downsample.0"]
            < position["layer4.0.conv1"]
        )
        assert position["layer4.1.conv1"] < position["layer4.0.downsample.0"]


def test_cascade_follows_execution_whatever_the_order_of_registration():
    assert cascade(shuffled()) == [
        ["fc"],
        ["second", "second_norm"],
        ["first", "first_norm"],
        ["stem"],
        ["offset", "never.weight", "never.bias"],
    ]


def test_cascade_covers_every_parameter_of_a_transformer():
    network = torchvision.models.VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        num_classes=3,
    )
    torch.nn.init.normal_(network.class_token)  # it and the positions belong to no layer
    classifier = frozen(network, 16)
    order = cascade(classifier)
    made = randomized(classifier, order)
    own = state(classifier.model)
    for name, tensor in made.model.state_dict().items():
        constant = (
            name.endswith("bias") or ".ln" in name or "_proj_bias" in name
        )  # start at 0 or 1 again
        assert constant or not torch.equal(tensor, own[name]), name
    names = [layer[0] for layer in order]
    assert (names[0], names[-3:]) == (
        "heads.head",
        ["encoder.pos_embedding", "conv_proj", "class_token"],
    )


def test_no_hook_stays_behind_when_the_network_fails(monkeypatch):
    classifier = shuffled()
    monkeypatch.setattr(type(classifier.model.fc), "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cascade(classifier)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in classifier.modules()
    )


@pytest.mark.parametrize("initialization", ["own", "xavier"])
def test_a_copy_is_randomised_and_the_users_classifier_is_not(initialization):
    classifier = shuffled()
    before, order = state(classifier.model), cascade(classifier)
    made = randomized(classifier, order[:3], initialization=initialization)
    everything = randomized(made, order[3:], initialization=initialization)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in classifier.model.state_dict().items()
    )
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in classifier.modules()
    )
    assert made.identity == classifier.identity
    found = made.model.state_dict()
    assert (
        found["stem.weight"].data_ptr() == classifier.model.stem.weight.data_ptr()
    )  # shared, not copied
    assert not torch.equal(
        found["first.weight"], found["second.weight"]
    )  # of equal shape, with seeds of their own
    assert not torch.equal(found["first.weight"], before["first.weight"])
    for norm in ("first_norm", "second_norm"):
        assert torch.equal(found[f"{norm}.running_mean"], torch.zeros(6))
        assert torch.equal(found[f"{norm}.running_var"], torch.ones(6))
        assert torch.equal(found[f"{norm}.weight"], torch.ones(6))
    at_once = randomized(classifier, order, initialization=initialization).model.state_dict()
    for name, tensor in everything.model.state_dict().items():
        assert torch.equal(tensor, at_once[name]), name  # a draw depends on the layer's name only
    assert not any(p.requires_grad for p in everything.parameters())
    other = randomized(classifier, order, seed=1, initialization=initialization).model
    assert not torch.equal(other.first.weight, at_once["first.weight"])
    if initialization == "xavier":
        assert float(at_once["first.weight"].abs().max()) <= (6 / (2 * 54)) ** 0.5
        assert not at_once["fc.bias"].any()
    kept = randomized(classifier, order, batch_norm="keep").model.state_dict()
    assert torch.equal(kept["first_norm.running_mean"], before["first_norm.running_mean"])


def subject_of(name, classifier, settings=None, surroundings=None):
    settings = settings or {}
    explainer = build_explainer(name, classifier, settings, surroundings)
    return Subject.named(explainer, name, settings, surroundings)


def checked(subject, batches=(6,), **changes):
    """The metric after judging six images in batches."""
    metric = build_metric("sanity_check", {"points": None} | changes)
    images, targets, _ = sample(6)
    keys = [f"image{i}" for i in range(6)]
    for part in torch.arange(6).split(list(batches)):
        some = [keys[i] for i in part]
        maps = subject.explainer.attribute(images[part], targets[part], keys=some).values
        metric.update(
            subject.explainer.classifier,
            images[part],
            targets[part],
            maps,
            keys=some,
            subject=subject,
        )
    return metric


def test_rows_are_those_of_randomising_and_explaining_by_hand():
    classifier = shuffled()
    rows = checked(subject_of("gradient", classifier), ssim="skimage").rows()
    images, targets, _ = sample(6)
    original = build_explainer("gradient", classifier).attribute(images, targets).values
    network = copy.deepcopy(classifier.model)
    order = cascade(classifier)
    drawn = randomized(classifier, order).model
    for point, names in enumerate(order):
        for name in names:
            if name == "offset":
                network.offset.data = drawn.offset.data
            elif "." not in name:
                getattr(network, name).load_state_dict(getattr(drawn, name).state_dict())
        for i in range(6):
            image = images[i : i + 1].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(network(image)[0, targets[i]], image)
            after, before = gradient.mean(dim=1), original[i : i + 1]
            pairs = [
                (rescaled(before)[0].numpy(), rescaled(sign * after)[0].numpy()) for sign in (1, -1)
            ]
            expected = max(slow_ssim(*pair, 5, True) for pair in pairs)
            assert float(rows["ssim"][i, point + 1]) == pytest.approx(expected, abs=1e-4)
            rank = scipy.stats.spearmanr(before.flatten(), after.flatten()).statistic
            assert float(rows["spearman"][i, point + 1]) == pytest.approx(rank, abs=1e-3)
    assert rows["randomized"].tolist() == [[0, 1, 2, 3, 4, 5]] * 6
    scores = build_metric("sanity_check", {}).scores(rows)
    assert scores["ssim_at_first_point"].equal(rows["ssim"][:, 1])
    assert scores["ssim_at_last_point"].equal(rows["ssim"][:, 5])
    assert (rows["ssim"][:, 0] > 0.9999).all()  # the control: a gradient has no noise of its own


def test_the_control_shows_what_noise_alone_changes_and_counts_in_no_score():
    subject = subject_of("smoothgrad", shuffled(), {"samples": 2, "noise": 0.5, "seed": 3})
    metric = checked(subject)
    other = build_explainer("smoothgrad", shuffled(), {"samples": 2, "noise": 0.5, "seed": 4})
    images, targets, _ = sample(6)
    keys = [f"image{i}" for i in range(6)]
    first, second = (
        explainer.attribute(images, targets, keys=keys).values
        for explainer in (subject.explainer, other)
    )
    expected = ssim(rescaled(first), rescaled(second))
    expected = expected.maximum(ssim(rescaled(first), rescaled(-second)))
    rows, result, without = metric.rows(), metric.compute(), checked(subject, control=False)
    assert rows["ssim"][:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert result.extra["ssim_of_control"] == pytest.approx(float(expected.mean()), abs=1e-4)
    assert result.extra["ssim_of_control"] < 0.9
    assert result.score == pytest.approx(without.compute().score, abs=1e-5)
    assert result.score == pytest.approx(float(rows["ssim"][:, 1:].mean()), abs=1e-5)
    assert without.compute().curves["ssim"]["x"] == [1, 2, 3, 4, 5]
    assert "ssim_of_control" not in without.compute().extra
    assert result.curves["ssim"]["x"][0] == 0


def test_result_does_not_depend_on_batches():
    for name, changes in (("gradient", {}), ("smoothgrad", {"samples": 4})):
        subject = subject_of(name, shuffled(), changes)
        whole, single = checked(subject), checked(subject, [1, 3, 2])
        for row, values in whole.rows().items():
            torch.testing.assert_close(single.rows()[row], values, rtol=1e-4, atol=1e-4)
        assert single.compute().score == pytest.approx(whole.compute().score, abs=1e-4)


def test_what_does_not_depend_on_the_network_fails_and_the_sign_counts_only_when_asked():
    classifier = shuffled()
    edges = Subject(Edges(classifier), lambda c, _: Edges(c))
    assert checked(edges).compute().score == pytest.approx(1, abs=1e-6)
    assert checked(edges).compute().extra["spearman"] == pytest.approx(1, abs=1e-4)
    Negated.trained_weight = classifier.model.fc.weight
    negated = Subject(Negated(classifier), lambda c, _: Negated(c))
    assert checked(negated).compute().score == pytest.approx(1, abs=1e-4)
    assert checked(negated, flip="none").compute().score < 0.2
    assert checked(negated, preset="iba", data_range=1.0).compute().score < 0.2
    Negated.name = "lrp_alpha0_beta1"  # whose sign alone IBA leaves open
    assert checked(negated, preset="iba").compute().score == pytest.approx(1, abs=1e-4)
    del Negated.name
    assert checked(negated).compute().extra["spearman"] == pytest.approx(-1, abs=1e-4)
    gradient = checked(subject_of("gradient", classifier)).compute()
    assert gradient.score < 0.9
    assert gradient.curves["ssim"]["x"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("statistics", ["estimated", "kept"])
def test_feature_statistics_are_estimated_anew_only_where_the_features_differ(statistics):
    classifier, stored = shuffled(), StoredPictures()
    subject = subject_of(
        "per_sample_iba", classifier, {"layer": "first", "steps": 2, "copies": 2}, stored
    )
    assert stored.passes == 1
    metric = checked(subject, statistics=statistics)
    # fc and second lie behind the bottleneck; first, the offset and the stem change what it sees.
    # The control is the trained network's, whose statistics are there.
    assert stored.passes == (1 + 3 if statistics == "estimated" else 1)
    networks = dict(metric._explainers(subject))
    mean = subject.explainer.noise.mean
    assert [torch.equal(networks[n].noise.mean, mean) for n in (1, 2, 3, 4, 5)] == (
        [True, True, False, False, False] if statistics == "estimated" else [True] * 5
    )
    assert networks[2].classifier.split("first").folded_tail is not None


def test_points_and_layers_choose_where_to_look():
    subject = subject_of("gradient", shuffled())
    assert checked(subject, points=2).compute().curves["ssim"]["x"] == [0, 1, 5]
    assert checked(subject, points=99).compute().curves["ssim"]["x"] == [0, 1, 2, 3, 4, 5]
    assert checked(subject, layers=["first", "fc"]).compute().curves["ssim"]["x"] == [0, 1, 3]
    with pytest.raises(InputError, match="did you mean 'second'"):
        checked(subject, layers=["secnd"])
    preset = build_metric("sanity_check", {"preset": "input_iba"})
    assert "features.17" in preset.definition
    assert "Xavier" in preset.definition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssim": "scikit"}, "skimage"),
        ({"batch_norm": "rest"}, "reset"),
        ({"window": 4}, "odd"),
        ({"points": 0}, "points"),
        ({"flip": True}, "signed"),
        ({"data_range": 0}, "data_range"),
    ],
)
def test_settings_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build_metric("sanity_check", changes)
    images, targets, maps = sample(1)
    with pytest.raises(InputError, match="subject"):
        build_metric("sanity_check").update(shuffled(), images, targets, maps)
    assert maps.shape == (1, SIDE, SIDE)


def test_an_image_with_a_map_of_which_nothing_is_left_is_left_out():
    metric = build_metric("sanity_check", {"points": 2, "control": False})
    rows = {name: torch.full((3, 2), 0.25) for name in ("ssim", "spearman", "randomized")}
    rows["ssim"][1, 0] = torch.nan
    result = metric.summarize(rows)
    assert (result.score, result.n) == (0.25, 2)
    assert metric.scores(rows)["score"].isnan().tolist() == [False, True, False]
    assert result.curves["ssim"]["y"] == [0.25, 0.25]
    assert "are left out" in metric.definition


def test_sparse_maps_have_no_similarity_in_the_rows():
    classifier = frozen(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4)))
    images, targets, _ = sample(2)
    heatmaps = torch.zeros(2, SIDE, SIDE)
    heatmaps[:, 0, 0] = 1
    metric = build_metric("sanity_check", {"points": 1, "control": False})
    subject = Subject.named(build_explainer("saliency", classifier), "saliency", {})
    metric.update(classifier, images, targets, heatmaps, subject=subject)
    assert metric.rows()["ssim"].isnan().all()
    assert metric.rows()["spearman"].isfinite().all()
    assert metric.compute().n == 0
