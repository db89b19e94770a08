"""Other libraries on the same models, training images and queries: the extra ``parity``."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from reproductions.lds.ours import DECAY, DRAWS, LAYER, rates_of
from reproductions.lds.tasks import Digits, Task
from reproductions.lds.training import Weights, margins_of, model_of
from reproductions.lds.truth import Truth

DIMENSION = 512
"""What TRAK projects to, in both libraries that have it: fewer than there are training images."""


@dataclass(frozen=True, kw_only=True)
class PeerRow:
    """A method of another library.

    Args:
        library: Which.
        setting: What was set other than by default.
        ours: The name of the row of whence that it is compared with: the same method.
        scores: Returns its scores ``(n, q)``, positive for proponents.
    """

    library: str
    method: str
    setting: str
    ours: str
    scores: Callable[[], Tensor]

    @property
    def name(self) -> str:
        """What the row is called in tables and files."""
        return f"{self.library} {self.method}"


def peers_of(task: Task, data: Digits, truth: Truth) -> Iterator[PeerRow]:
    """Yield the methods that these libraries have for a task."""
    yield from dattri_rows(task, data, truth)
    yield from trak_rows(task, data, truth)
    yield from kronfluence_rows(task, data, truth)


def member(truth: Truth, row: int, stage: int = -1) -> Weights:
    """Return the weights of one model of all training images."""
    return {name: value[row].clone() for name, value in truth.members[stage].items()}


def loaders(data: Digits, size: int | None = None) -> tuple[Any, Any]:
    """Return loaders of the training images and of the queries, one batch each by default."""
    train = TensorDataset(data.images, data.labels)
    queries = TensorDataset(data.query_images, data.query_labels)
    return (
        DataLoader(train, batch_size=size or len(train), shuffle=False),
        DataLoader(queries, batch_size=size or len(queries), shuffle=False),
    )


# ------------------------------------------------------------------------------------- dattri


def dattri_rows(task: Task, data: Digits, truth: Truth) -> Iterator[PeerRow]:
    """Yield the methods of dattri."""
    with warnings.catch_warnings():  # of what it imports
        warnings.simplefilter("ignore")
        from dattri.algorithm import influence_function as curved  # noqa: PLC0415 - slow
        from dattri.algorithm.rps import RPSAttributor  # noqa: PLC0415
        from dattri.algorithm.tracin import TracInAttributor  # noqa: PLC0415
        from dattri.algorithm.trak import TRAKAttributor  # noqa: PLC0415
        from dattri.task import AttributionTask  # noqa: PLC0415

    model = model_of(task, truth.members[-1], 0)
    shape = tuple(data.images.shape[1:])
    one = [member(truth, 0)]
    runs = [member(truth, row) for row in range(task.members)]
    stages = [member(truth, 0, stage) for stage in range(len(truth.members))]
    exact = {"proj_type": "identity", "proj_dim": 1}

    def plain(weights: list[Weights], rates: list[float], *, cosine: bool) -> Tensor:
        attributor = TracInAttributor(
            task=dattri_task(model, shape, weights, loss_of),
            weight_list=torch.tensor(rates),
            normalized_grad=cosine,
            projector_kwargs=exact,
        )
        return attributor.attribute(*loaders(data, 250))

    def trak(weights: list[Weights]) -> Tensor:
        attributor = TRAKAttributor(
            task=dattri_task(model, shape, weights, margin_of),
            correct_probability_func=partial(probability_of, model, shape),
            projector_kwargs={"proj_dim": DIMENSION, "proj_type": "normal", "proj_seed": 0},
        )
        train, queries = loaders(data, 250)
        attributor.cache(train)
        return attributor.attribute(queries)

    def solved(kind: str, **settings: float) -> Tensor:
        made = getattr(curved, kind)
        attributor = made(task=dattri_task(model, shape, one, loss_of), **settings)
        train, queries = loaders(data)
        attributor.cache(train)
        return attributor.attribute(train, queries)

    def representer() -> Tensor:
        last = [name for name, part in model.named_children() if isinstance(part, nn.Linear)][-1]
        about = AttributionTask(loss_func=functional.cross_entropy, model=model, checkpoints=one)
        attributor = RPSAttributor(
            task=about, final_linear_layer_name=last, l2_strength=task.decay / 2
        )
        train, queries = loaders(data)
        attributor.cache(train)
        return attributor.attribute(train, queries)

    rates = rates_of(task)
    row = partial(PeerRow, library="dattri")
    yield row(
        method="Grad-Dot",
        setting="no projection",
        ours="grad-dot",
        scores=lambda: plain(one, [1.0], cosine=False),
    )
    yield row(
        method="Grad-Cos",
        setting="no projection",
        ours="grad-cos",
        scores=lambda: plain(one, [1.0], cosine=True),
    )
    yield row(
        method="TracIn",
        setting="5 stages, no projection",
        ours="tracin",
        scores=lambda: plain(stages, rates, cosine=False),
    )
    yield row(
        method="TRAK",
        setting=f"k = {DIMENSION}, no damping",
        ours="trak",
        scores=lambda: trak(one),
    )
    if len(runs) > 1:
        yield row(
            method="TRAK x models",
            setting=f"{len(runs)} models, k = {DIMENSION}, no damping",
            ours="trak x models",
            scores=lambda: trak(runs),
        )
    decay = f"damping {task.decay:g}"
    yield row(
        method="DataInf",
        setting=decay,
        ours=f"datainf, {DECAY}",
        scores=lambda: solved("IFAttributorDataInf", regularization=task.decay),
    )
    yield row(
        method="representer points",
        setting=f"L2 {task.decay / 2:g}",
        ours=f"representer, {DECAY}",
        scores=representer,
    )
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return  # EK-FAC is for linear layers only; conjugate gradients ran out of 18 GB of memory
    yield row(
        method="EK-FAC",
        setting=decay,
        ours="ekfac, damping = decay",
        scores=lambda: solved("IFAttributorEKFAC", damping=task.decay),
    )
    yield row(
        method="IF-CG",
        setting=f"{decay}, 10 steps",
        ours="influence, damping = decay",
        scores=lambda: solved("IFAttributorCG", regularization=task.decay, max_iter=10),
    )
    yield row(
        method="IF-Arnoldi",
        setting=f"{decay}, 100 dimensions",
        ours="arnoldi",
        scores=lambda: solved("IFAttributorArnoldi", regularization=task.decay, proj_dim=100),
    )


def dattri_task(
    model: nn.Module,
    shape: tuple[int, ...],
    weights: list[Weights],
    function: Callable[..., Tensor],
) -> Any:  # noqa: ANN401 - a class of another library
    """Return the task as dattri wants it described; its functions are told by their arguments."""
    from dattri.task import AttributionTask  # noqa: PLC0415 - slow

    def f(params: Any, image_label_pair: Any) -> Tensor:  # noqa: ANN401 - of another library
        return function(model, shape, params, image_label_pair)

    return AttributionTask(loss_func=f, model=model, checkpoints=weights)


def outputs_of(
    model: nn.Module,
    shape: tuple[int, ...],
    params: Any,  # noqa: ANN401 - of another library
    pair: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Return logits and labels of one image or several, with or without an axis of images."""
    images, labels = pair
    return functional_call(model, params, (images.reshape(-1, *shape),)), labels.reshape(-1).long()


