"""Data attribution beside Captum's TracIn, dattri and TRAK, where these are exact."""

import copy
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from whence.core import Margin, TensorData
from whence.influence import (
    GAS,
    TRAK,
    Checkpoint,
    DataInf,
    ExplicitInfluence,
    GradCos,
    GradDot,
    Projected,
    RelatIF,
    TracIn,
    influence,
    self_influence,
)
from whence.network import Network

COUNT, QUERIES = 10, 3
RATES = (0.1, 0.4)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


class Subject:
    """Two moments of a small network without biases, training images and queries."""

    def __init__(self, model):
        generator = torch.Generator().manual_seed(3)

        def normal(count):
            return torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)

        self.model = filled(model, generator)
        self.train, self.queries = normal(COUNT), normal(QUERIES)
        self.labels = torch.randint(4, (COUNT,), generator=generator)
        self.classes = torch.tensor([0, 3, 1])
        earlier = copy.deepcopy(self.model)
        with torch.no_grad():
            for p in earlier.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        self.states = [
            {n: v.clone() for n, v in m.state_dict().items()} for m in (earlier, self.model)
        ]
        self.network = Network.read(self.model, self.train)
        self.data = TensorData(images=self.train, labels=self.labels, classes=tuple("abcd"))

    def ours(self, scorer, *, several=False, **settings):
        checkpoints = [
            Checkpoint(weights=state, learning_rate=rate)
            for state, rate in zip(self.states, RATES, strict=True)
        ]
        return influence(
            self.network,
            self.data,
            self.queries,
            Margin(self.classes),
            scorer=scorer,
            checkpoints=checkpoints if several else None,
            **settings,
        ).scores

    def loaders(self, size=4):
        return [
            DataLoader(TensorDataset(images, labels), batch_size=size)
            for images, labels in ((self.train, self.labels), (self.queries, self.classes))
        ]


def filled(model, generator):
    """Fill a model's parameters from a generator; double precision, eval mode."""
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(drawn / p[0].numel() ** 0.5)
    return model


@pytest.fixture
def subject():
    """A convolutional network."""
    return Subject(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3, stride=2, bias=False),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(20, 4, bias=False),
        )
    )


@pytest.fixture
def regression():
    """A linear model, whose Hessian fits into a matrix."""
    return Subject(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 4, bias=False)))


def assert_alike(theirs, ours, rtol=1e-6):
    theirs = torch.as_tensor(theirs).double()
    top = float(ours.abs().max())
    torch.testing.assert_close(theirs, ours, rtol=rtol, atol=rtol * top)


# -------------------------------------------------------------------------------------- Captum


@pytest.fixture(scope="session")
def captum_influence() -> ModuleType:
    return pytest.importorskip("captum.influence", reason="needs whence[parity]")


def captums(package, subject, *, sample_wise):
    model = copy.deepcopy(subject.model)

    def load(into, number):
        into.load_state_dict(subject.states[number])
        return RATES[number]

    return package.TracInCP(
        model,
        TensorDataset(subject.train, subject.labels),
        checkpoints=[0, 1],
        checkpoints_load_func=load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum" if sample_wise else "none"),
        batch_size=4,
        sample_wise_grads_per_batch=sample_wise,
    )


@pytest.mark.parametrize("sample_wise", [False, True])
def test_tracin_is_captums(captum_influence, subject, sample_wise):
    found = captums(captum_influence, subject, sample_wise=sample_wise).influence(
        (subject.queries, subject.classes)
    )
    assert_alike(found.detach().T, subject.ours(TracIn(), several=True))


def test_self_influence_is_captums(captum_influence, subject):
    found = captums(captum_influence, subject, sample_wise=False).self_influence()
    ours = self_influence(
        subject.network,
        subject.data,
        scorer=TracIn(),
        checkpoints=[
            Checkpoint(weights=state, learning_rate=rate)
            for state, rate in zip(subject.states, RATES, strict=True)
        ],
    )
    assert_alike(found.detach(), ours.scores)


# -------------------------------------------------------------------------------------- dattri


@pytest.fixture(scope="session")
def dattri() -> ModuleType:
    return pytest.importorskip("dattri", reason="needs whence[parity]")


def task_of(subject, output="loss", *, states=None):
    from dattri.task import AttributionTask

    model = copy.deepcopy(subject.model)

    def value(params, pair):
        image, label = pair
        image, label = (image[None], label[None]) if image.ndim == 3 else (image, label)
        logits = functional_call(model, params, image)
        own = logits.log_softmax(dim=1).gather(1, label[:, None])[:, 0]
        if output == "loss":
            return -own.mean()
        hits = torch.arange(4) == label[:, None]
        return (own - logits.log_softmax(dim=1).masked_fill(hits, -torch.inf).logsumexp(1)).mean()

    return AttributionTask(
        loss_func=value, model=model, checkpoints=states or [subject.model.state_dict()]
    )


