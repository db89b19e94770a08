"""The description: what each operation costs, by closed form, and as a table."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.network import Network


class Asked(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = forward
        self.eval()

    def forward(self, images):
        return self.body(self, images).flatten(1)


def tokens(images):
    return images.flatten(2).transpose(1, 2)


COSTS = {
    "conv": (lambda m, x: m.a(x), {"a": nn.Conv2d(4, 6, 3, padding=1)}, 6 * 64 * 4 * 9),
    "grouped": (lambda m, x: m.a(x), {"a": nn.Conv2d(4, 8, 3, 2, 1, groups=4)}, 8 * 16 * 9),
    "transposed": (
        lambda m, x: m.a(x),
        {"a": nn.ConvTranspose2d(4, 6, 2, stride=2)},
        4 * 64 * 6 * 4,
    ),
    "linear": (lambda m, x: m.a(tokens(x)), {"a": nn.Linear(4, 5)}, 64 * 4 * 5),
    "matmul": (lambda m, x: tokens(x) @ tokens(x).transpose(1, 2), {}, 64 * 64 * 4),
    "einsum": (lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x), {}, 4 * 4 * 64),
    "einsum with dots": (
        lambda m, x: torch.einsum("...ij,jk->...ik", x, m.a.weight),
        {"a": nn.Linear(8, 8)},
        4 * 8 * 8 * 8,
    ),
    "addmm": (
        lambda m, x: torch.addmm(m.a.bias, x.flatten(1), m.a.weight.T),
        {"a": nn.Linear(256, 3)},
        256 * 3,
    ),
    "attention": (
        lambda m, x: functional.scaled_dot_product_attention(tokens(x), tokens(x), tokens(x)),
        {},
        2 * 64 * 64 * 4,
    ),
    "elementwise": (lambda m, x: x.relu() + 1, {}, 0),
}


@pytest.mark.parametrize("name", COSTS)
def test_multiply_adds_of_one_image_are_those_of_the_closed_form(name):
    forward, parts, expected = COSTS[name]
    network = Network.read(Asked(forward, **parts), torch.randn(3, 4, 8, 8))
    assert network.describe().multiply_adds == expected


def small():
    return Network.read(
        Asked(
            lambda m, x: m.head(m.conv(m.conv(x)).relu().mean((2, 3))),
            conv=nn.Conv2d(4, 4, 3, padding=1),
            head=nn.Linear(4, 2),
        ),
        torch.randn(2, 4, 8, 8),
    )


def test_rows_name_operation_module_and_shape_in_order():
    rows = small().describe().rows
    assert [(r.operation, r.path, r.shape) for r in rows][:3] == [
        ("conv2d", "conv", ("b", 4, 8, 8)),
        ("conv2d", "conv", ("b", 4, 8, 8)),
        ("relu", "", ("b", 4, 8, 8)),
    ]


def test_parameters_used_twice_are_counted_once():
    description = small().describe()
    assert [r.parameters for r in description.rows][:2] == [4 * 4 * 9 + 4, 0]
    assert description.parameters == 4 * 4 * 9 + 4 + 4 * 2 + 2


def test_the_table_has_a_line_per_operation_and_shares_of_the_work():
    description = small().describe()
    head, *lines = str(description).splitlines()
    assert head.split() == ["operation", "module", "output", "parameters", "work", "node"]
    assert len(lines) == len(description.rows)
    assert "conv2d     conv    b x 4 x 8 x 8         148  50.0 %  conv2d" in lines
    assert not any(line != line.rstrip() for line in lines)