def loss_of(model: nn.Module, shape: tuple[int, ...], params: Any, pair: Any) -> Tensor:  # noqa: ANN401
    """Return the mean cross-entropy."""
    return functional.cross_entropy(*outputs_of(model, shape, params, pair))


def margin_of(model: nn.Module, shape: tuple[int, ...], params: Any, pair: Any) -> Tensor:  # noqa: ANN401
    """Return the log-odds of an image's label."""
    logits, labels = outputs_of(model, shape, params, pair)
    own = labels[:, None] == torch.arange(logits.shape[1])
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return ((logits * own).sum(dim=1) - others).sum()


def probability_of(model: nn.Module, shape: tuple[int, ...], params: Any, pair: Any) -> Tensor:  # noqa: ANN401
    """Return the probability of an image's label."""
    return (-loss_of(model, shape, params, pair)).exp()


# --------------------------------------------------------------------------------------- TRAK


def trak_rows(task: Task, data: Digits, truth: Truth) -> Iterator[PeerRow]:
    """Yield TRAK by its authors' library, ``traker``."""

    def trak(count: int) -> Tensor:
        from trak import TRAKer  # noqa: PLC0415 - slow

        with tempfile.TemporaryDirectory() as folder:
            traker = TRAKer(
                model=model_of(task, truth.members[-1], 0),
                task="image_classification",
                train_set_size=task.train,
                save_dir=folder,
                device="cpu",
                proj_dim=DIMENSION,
                use_half_precision=False,
                logging_level=logging.ERROR,
            )
            train, queries = loaders(data, 250)
            for row in range(count):
                traker.load_checkpoint(member(truth, row), model_id=row)
                for batch in train:
                    traker.featurize(batch=batch, num_samples=len(batch[0]))
            traker.finalize_features()
            for row in range(count):
                traker.start_scoring_checkpoint(
                    "queries", member(truth, row), model_id=row, num_targets=task.queries
                )
                for batch in queries:
                    traker.score(batch=batch, num_samples=len(batch[0]))
            return torch.tensor(traker.finalize_scores(exp_name="queries"))

    row = partial(PeerRow, library="traker")
    yield row(
        method="TRAK",
        setting=f"k = {DIMENSION}, no damping",
        ours="trak",
        scores=lambda: trak(1),
    )
    if task.members > 1:
        yield row(
            method="TRAK x models",
            setting=f"{task.members} models, k = {DIMENSION}, no damping",
            ours="trak x models",
            scores=lambda: trak(task.members),
        )


