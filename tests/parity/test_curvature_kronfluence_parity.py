"""EK-FAC and K-FAC influence beside kronfluence's, at the same damping."""

import copy
import gc
import warnings
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from whence.core import Loss, TensorData
from whence.curvature import KroneckerCurvature, SampledLabels, TrainingImages
from whence.curvature.draws import drawn
from whence.gradients import Recorder
from whence.influence.fitting import ekfac, kronecker
from whence.network import Network

COUNT, QUERIES, CLASSES = 240, 12, 4


@pytest.fixture(scope="session")
def kronfluence() -> ModuleType:
    """Kronfluence with its analyzer."""
    package = pytest.importorskip("kronfluence", reason="needs whence[parity]")
    for part in ("analyzer", "arguments", "task"):
        pytest.importorskip(f"kronfluence.{part}", reason="needs whence[parity]")
    return package


def networks(name):
    return {
        "mlp": lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.ReLU(),
            nn.Linear(24, 16),
            nn.Tanh(),
            nn.Linear(16, CLASSES),
        ),
        "cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        ),
    }[name]()


class Subject:
    """A network trained a little on pictures of four classes, and their data."""

    def __init__(self, name):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(CLASSES, 1, 8, 8, generator=generator)
        labels = torch.randint(CLASSES, (COUNT + QUERIES,), generator=generator)
        images = 0.4 * means[labels] + torch.randn(len(labels), 1, 8, 8, generator=generator)
        self.images, self.queries = images[:COUNT], images[COUNT:]
        self.labels, self.classes = labels[:COUNT], labels[COUNT:]
        self.model = networks(name)
        with torch.no_grad():
            for p in self.model.parameters():
                fan = p[0].numel() if p.ndim > 1 else 1
                p.copy_(torch.randn(p.shape, generator=generator) / fan**0.5 * (p.ndim > 1))
        optimiser = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.9)
        for start in range(0, COUNT, 40):
            optimiser.zero_grad()
            rows = slice(start, start + 40)
            functional.cross_entropy(self.model(self.images[rows]), self.labels[rows]).backward()
            optimiser.step()
        self.model.eval()
        self.recorder = Recorder(Network.read(self.model, self.images[:2]))
        self.train = TensorData(images=self.images, labels=self.labels)
        source = torch.Generator().manual_seed(7)
        self.numbers = torch.cat(  # those of the basis, then those of its eigenvalues
            [torch.rand(COUNT, 1, generator=source, dtype=torch.float64) for _ in range(2)], dim=1
        )

    def scores(self, inverse):
        """Inner products of loss gradients under an inverse, ``(q, n)``."""
        queries = self.recorder.record(self.queries, Loss(self.classes)).materialise()
        training = self.recorder.record(self.images, Loss(self.labels))
        return training.dot(inverse(queries)).T


@pytest.fixture(autouse=True)
def _settled():
    """Kronfluence collects garbage at every turn, which is slow where much has been imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def subject(request):
    return Subject(request.param)


def theirs(kronfluence, subject, strategy, damping, folder, *, numbers=None, seed=3):
    """Kronfluence's scores; labels are drawn by the numbers, or by a generator of its own."""
    own = torch.Generator().manual_seed(seed)

    class Task(kronfluence.task.Task):
        seen = 0

        def compute_train_loss(self, batch, model, sample=False):
            images, labels, some = batch
            logits = model(images)
            if sample and numbers is not None:
                labels = drawn(logits.detach(), some[:, self.seen // COUNT])
                self.seen += len(images)
            elif sample:
                chances = logits.detach().softmax(dim=1)
                labels = torch.multinomial(chances, 1, generator=own)[:, 0]
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    some = torch.zeros(COUNT, 2, dtype=torch.float64) if numbers is None else numbers
    train = TensorDataset(subject.images, subject.labels, some)
    test = TensorDataset(subject.queries, subject.classes, some[:QUERIES])
    model = kronfluence.analyzer.prepare_model(copy.deepcopy(subject.model), Task())
    arguments = kronfluence.arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = kronfluence.analyzer.Analyzer(
            "whence", model, Task(), output_dir=str(folder), disable_tqdm=True, cpu=True
        )
        analyzer.fit_all_factors(
            "factors",
            train,
            per_device_batch_size=60,
            factor_args=arguments.FactorArguments(strategy=strategy),
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            test,
            train,
            per_device_query_batch_size=QUERIES,
            per_device_train_batch_size=60,
            score_args=arguments.ScoreArguments(damping_factor=damping),
        )
    return analyzer.load_pairwise_scores("scores")["all_modules"]


def correlations(ours, others):
    """The correlation of each query's scores."""
    pairs = zip(ours, others, strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


@pytest.mark.parametrize("damping", ["layer", 1e-3])
def test_ek_fac_scores_with_the_same_drawn_labels_are_kronfluence_s(
    kronfluence, subject, damping, tmp_path, generator
):
    generator.manual_seed(7)
    chosen = TrainingImages(recorder=subject.recorder, data=subject.train)
    inverse = ekfac(chosen, damping=damping, draws=SampledLabels(), generator=generator)
    found = subject.scores(inverse)
    expected = theirs(
        kronfluence,
        subject,
        "ekfac",
        None if damping == "layer" else damping,
        tmp_path,
        numbers=subject.numbers,
    )
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(expected.std()))
    assert bool((correlations(found, expected) > 0.9999).all())


def test_labels_drawn_by_each_part_them_no_more_than_two_seeds_part_kronfluence(
    kronfluence, tmp_path
):
    """How near that is depends on the number of images, not on the library."""
    subject = Subject("mlp")
    chosen = TrainingImages(recorder=subject.recorder, data=subject.train)
    inverse = ekfac(chosen, damping="layer", draws=SampledLabels(4))
    found = subject.scores(inverse)
    first, second = (
        theirs(kronfluence, subject, "ekfac", None, tmp_path / str(seed), seed=seed)
        for seed in (3, 4)
    )
    noise = correlations(first, second).median()
    assert float(correlations(found, first).median()) > max(0.97, float(noise) - 0.005)


def test_k_fac_is_kronfluence_s_times_the_positions_of_a_layer(
    kronfluence, subject, tmp_path, generator
):
    """Theirs takes means over positions in both factors; a gradient is a sum over them."""
    chosen = TrainingImages(recorder=subject.recorder, data=subject.train)
    generator.manual_seed(7)
    ours = kronecker(chosen, draws=SampledLabels(), generator=generator, eigenvalues="product")
    positions = {
        name: subject.recorder.record(subject.images[:1], Loss(0)).blocks[name][0].output.shape[3]
        for name in ours.layers
    }
    scaled = KroneckerCurvature(
        layers={n: v.with_values(v.values / positions[n]) for n, v in ours.layers.items()}
    )
    found = subject.scores(scaled.inverse(1e-3))
    expected = theirs(kronfluence, subject, "kfac", 1e-3, tmp_path, numbers=subject.numbers)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(expected.std()))
    assert (max(positions.values()) > 1) == any(isinstance(m, nn.Conv2d) for m in subject.model)
