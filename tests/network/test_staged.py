import pytest
import torch
from torch import nn

from whence.network import Network


class Everything(nn.Module):
    """Batch norms that merge and that do not, a normalised weight, positions, a shared weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.merges = nn.BatchNorm2d(4)
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.stays = nn.BatchNorm2d(4)
        self.table = nn.Parameter(torch.zeros(5, 4))
        self.register_buffer("index", torch.arange(36) % 5)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.merges(self.first(x)))
        y = self.second(x)
        x = (self.stays(y) + y).flatten(2).transpose(1, 2) + self.table[self.index]
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.shared(torch.tanh(self.shared(x))).mean(1))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Everything().double().eval()
        with torch.no_grad():
            for value in (*model.parameters(), model.merges.running_mean, model.stays.running_mean):
                value.normal_(0, 0.5)
            model.merges.running_var.uniform_(0.5, 1.5)
            model.stays.running_var.uniform_(0.5, 1.5)
        return Network.read(model, torch.randn(2, 3, 6, 6, dtype=torch.float64))


@pytest.fixture
def images(generator):
    return torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)


def test_two_stages_are_the_network(network, images):
    staged = network.staged()
    values = staged.prepare(network.parameters)
    torch.testing.assert_close(staged.run(values, images), network(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(staged.run(values, images[:1]), network(images[:1]))


def test_work_on_parameters_is_done_once(network):
    staged = network.staged()
    for name in ("weight_norm", "index", "merged"):
        assert name in staged.prepare_module.code
        assert name not in staged.run_module.code
    assert staged.run_module.code.count("batch_norm.default") == 1


def test_derivatives_go_through_both_stages(network, images):
    staged = network.staged()
    parameters = {n: p.detach().requires_grad_() for n, p in network.parameters.items()}
    weights = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    logits = staged.run(staged.prepare(parameters), images)
    found = torch.autograd.grad((logits * weights).sum(), list(parameters.values()))
    expected = torch.autograd.grad(
        (network(images) * weights).sum(), list(network.parameters.values())
    )
    for name, ours, theirs in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)


def test_other_parameters_make_another_function(network, images):
    staged = network.staged()
    other = {n: p.detach() + 0.1 for n, p in network.parameters.items()}
    found = staged.run(staged.prepare(other), images)
    expected, _ = network.function()(other, images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, network(images))


def test_the_users_model_is_left_untouched(untouched, images):
    model = Everything().double().eval()
    network = Network.read(model, images)
    with untouched(model):
        staged = network.staged()
        staged.run(staged.prepare(network.parameters), images)
