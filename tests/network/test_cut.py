"""Cutting: named places, the default place, and what is refused."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.errors import SettingError
from whence.network import Network
from whence.network.read import MOST_MADE


class Residual(nn.Module):
    """Two blocks with a skip, a functional ReLU and a linear head."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 6, 3, 2, 1)
            self.block = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(inplace=True))
            self.down = nn.Conv2d(6, 8, 3, 2, 1)
            self.head = nn.Linear(8, 4)
        self.eval()

    def forward(self, images):
        maps = functional.relu(self.stem(images))
        maps = maps + self.block(maps)
        maps = functional.relu_(self.down(maps))
        return self.head(maps.mean((2, 3)))


class Transformer(nn.Module):
    """Patches, ``prefix`` extra tokens, blocks of attention, and a head on what is asked for."""

    def __init__(self, prefix, reads):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.extra = nn.Parameter(torch.randn(1, prefix, 16))
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.head = nn.Linear(16, 4)
            self.scale = nn.Parameter(torch.tensor(2.0))
        self.prefix, self.reads = prefix, reads
        self.eval()

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra.expand(images.shape[0], -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        kept = tokens[:, 0] if self.reads == "class token" else tokens[:, self.prefix :].mean(1)
        return self.head(kept) * self.scale


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU())

    def forward(self, tokens):
        query, key, value = self.mix(tokens).chunk(3, -1)
        tokens = tokens + functional.scaled_dot_product_attention(query, key, value)
        return tokens + self.mlp(tokens)


def images_like(height=16, width=16):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(5))


def read(model, **size):
    return Network.read(model, images_like(**size))


@pytest.mark.parametrize("where", ["stem", "block.0", "block", "relu", "conv2d_1", "down", "add"])
def test_any_named_place_composes_to_the_network_to_the_bit(where):
    network = read(Residual())
    cut, images = network.cut(where), images_like()
    assert torch.equal(cut.tail(*cut.head(images)), network(images))
    assert torch.equal(cut.tail(*cut.head(images[:1])), network(images[:1]))


def test_beside_the_activation_what_else_the_tail_needs_passes_the_cut():
    network, images = read(Residual()), images_like()
    cut = network.cut("block.0")
    values = cut.head(images)
    assert [v.shape[1:] for v in values] == [(6, 8, 8), (6, 8, 8)]
    model = Residual()
    expected = model.block[0](functional.relu(model.stem(images)))
    assert torch.equal(values[0], expected)


def test_a_module_means_its_last_operation():
    network = read(Residual())
    cut = network.cut("block")
    assert cut.path == "block.1"
    model, images = Residual(), images_like()
    expected = model.block(functional.relu(model.stem(images)))
    assert torch.equal(cut.head(images)[0], expected)


def test_a_node_is_found_by_the_name_in_the_description():
    network = read(Residual())
    row = next(r for r in network.describe().rows if r.path == "down" and r.operation == "conv2d")
    assert network.cut(row.node).path == "down"


def test_by_default_the_last_map_that_everything_passes_through_is_taken():
    cut = read(Residual()).cut()
    assert (cut.plane.kind, cut.plane.height, cut.plane.width) == ("bchw", 4, 4)
    assert cut.node.startswith("relu")
    assert cut.head(images_like())[0].shape == (2, 8, 4, 4)


def test_the_default_place_is_found_in_inference_mode():
    images = torch.rand(2, 3, 16, 16)
    network = Network.read(Residual(), images)
    with torch.inference_mode():
        found = network.cut()
    assert found.node == Network.read(Residual(), images).cut().node


def test_maps_of_images_that_are_not_square():
    cut = read(Residual(), height=16, width=24).cut()
    assert (cut.plane.height, cut.plane.width) == (4, 6)


@pytest.mark.parametrize(
    ("prefix", "reads", "path"),
    [
        (0, "class token", "blocks.1"),  # the first patch stands in for it
        (1, "class token", "blocks.1"),
        (4, "class token", "blocks.1"),
        (4, "patches", ""),
    ],
)
def test_extra_tokens_are_dropped_and_every_patch_keeps_its_gradient(prefix, reads, path):
    network = read(Transformer(prefix, reads), height=16, width=24)
    cut, images = network.cut(), images_like(16, 24)
    assert cut.path == path
    assert (cut.plane.kind, cut.plane.height, cut.plane.width) == ("tokens", 4, 6)
    first, *rest = cut.head(images)
    assert cut.plane.prefix == first.shape[1] - 24
    leaf = first.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cut.tail(leaf, *rest)[:, 0].sum(), leaf)
    assert bool(cut.maps(gradient).abs().sum(1).all())


def test_token_maps_keep_rows_and_columns_in_place():
    network = read(Transformer(2, "patches"), height=16, width=24)
    cut, images = network.cut("cat"), images_like(16, 24)
    maps = cut.maps(cut.head(images)[0])
    torch.testing.assert_close(maps, Transformer(2, "patches").patches(images))


def test_a_channels_last_map_is_turned():
    class Turned(Residual):
        def forward(self, images):
            maps = functional.relu(self.stem(images)).permute(0, 2, 3, 1)
            maps = functional.layer_norm(maps, (6,)).relu()
            return self.head(functional.pad(maps.mean((1, 2)), (0, 2)))

    network, images = read(Turned(), height=16, width=24), images_like(16, 24)
    cut = network.cut()
    assert (cut.plane.kind, cut.plane.height, cut.plane.width) == ("bhwc", 8, 12)
    assert torch.equal(cut.maps(cut.head(images)[0]), cut.head(images)[0].permute(0, 3, 1, 2))


def test_the_default_cut_is_found_though_the_head_was_initialised_with_zeros():
    model = Residual()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    assert read(model).cut().plane.height == 4


def test_later_training_shows_in_head_and_tail():
    model, images = Residual(), images_like()
    network = Network.read(model, images)
    cut = network.cut()
    with torch.no_grad():
        model.stem.weight.mul_(2)
        model.head.bias.add_(1)
    assert torch.equal(cut.tail(*cut.head(images)), model(images))


def test_an_unknown_place_is_refused_with_the_modules_that_there_are():
    with pytest.raises(
        SettingError, match=r"no node or module 'layer4'. Modules: block.0, block.1"
    ):
        read(Residual()).cut("layer4")


@pytest.mark.parametrize("where", ["head", "mean"])
def test_a_place_without_an_image_plane_is_refused_with_its_shape(where):
    with pytest.raises(SettingError, match=r"shape \(b, [48]\), which holds no image plane"):
        read(Residual()).cut(where)


def test_a_network_without_feature_maps_has_no_default_cut():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with pytest.raises(SettingError, match="No feature map was found"):
        read(model).cut()


def test_the_same_place_asked_for_again_is_the_same_cut_and_another_is_another():
    network = read(Residual())
    first = network.cut()
    assert network.cut() is first
    assert network.cut("stem") is network.cut("stem")
    assert network.cut("stem").node != first.node
    assert read(Residual()).cut() is not first


def test_cuts_that_were_not_asked_for_longest_are_forgotten():
    network = read(Residual())
    stem, last = network.cut("stem"), network.cut()
    for at in range(MOST_MADE - 1):
        network.kept(("other", at), object)
    assert network.cut() is last
    assert network.cut("stem") is not stem
    assert len(network.made) == MOST_MADE


def test_a_cut_does_not_outlive_its_network():
    network = read(Residual())
    cuts = [weakref.ref(network.cut()), weakref.ref(network.cut("stem"))]
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None
    assert [cut() for cut in cuts] == [None, None]