# -------------------------------------------------------------------------------- kronfluence


def kronfluence_rows(task: Task, data: Digits, truth: Truth) -> Iterator[PeerRow]:
    """Yield the strategies of kronfluence."""
    row = partial(PeerRow, library="kronfluence")
    run = partial(kronfluence_scores, task, data, truth)
    yield row(
        method="identity",
        setting="= Grad-Dot of the query's margin",
        ours="grad-dot",
        scores=lambda: run("identity", None),
    )
    for strategy, method in (("kfac", "K-FAC"), ("ekfac", "EK-FAC")):
        yield row(
            method=method,
            setting="damping 0.1 x mean eigenvalue",
            ours=f"{strategy}, {LAYER}",
            scores=lambda strategy=strategy: drawn(run, strategy, None),
        )
        yield row(
            method=f"{method}, damping = decay",
            setting=f"damping {task.decay:g}",
            ours=f"{strategy}, damping = decay",
            scores=lambda strategy=strategy: drawn(run, strategy, task.decay),
        )


def drawn(run: Callable[..., Tensor], strategy: str, damping: float | None) -> Tensor:
    """Return the scores of several fits, each with other labels drawn: ``(draws, n, q)``."""
    return torch.stack([run(strategy, damping, seed) for seed in range(DRAWS)])


def kronfluence_scores(
    task: Task, data: Digits, truth: Truth, strategy: str, damping: float | None, seed: int = 0
) -> Tensor:
    """Return the scores of one strategy."""
    from kronfluence.analyzer import Analyzer, prepare_model  # noqa: PLC0415 - slow
    from kronfluence.arguments import FactorArguments, ScoreArguments  # noqa: PLC0415
    from kronfluence.task import Task as KronfluenceTask  # noqa: PLC0415

    class Classification(KronfluenceTask):
        """The loss and the negative margin, as kronfluence asks for them."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:  # noqa: ANN401, FBT001, FBT002 - its signature
            """Return the sum of losses, of labels drawn from the model if asked for."""
            images, labels = batch
            logits = model(images)
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:  # noqa: ANN401 - its signature
            """Return what proponents lower."""
            images, labels = batch
            return -margins_of(model(images), labels).sum()

    about = Classification()
    model = prepare_model(model_of(task, truth.members[-1], 0), about)
    train = TensorDataset(data.images, data.labels)
    queries = TensorDataset(data.query_images, data.query_labels)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        analyzer = Analyzer(
            analysis_name="lds",
            model=model,
            task=about,
            cpu=True,
            disable_tqdm=True,
            output_dir=folder,
            log_level=logging.ERROR,
        )
        analyzer.fit_all_factors(
            factors_name="factors",
            dataset=train,
            per_device_batch_size=250,
            factor_args=FactorArguments(strategy=strategy),
        )
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="factors",
            query_dataset=queries,
            train_dataset=train,
            per_device_query_batch_size=len(queries),
            per_device_train_batch_size=250,
            score_args=ScoreArguments(damping_factor=damping),
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"]
    return found.T.float().clone()
