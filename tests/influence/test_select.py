import pytest
import torch
from torch import nn

from whence.errors import SettingError
from whence.influence import choose_parameters
from whence.network import Network


class Blocks(nn.Module):
    """A stem, two blocks and a head; the head is declared first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x.mean((2, 3))))


class Normalised(nn.Module):
    """Its last layer has its weight in two parts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def read(model):
    return Network.read(model.eval(), torch.zeros(2, 3, 8, 8))


@pytest.fixture(scope="module")
def network():
    return read(Blocks())


def test_all_parameters_come_in_the_models_order(network):
    assert choose_parameters(network) == tuple(n for n, _ in Blocks().named_parameters())


def test_the_last_layer_is_the_one_that_is_used_last(network):
    assert choose_parameters(network, "last-layer") == ("head.weight", "head.bias")


def test_the_last_layer_is_whole_when_its_weight_is_in_parts():
    assert choose_parameters(read(Normalised()), "last-layer") == (
        "head.bias",
        "head.parametrizations.weight.original0",
        "head.parametrizations.weight.original1",
    )


def test_the_last_block_is_the_one_with_the_last_feature_map_and_what_follows(network):
    from whence.adapters.torchvision import open_torchvision

    blocks = choose_parameters(network, "last-block")
    assert {n for n in blocks if not n.startswith("blocks.1.")} == {
        "head.weight",
        "head.bias",
        "norm.weight",
        "norm.bias",
    }
    models = open_torchvision().models
    resnet = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 2], num_classes=3)
    found = choose_parameters(Network.read(resnet.eval(), torch.zeros(2, 3, 64, 64)), "last-block")
    assert found == tuple(
        n for n, _ in resnet.named_parameters() if n.startswith(("layer4.1.", "fc."))
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("stem.*", ["stem.weight", "stem.bias"]),
        ("norm.*, stem.bias", ["stem.bias", "norm.weight", "norm.bias"]),
        (["head.bias", "stem.weight"], ["head.bias", "stem.weight"]),
        (("*.1.weight",), ["blocks.0.1.weight", "blocks.1.1.weight"]),
    ],
)
def test_patterns_and_names_choose_in_the_models_order(network, choice, expected):
    assert list(choose_parameters(network, choice)) == expected


@pytest.mark.parametrize("choice", ["layer9.*", [], ["nothing"], ""])
def test_a_choice_of_nothing_is_refused_with_examples(network, choice):
    with pytest.raises(SettingError, match=r"No parameter matches .* 'head\.weight' \.\.\. "):
        choose_parameters(network, choice)
