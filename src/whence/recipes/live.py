"""Live: one picture at a time, explained and traced on request, as the viewer asks for it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.adapters import LoadedModel
from whence.adapters.images import decode_image
from whence.attribution import cards, method_named, needs_network
from whence.core import ImageData, Margin, Method, Progress, silent
from whence.errors import SettingError, TargetError
from whence.influence import Influence, influence, plain_settings, scorer_named
from whence.network import Network
from whence.recipes.audit_maps import Mapper, Pair
from whence.recipes.audit_subject import Subject
from whence.recipes.cards import dataset_card, model_card, run_card
from whence.recipes.explain import explain, picture_of
from whence.recipes.harm import harm_of, lengths_of, rather_than
from whence.recipes.load import pairs
from whence.results import (
    AuditRecord,
    DatasetCard,
    ExplanationRecord,
    InfluenceRecord,
    QueryRecord,
)

__all__ = ["LiveModels", "Picked"]

Picked = bytes | tuple[str, int]
"""A picture: the bytes of an image file, or the name of a dataset and a place in it."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LiveModels:
    """One network or several, with their data, ready to answer about one picture at a time.

    Args:
        models: The networks by name; the first is the one that was trained on ``train``.
        train: Its training images; None leaves out where predictions come from.
        test: Images to choose from.
        score: How gradients become scores; see ``whence.influence.SCORERS``.
        count: Training images for, and as many against, a prediction.
        note: What a person must know, such as that the network is not the audited one.
    """

    models: Mapping[str, LoadedModel]
    train: ImageData | None = None
    test: ImageData | None = None
    score: str = "grad-cos"
    count: int = 5
    note: str = ""
    read: dict[str, Network] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that there is a network.

        Raises:
            SettingError: There is none, or no such score.
        """
        if not self.models:
            msg = "A live page needs a network, and none was given."
            raise SettingError(msg)
        scorer_named(self.score)

    @property
    def networks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.models)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the first network's classes."""
        return self.main.classes

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Name and cost of every method."""
        return tuple((card.name, f"{card.family}, {card.passes}") for card in cards())

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Datasets to choose pictures from, and how many they have."""
        return tuple((name, len(data)) for name, data in self.data.items())

    @property
    def traces(self) -> bool:
        """Whether there are training images to trace a prediction to."""
        return self.train is not None

    @property
    def main(self) -> LoadedModel:
        """The first network."""
        return next(iter(self.models.values()))

    @property
    def data(self) -> dict[str, ImageData]:
        """The datasets by name."""
        given = (("test", self.test), ("train", self.train))
        return {name: data for name, data in given if data is not None}

    def pictures(
        self, source: str, places: Sequence[int]
    ) -> tuple[tuple[int, str, str, NDArray[np.uint8]], ...]:
        """Return place, name, class and picture of some images; unusable ones are left out.

        Args:
            source: The name of a dataset.
            places: Which of its images.

        Raises:
            SettingError: There is no such dataset, or no such image.
        """
        data = self.data_named(source)
        shown = [place for place in places if 0 <= place < len(data)]
        found = []
        for batch in data.batches(32, shown) if shown else ():
            for place, image, label in zip(
                batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True
            ):
                name = self.classes[label] if 0 <= label < len(self.classes) else ""
                picture = picture_of(image, self.main.preprocessing)
                found.append((place, data.name(place), name, picture))
        return tuple(found)

    def explain(
        self,
        image: Picked,
        name: str,
        *,
        network: str,
        method: str,
        settings: Sequence[str] = (),
        target: str = "predicted",
        versus: str = "",
        progress: Progress = silent,
    ) -> ExplanationRecord:
        """Say which pixels of one picture the prediction of one network comes from.

        Args:
            image: The picture.
            name: What to call it.
            network: Which network.
            method: A name of ``whence methods``.
            settings: Its settings, ``key=value``.
            target: ``predicted``, or a class by name or number.
            versus: A second class, ``runner-up``, or nothing.
            progress: Told how far the work is; may raise to stop it.

        Raises:
            ImageError: The picture cannot be used.
            SettingError, TargetError: What was asked for does not exist.
            WhenceError: As :func:`whence.explain`.
        """
        progress("loading", 0, 1)
        loaded = self.named(network)
        chosen = method_named(
            method,
            pairs(settings, "steps=64"),
            normalisation=loaded.preprocessing.normalisation,
        )
        images, _ = self.loaded(image, name, loaded)
        aim = class_named(target, loaded.classes)
        foil = class_named(versus, loaded.classes) if versus else None
        words = [f"whence explain {name} --model {loaded.name} --method {method}"]
        words += [f"--set {one}" for one in settings]
        words += [f"--target {target}"] if target != "predicted" else []
        words += [f"--versus {versus}"] if versus else []
        result = explain(
            self.readable(network, images, chosen),
            images,
            target=aim,
            versus=foil,
            method=chosen,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            names=[name],
            command=" ".join(words),
            progress=progress,
        )
        card = model_card(
            loaded.module,
            name=loaded.name,
            classes=result.model.classes,
            preprocessing=loaded.preprocessing,
        )
        return replace(result, model=card).record

    def trace(
        self,
        image: Picked,
        explained: ExplanationRecord,
        *,
        target: str = "predicted",
        versus: str = "",
        progress: Progress = silent,
    ) -> AuditRecord:
        """Say which training images a class of one picture comes from, and from which pixels.

        It costs one forward and two backward passes per training image, once for each picture.

        Args:
            image: The picture.
            explained: Its explanation, whose map stands beside the training images.
            target: ``predicted``, or a class by name or number.
            versus: A second class: then what speaks for the first rather than for this one.
            progress: Told how far the work is; may raise to stop it.

        Raises:
            SettingError: No training images were given.
            WhenceError: As :func:`whence.audit`.
        """
        if self.train is None:
            msg = "Training images are needed to trace a prediction to; give --train."
            raise SettingError(msg)
        images, label = self.loaded(image, explained.names[0], self.main)
        network = self.graph(self.networks[0], images)
        aims, confidence = self.aims(network, images, target, versus)
        scorer = scorer_named(self.score)
        scores = influence(
            network,
            self.train,
            images.to(network.example.device).repeat(len(aims), 1, 1, 1),
            Margin(torch.tensor(aims, device=network.example.device)),
            scorer=scorer,
            progress=progress,
        )
        subject = Subject.of(self.main, self.train, None, self.classes, None)
        mapper = Mapper(subject=subject, train=self.train, asked=None)
        progress("training features", 0, 1)
        sides = self.sides(scores, mapper, contrast=len(aims) > 1)
        progress("training features", 1, 1)
        drawn = mapper.drawn.name if mapper.drawn else ""
        content = image if isinstance(image, bytes) else repr(image).encode()
        settings = {"score": self.score, "score settings": plain_settings(scorer)}
        return AuditRecord(
            model=explained.model,
            train=dataset_card(self.train),
            test=DatasetCard(
                name=explained.names[0], count=1, fingerprint=hashlib.sha256(content).hexdigest()
            ),
            accuracy=None,
            queries=(
                QueryRecord(
                    index=0,
                    name=explained.names[0],
                    label=label,
                    prediction=aims[0],
                    confidence=confidence,
                    picture=explained.pictures[0],
                    attribution=explained.maps[0],
                    proponents=sides[0],
                    opponents=sides[1],
                    training_map=drawn,
                    stand_in=mapper.stand_in,
                ),
            ),
            training_images=mapper.pictures,
            suspect_labels=(),
            regions=(),
            run=run_card("whence view", {**settings, "training_map": drawn}, {}),
        )

    def sides(
        self, scores: Influence, mapper: Mapper, *, contrast: bool
    ) -> list[tuple[InfluenceRecord, ...]]:
        """Return the strongest proponents and opponents with their maps."""
        factors = None
        numbers = scores.scores[:, 0]
        if contrast:
            scores = rather_than(scores, 0, 1)
            numbers, factors = harm_of(scores), lengths_of(scores)
        found = []
        for sign in (1, -1):
            top = (sign * numbers).topk(min(self.count, len(numbers)))
            rows = [
                row
                for row, s in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                if s > 0
            ]
            asked: list[Pair] = [(int(scores.indices[row]), float(numbers[row])) for row in rows]
            each = None if factors is None else factors[rows]
            found.append(mapper.influences(scores, 0, asked, each))
        return found

    def aims(
        self, network: Network, images: Tensor, target: str, versus: str
    ) -> tuple[list[int], float]:
        """Return the class that is traced, what it is held against, and its probability."""
        with torch.no_grad():
            logits = network(images.to(network.example.device))[0]
        order = logits.argsort(descending=True).tolist()
        words = {"predicted": order[0], "runner-up": order[min(1, len(order) - 1)]}
        found = []
        for text in (target, versus):
            if text:
                known = class_named(text, self.classes)
                found.append(words[known] if isinstance(known, str) else known)
        if len(set(found)) < len(found):
            msg = "The class and the one that it is held against are the same. Choose another."
            raise TargetError(msg)
        return found, float(logits.softmax(dim=0)[found[0]])

    def loaded(self, image: Picked, name: str, model: LoadedModel) -> tuple[Tensor, int | None]:
        """Return a picture as a batch of one, and its label if it has one."""
        if isinstance(image, bytes):
            return model.preprocessing.tensor(decode_image(image, name))[None], None
        data = self.data_named(image[0])
        batch = next(iter(data.batches(1, [image[1]])))
        label = int(batch.labels[0])
        if model is self.main:
            return batch.images, label if label >= 0 else None
        shown = picture_of(batch.images[0], self.main.preprocessing)
        return model.preprocessing.tensor(shown)[None], label if label >= 0 else None

    def readable(self, name: str, images: Tensor, method: Method) -> LoadedModel | Network:
        """Return a network as its method needs it; a graph is read once."""
        return self.graph(name, images) if needs_network(method) else self.models[name]

    def graph(self, name: str, images: Tensor) -> Network:
        """Return a network as a graph, which is read once."""
        if name not in self.read:
            module = self.models[name].module
            place = next((p.device for p in module.parameters()), images.device)
            self.read[name] = Network.read(module, images.to(place))
        return self.read[name]

    def named(self, name: str) -> LoadedModel:
        """Return a network by its name."""
        if name not in self.models:
            msg = f"There is no network {name!r}. There are: {', '.join(self.models)}."
            raise SettingError(msg)
        return self.models[name]

    def data_named(self, name: str) -> ImageData:
        """Return a dataset by its name."""
        if name not in self.data:
            msg = f"There are no {name!r} images. There are: {', '.join(self.data) or 'none'}."
            raise SettingError(msg)
        return self.data[name]


def class_named(text: str, classes: Sequence[str]) -> str | int:
    """Return a class by its name or number; ``predicted`` and ``runner-up`` as they are.

    Raises:
        TargetError: There is no such class; the closest are named.
    """
    word = text.strip()
    if word in ("predicted", "runner-up"):
        return word
    if word in classes:
        return list(classes).index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    near = get_close_matches(word, classes, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    msg = (
        f"There is no class {word!r}.{hint} Give predicted, runner-up, a number from 0 to "
        f"{len(classes) - 1}, or a name such as {classes[0]!r}."
    )
    raise TargetError(msg)
