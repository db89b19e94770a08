"""The networks of a study of harmony: what each sees of a picture, and what kind it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from whence.adapters import LoadedModel, Preprocessing, load_data
from whence.core import ImageData, Normalisation, fingerprint_model
from whence.errors import DataError, SettingError
from whence.evaluation.transfer_masks import zoom_between
from whence.network import Network
from whence.recipes.load import spread

__all__ = ["TransferNetwork", "transfer_network", "transfer_networks"]

CONVOLUTIONAL, TRANSFORMER = "convolutional", "transformer"

WHOLE, SHORTER = "whole", "shorter side"
"""Of what a network sees a share: of the whole picture, or of a square of its shorter side."""

MOST = 200
"""Images of a bank that are used, spread over it."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TransferNetwork:
    """One network of a study.

    Args:
        name: What to call it in the tables.
        model: The classifier, in eval mode.
        data: The test images with labels, in its own units and of its own size; all networks of
            a study see the same images, under the same numbers.
        normalisation: Its units.
        family: Its kind; found from its operations if empty.
        bank: Other images in its own units, for fills and for methods that draw from a bank; the
            test images themselves if None.
        share: Which share of the picture it sees along each side, from the centre.
        frame: Share of what: ``whole``, or ``shorter side`` for a crop.
        described: Its preprocessing in words, for the record.
    """

    name: str
    model: nn.Module
    data: ImageData
    normalisation: Normalisation
    family: str = ""
    bank: ImageData | None = None
    share: float = 1.0
    frame: str = WHOLE
    described: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        first = next(iter(self.model.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def fingerprint(self) -> str:
        """Its weights and how it sees pictures, as text."""
        sees = f"{self.normalisation} {self.share:g} of {self.frame}"
        return f"{fingerprint_model(self.model)} {type(self.model).__name__} {sees}"

    def zoom_to(self, other: "TransferNetwork") -> float:
        """Return how much of this network's picture another one sees, along each side.

        Raises:
            SettingError: If one sees a square cut from the picture, and the other the whole.
        """
        if self.frame != other.frame:
            msg = (
                f"{self.name} sees the {self.frame} of a picture and {other.name} the "
                f"{other.frame}, so that a map of one does not lie on the picture of the other. "
                f"Give both the same resize and crop (--input)."
            )
            raise SettingError(msg)
        return zoom_between(self.share, other.share)

    def filling(self, kept: Sequence[int]) -> Tensor:
        """Return bank images in its units, ``(n, c, h, w)``; without a bank, test images.

        Of the test images, each is at the place of another one.
        """
        if self.bank is not None:
            places = spread(len(self.bank), MOST)
            return torch.cat([part.images for part in self.bank.batches(64, places)])
        images = torch.cat([part.images for part in self.data.batches(64, kept[:MOST])])
        return images.roll(max(1, len(images) // 2), dims=0)


def family_of(network: Network) -> str:
    """Return ``transformer`` for a network in which positions attend to each other."""
    for node in network.graph.nodes:
        name = str(node.target)
        if "attention" in name or "softmax" in name:
            return TRANSFORMER
    return CONVOLUTIONAL


def seen_share(preprocessing: Preprocessing) -> tuple[float, str]:
    """Return which share of a picture a network sees along each side, and of what."""
    size, resize = preprocessing.size, preprocessing.resize
    if not preprocessing.crop:
        return 1.0, WHOLE
    if isinstance(resize, tuple):
        return size[0] / resize[0], WHOLE
    if resize is None:
        msg = (
            "A network that crops pictures without resizing them sees a share that depends on "
            "the picture, so that its maps cannot be laid on another network's picture. Set "
            "resize in its preprocessing."
        )
        raise SettingError(msg)
    return size[0] / resize, SHORTER


def transfer_network(
    loaded: LoadedModel,
    source: str | Path | ImageData,
    *,
    name: str = "",
    family: str = "",
    labels: Path | None = None,
    bank: str | Path | ImageData | None = None,
) -> TransferNetwork:
    """Return a loaded model with the data as it sees them.

    Args:
        loaded: The model.
        source: The test images, as :func:`whence.adapters.load_data` takes them, or in the
            model's units.
        name: What to call it; as it was asked for by default.
        family: Its kind; found from its operations if empty.
        labels: A file of labels.
        bank: Other images, in the same ways.

    Raises:
        DataError: Data that cannot be read, or without labels.
        SettingError: A preprocessing whose share of the picture is not known.
    """

    def read(given: str | Path | ImageData, labels: Path | None) -> ImageData:
        if not isinstance(given, str | Path):
            return given
        return load_data(given, loaded.preprocessing, classes=loaded.classes, labels=labels)

    share, frame = seen_share(loaded.preprocessing)
    return TransferNetwork(
        name=name or loaded.name,
        model=loaded.module,
        data=read(source, labels),
        normalisation=loaded.preprocessing.normalisation,
        family=family,
        bank=None if bank is None else read(bank, None),
        share=share,
        frame=frame,
        described=loaded.preprocessing.describe(),
    )


def transfer_networks(
    models: Mapping[str, nn.Module | LoadedModel] | Sequence[TransferNetwork],
    data: ImageData | str | Path | None,
    *,
    normalisation: Normalisation | None,
    families: Mapping[str, str] | None,
    bank: ImageData | str | Path | None,
) -> tuple[TransferNetwork, ...]:
    """Return the networks of a study from what a user gives.

    Raises:
        DataError: Data that are missing, or a source for a model whose preprocessing is unknown.
        SettingError: Fewer than two networks, a name twice, or a family of no network.
    """
    if isinstance(models, Mapping):
        kinds = dict(families or {})
        unknown = sorted(set(kinds) - set(models))
        if unknown:
            msg = f"A family is given for {unknown[0]!r}, which is none of {', '.join(models)}."
            raise SettingError(msg)
        networks = tuple(
            made(name, model, data, normalisation, kinds.get(name, ""), bank)
            for name, model in models.items()
        )
    else:
        networks = tuple(models)
    names = [network.name for network in networks]
    if len(networks) < 2 or len(set(names)) < len(names) or not all(names):  # noqa: PLR2004 - one and another
        msg = (
            f"Two networks or more are compared, each under a name of its own; got "
            f"{', '.join(map(repr, names)) or 'none'}."
        )
        raise SettingError(msg)
    check_alike(networks)
    return networks


def made(
    name: str,
    model: nn.Module | LoadedModel,
    data: ImageData | str | Path | None,
    normalisation: Normalisation | None,
    family: str,
    bank: ImageData | str | Path | None,
) -> TransferNetwork:
    """Return one network with its data."""
    if data is None:
        msg = f"Give the test images; without them there is nothing to show to {name}."
        raise DataError(msg)
    if isinstance(model, LoadedModel):
        return transfer_network(model, data, name=name, family=family, bank=bank)
    if isinstance(data, str | Path) or isinstance(bank, str | Path):
        msg = (
            f"Images were given as a source, but the preprocessing of {name} is not known. Load "
            f"the model with load_model, or give the images as TensorData in its units."
        )
        raise DataError(msg)
    return TransferNetwork(
        name=name,
        model=model,
        data=data,
        normalisation=normalisation or Normalisation(),
        family=family,
        bank=bank,
    )


def check_alike(networks: Sequence[TransferNetwork]) -> None:
    """Check that all networks see the same pictures, and each picture of another can be found."""
    first = networks[0]
    for network in networks:
        if len(network.data) != len(first.data):
            msg = (
                f"All networks must see the same images, but {first.name} has "
                f"{len(first.data)} and {network.name} {len(network.data)}."
            )
            raise DataError(msg)
        first.zoom_to(network)
