"""Networks that compute with the sizes of their images: a state of an LSTM, embeddings of
positions, the size that a feature map is enlarged to.
"""

import pytest
import torch
import torch.nn.functional as F
from test_contract import frozen, iba, images
from torch import Tensor, nn

from lit_iba.classifier import repeat_carried, usual_layer


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(6, 6, 1)
        self.lstm, self.places = nn.LSTM(24, 6, batch_first=True), nn.Embedding(16, 6)
        self.start = nn.Parameter(torch.randn(1, 1, 6))
        self.fc = nn.Linear(6, 4)


class StateOfZeros(_Net):
    def forward(self, images: Tensor) -> Tensor:
        state = torch.zeros(1, images.size(0), 6).to(images.device)
        x = self.second(self.first(images)).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.lstm(x, (state, torch.zeros_like(state)))[0][:, -1])


class NewState(_Net):
    def forward(self, images: Tensor) -> Tensor:
        state = images.new_zeros(1, images.shape[0], 6)
        x = self.second(self.first(images)).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.lstm(x, (state, state))[0][:, -1])


class Places(_Net):
    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        places = self.places(torch.arange(x.size(2) * x.size(3), device=x.device))
        return self.fc((self.second(x).flatten(2).transpose(1, 2) + places).relu().mean(1))


class StartToken(_Net):
    def forward(self, images: Tensor) -> Tensor:
        start = self.start.repeat(images.size(0), 1, 1).to(images.dtype)
        x = self.second(self.first(images)).flatten(2).transpose(1, 2)
        x = torch.cat([start, x], dim=1)
        return self.fc((x + (x @ x.transpose(1, 2)).softmax(-1) @ x)[:, 0])


class Enlarged(_Net):
    def forward(self, images: Tensor) -> Tensor:
        height, width = images.size(2), images.size(dim=3)
        x = F.interpolate(self.second(self.first(images)), (height, width))
        return self.fc(F.pad(x, (1, 1, 1, 1)).square().mean((2, 3)))


@pytest.mark.parametrize("kind", [StateOfZeros, NewState, Places, StartToken, Enlarged])
def test_what_sizes_decide_is_made_again_behind_the_cut(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    classifier = frozen(kind())
    assert not {"size", "size_1", "getattr", "getattr_1"} & set(classifier.layers())
    for layer in ("first", "second"):
        split = classifier.split(layer)
        with torch.no_grad():
            r, carried = split.head(images(3))
            found = split.tail(r.repeat(2, 1, 1, 1), repeat_carried(carried, 2))
        torch.testing.assert_close(found, classifier(images(3)).repeat(2, 1))
    assert usual_layer(classifier) in ("first", "second")
    explainer = iba(classifier, "first")
    both = explainer.attribute(images(), torch.tensor([1, 2])).values
    alone = [explainer.attribute(images()[i : i + 1], i + 1).values for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), both)
