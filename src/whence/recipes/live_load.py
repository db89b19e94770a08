"""Networks and data for the live pages, loaded and held against the audit that is shown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whence.adapters import LoadedModel
from whence.core import fingerprint_model
from whence.errors import MismatchError
from whence.recipes.live import LiveModels
from whence.recipes.load import load_images, load_subject
from whence.recipes.transfer_request import NetworkLine
from whence.results import AuditRecord

__all__ = ["load_live"]


def load_live(  # noqa: PLR0913 - one keyword for each option of the command
    networks: Sequence[NetworkLine],
    *,
    train: str | None = None,
    test: str | None = None,
    train_labels: Path | None = None,
    test_labels: Path | None = None,
    device: str = "cpu",
    download: bool = False,
    score: str = "grad-cos",
    count: int = 5,
    audited: AuditRecord | None = None,
    same: bool = False,
) -> LiveModels:
    """Load networks and their data for the live pages.

    Args:
        networks: Which; the first is the one that was trained on ``train``.
        train: Its training images.
        test: Images to choose from.
        train_labels: A file with the labels of the training images.
        test_labels: A file with those of the test images.
        device: Where the networks are to live.
        download: Whether a library may fetch its published weights.
        score: How gradients become scores.
        count: Training images for, and as many against, a prediction.
        audited: The audit that is shown beside.
        same: Refuse anything but the network and the data that were audited; otherwise the pages
            say that they are others.

    Raises:
        MismatchError: ``same``, and a fingerprint differs.
        WhenceError: As :func:`whence.recipes.load_subject` and :func:`whence.adapters.load_data`.
    """
    models: dict[str, LoadedModel] = {}
    for line in networks:
        models[line.name] = load_subject(
            line.model,
            weights=None if line.weights is None else Path(line.weights),
            classes=None if line.classes is None else Path(line.classes),
            settings=line.input,
            device=device,
            download=download,
        )
    first = networks[0].name
    training = None if train is None else load_images(train, models[first], labels=train_labels)
    if training is not None:
        models = {
            name: replace(one, classes=training.classes)
            if len(one.classes) == len(training.classes)
            else one
            for name, one in models.items()
        }
    testing = None if test is None else load_images(test, models[first], labels=test_labels)
    live = LiveModels(models=models, train=training, test=testing, score=score, count=count)
    others = [] if audited is None else differences(live, audited)
    if others and same:
        msg = (
            f"What the audit's run.toml names is no longer what was audited: {'; '.join(others)}. "
            f"Give --model, --train and --test to look at it all the same."
        )
        raise MismatchError(msg)
    note = f"Not what was audited: {'; '.join(others)}." if others else ""
    return replace(live, note=note)


def differences(live: LiveModels, audited: AuditRecord) -> list[str]:
    """Return what is not as it was when it was audited; costs a pass over the data's bytes."""
    found = []
    if fingerprint_model(live.main.module) != audited.model.fingerprint:
        found.append("the network has other weights")
    for name, data, card in (
        ("training", live.train, audited.train),
        ("test", live.test, audited.test),
    ):
        if data is not None and data.fingerprint() != card.fingerprint:
            found.append(f"the {name} images are others")
    return found
