"""Rewriting: in-place operations become out-of-place, and what depends on the images is known."""

import operator

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from whence.network import Network, rewrite

aten = torch.ops.aten


def chain():
    """Return a graph in which the overwritten value is used again, before and after."""
    graph = Graph()
    images = graph.placeholder("images")
    first = graph.call_function(aten.relu.default, (images,))
    before = graph.call_function(aten.mul.Tensor, (first, 3))
    graph.call_function(aten.mul_.Tensor, (first, 2))
    after = graph.call_function(aten.add.Tensor, (first, first))
    total = graph.call_function(aten.add.Tensor, (after, before))
    graph.output(graph.call_function(aten.sub.Tensor, (total, first)))
    for node in graph.nodes:
        node.meta["val"] = torch.empty(2)
    return graph


def test_every_later_use_sees_the_overwritten_value_and_no_earlier_one():
    graph, images = chain(), torch.tensor([1.0, 2.0])
    expected = GraphModule(nn.Module(), chain())(images.clone())
    rewrite.functional(graph)
    module = GraphModule(nn.Module(), graph)
    assert torch.equal(module(images), expected)
    assert "mul_." not in module.code


def test_a_constant_that_images_are_written_into_depends_on_them():
    graph = Graph()
    images = graph.placeholder("images")
    made = graph.call_function(aten.zeros.default, ([2],))
    part = graph.call_function(aten.slice.Tensor, (made, 0, 0, 1))
    written = graph.call_function(aten.copy_.default, (part, images))
    apart = graph.call_function(aten.ones.default, ([2],))
    total = graph.call_function(aten.add.Tensor, (made, apart))
    graph.output(total)
    for node in graph.nodes:
        node.meta["val"] = torch.empty(2)
    moving = rewrite.depends_on_images(graph)
    assert {made, written, total} <= moving
    assert apart not in moving


def test_parameters_become_an_input():
    module = nn.Linear(3, 2)
    graph = Graph()
    images = graph.placeholder("images")
    weight = graph.get_attr("weight")
    graph.output(graph.call_function(aten.linear.default, (images, weight)))
    rewrite.with_parameters_as_input(graph, ["weight"])
    compiled = rewrite.compiled(module, graph)
    assert any(node.target is operator.getitem for node in graph.nodes)
    other, images = torch.randn(2, 3), torch.randn(4, 3)
    assert torch.equal(compiled({"weight": other}, images), images @ other.T)


def test_one_image_gets_the_gradient_of_a_batch_norm_whose_map_becomes_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
                self.head = nn.Linear(6, 4)
                nn.init.normal_(self.norm.weight)

        def forward(self, images):
            tokens = self.norm(self.stem(images)).flatten(2).transpose(1, 2)
            return self.head(tokens.tanh()).tanh().amax(1)

    model = Tokens().eval().double()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    network = Network.read(model, images)

    def gradient(function, images):
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(function(leaf)[0].sum(), leaf)[0]

    pair = gradient(network, images.repeat(2, 1, 1, 1))
    torch.testing.assert_close(gradient(network, images), pair[:1])
    function, parameters = network.function(), dict(network.parameters)

    def loss(image):
        return function(parameters, image[None])[0].sum()

    torch.testing.assert_close(torch.func.grad(loss)(images[0]), pair[0])
