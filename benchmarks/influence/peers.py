"""Other libraries, on the same network and images."""

import logging
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.influence.setup import Setup
from benchmarks.influence.work import Work, datasets, labels_of

__all__ = ["captum", "dattri", "kronfluence", "trak"]


def captum(setup: Setup, *, fast: bool) -> Work:
    """TracIn at one checkpoint by captum, over all layers or the last one."""
    from captum.influence import TracInCP, TracInCPFast  # noqa: PLC0415 - slow

    train, _ = datasets(setup)
    _, test = setup.data
    settings: dict[str, Any] = {
        "train_dataset": train,
        "checkpoints": [""],
        "checkpoints_load_func": lambda _model, _path: 1.0,
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "batch_size": setup.batch,
    }
    if fast:
        head = [m for m in setup.model.modules() if isinstance(m, nn.Linear)][-1]
        made = TracInCPFast(setup.model, head, **settings)
    else:
        made = TracInCP(setup.model, sample_wise_grads_per_batch=True, **settings)

    def run() -> Tensor:
        found: Tensor = made.influence((test.images, labels_of(test.labels)))
        return found.detach().T

    return Work(run=run, units=setup.images)


def trak(setup: Setup) -> Work:
    """TRAK by its authors' library."""
    from trak import TRAKer  # noqa: PLC0415 - slow

    train, test = (DataLoader(d, batch_size=setup.batch) for d in datasets(setup))

    def run() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            made = TRAKer(
                model=setup.model,
                task="image_classification",
                train_set_size=setup.images,
                save_dir=folder,
                device="cpu",
                proj_dim=512,
                use_half_precision=False,
                logging_level=logging.ERROR,
            )
            state = setup.model.state_dict()
            made.load_checkpoint(state, model_id=0)
            for batch in train:
                made.featurize(batch=batch, num_samples=len(batch[0]))
            made.finalize_features()
            made.start_scoring_checkpoint("q", state, model_id=0, num_targets=setup.queries)
            for batch in test:
                made.score(batch=batch, num_samples=len(batch[0]))
            return torch.tensor(made.finalize_scores(exp_name="q"))

    return Work(run=run, units=setup.images, note=lambda: "512 dimensions")


def dattri(setup: Setup) -> Work:
    """Grad-Cos by dattri."""
    from dattri.algorithm.tracin import TracInAttributor  # noqa: PLC0415 - slow
    from dattri.task import AttributionTask  # noqa: PLC0415

    shape = setup.data[0].images.shape[1:]

    def loss(params: Any, pair: Any) -> Tensor:  # noqa: ANN401 - of another library
        images, labels = pair
        logits = functional_call(setup.model, params, (images.reshape(-1, *shape),))
        return functional.cross_entropy(logits, labels.reshape(-1))

    train, test = (DataLoader(d, batch_size=setup.batch) for d in datasets(setup))
    made = TracInAttributor(
        task=AttributionTask(
            loss_func=loss, model=setup.model, checkpoints=[setup.model.state_dict()]
        ),
        weight_list=torch.ones(1),
        normalized_grad=True,
        projector_kwargs={"proj_type": "identity", "proj_dim": 1},
    )

    def run() -> Tensor:
        found: Tensor = made.attribute(train, test)
        return found

    return Work(run=run, units=setup.images)


def kronfluence(setup: Setup, strategy: str) -> Work:
    """Scores by kronfluence: with the identity they are Grad-Dot; or EK-FAC's two fits."""
    from kronfluence.analyzer import Analyzer, prepare_model  # noqa: PLC0415 - slow
    from kronfluence.arguments import FactorArguments  # noqa: PLC0415
    from kronfluence.task import Task  # noqa: PLC0415

    class Classification(Task):  # type: ignore[misc] # the library has no types
        """Cross-entropy of a classifier."""

        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:  # noqa: ANN401, FBT001, FBT002 - the library's
            """Return the summed loss, of the labels or of drawn ones."""
            images, labels = batch
            logits = model(images)
            if sample:
                labels = torch.multinomial(logits.detach().softmax(dim=1), 1).flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:  # noqa: ANN401
            """Return what is asked about queries."""
            return self.compute_train_loss(batch, model)

    from copy import deepcopy  # noqa: PLC0415

    task = Classification()
    model = prepare_model(deepcopy(setup.model), task)
    train, test = datasets(setup)
    folder = tempfile.mkdtemp()
    analyzer = Analyzer("bench", model, task, cpu=True, output_dir=folder)
    size = {"per_device_batch_size": setup.batch, "overwrite_output_dir": True}

    def fit() -> None:
        settings = FactorArguments(strategy=strategy)
        analyzer.fit_all_factors("factors", train, factor_args=settings, **size)

    if strategy == "ekfac":
        return Work(run=fit, units=setup.images)
    fit()

    def run() -> Tensor:
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            test,
            train,
            per_device_query_batch_size=setup.queries,
            per_device_train_batch_size=setup.batch,
            overwrite_output_dir=True,
        )
        found: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
        return found.T

    return Work(run=run, units=setup.images)