@pytest.mark.parametrize("normalised", [False, True], ids=["dot", "cos"])
def test_tracin_and_gas_are_dattris(dattri, subject, normalised):
    from dattri.algorithm.tracin import TracInAttributor

    def theirs(states, rates):
        attributor = TracInAttributor(
            task_of(subject, states=states),
            weight_list=torch.tensor(rates, dtype=torch.float64),
            normalized_grad=normalised,
        )
        attributor.projector_kwargs = None  # by default it projects at random, to 512 numbers
        return attributor.attribute(*subject.loaders())

    several = theirs(subject.states, RATES)
    assert_alike(several, subject.ours(GAS() if normalised else TracIn(), several=True), 1e-5)
    one = theirs(subject.states[1:], (1.0,))
    assert_alike(one, subject.ours(GradCos() if normalised else GradDot()), 1e-5)


def plain(*_, **__):
    """In the place of a random projection: none."""
    return lambda values, **_: values


@pytest.mark.parametrize("several", [False, True], ids=["one", "ensemble"])
def test_trak_is_dattris_where_nothing_is_projected(dattri, subject, monkeypatch, several):
    from dattri.algorithm import trak

    monkeypatch.setattr(trak, "random_project", plain)
    model = copy.deepcopy(subject.model)

    def probability(params, pair):
        image, label = pair
        logits = functional_call(model, params, image[None])
        return logits.softmax(dim=1)[0].gather(0, label[None])

    damping = 0.01
    size = sum(p.numel() for p in subject.model.parameters())
    attributor = trak.TRAKAttributor(
        task_of(subject, "margin", states=subject.states if several else None),
        correct_probability_func=probability,
        regularization=COUNT * damping / size,
    )
    train, test = subject.loaders()
    attributor.cache(train)
    theirs = attributor.attribute(test)
    scorer = TRAK(space=Projected(dimension=10**6), damping=damping)
    assert_alike(COUNT * theirs, subject.ours(scorer, several=several))


def test_datainf_is_dattris_where_a_layer_is_one_weight(dattri, subject):
    from dattri.algorithm.influence_function import IFAttributorDataInf

    alone = subject.loaders(1)[0]
    attributor = IFAttributorDataInf(task_of(subject), regularization=0.05)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # its sums are of the default type
        attributor.cache(alone)
        theirs = attributor.attribute(*subject.loaders())
    finally:
        torch.set_default_dtype(before)
    assert_alike(theirs, subject.ours(DataInf(damping=0.05)), 1e-4)


@pytest.mark.parametrize("relative", [None, "l", "theta"])
def test_influence_and_relatif_are_dattris(dattri, regression, relative):
    from dattri.algorithm.influence_function import IFAttributorExplicit

    attributor = IFAttributorExplicit(task_of(regression), regularization=0.05)
    train, test = regression.loaders(COUNT)
    attributor.cache(train)
    theirs = attributor.attribute(train, test, relatif_method=relative)
    inner = ExplicitInfluence(damping=0.05, curvature="hessian")
    kind = {"l": "loss", "theta": "parameters"}
    scorer = inner if relative is None else RelatIF(influence=inner, relative=kind[relative])
    assert_alike(theirs, regression.ours(scorer), 1e-4)


# ---------------------------------------------------------------------------------------- TRAK


def test_trak_is_traks_where_nothing_is_projected(subject, tmp_path):
    package = pytest.importorskip("trak", reason="needs whence[parity]")
    projectors = pytest.importorskip("trak.projectors", reason="needs whence[parity]")
    size = sum(p.numel() for p in subject.model.parameters())
    damping = 0.01

    class Whole(projectors.AbstractProjector):
        """Its own projector that does nothing needs a GPU."""

        def __init__(self, *settings):
            super().__init__(*settings)

        def project(self, grads, model_id):
            return torch.cat([g.flatten(1) for g in grads.values()], dim=1)

    tracer = package.TRAKer(
        model=copy.deepcopy(subject.model).float(),
        task="image_classification",
        train_set_size=COUNT,
        save_dir=str(tmp_path),
        device="cpu",
        projector=Whole(size, size, 0, "none", "cpu"),
        use_half_precision=False,
        lambda_reg=COUNT * damping / size,
        logging_level=50,
    )
    state = {n: v.float() for n, v in subject.model.state_dict().items()}
    tracer.load_checkpoint(state, model_id=0)
    tracer.featurize(batch=(subject.train.float(), subject.labels), num_samples=COUNT)
    tracer.finalize_features()
    tracer.start_scoring_checkpoint(
        exp_name="queries", checkpoint=state, model_id=0, num_targets=QUERIES
    )
    tracer.score(batch=(subject.queries.float(), subject.classes), num_samples=QUERIES)
    theirs = torch.tensor(tracer.finalize_scores(exp_name="queries"))
    ours = subject.ours(TRAK(space=Projected(dimension=10**6), damping=damping))
    # It divides the inverse by the mean of its elements: scores have no scale.
    assert_alike(theirs / theirs.norm(), ours / ours.norm(), 1e-3)
