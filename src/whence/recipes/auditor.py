"""The stages of an audit, and what they share."""

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor

from whence.core import ImageData, Images, Margin, Progress
from whence.errors import DataError, SettingError, UnsupportedOperation
from whence.gradients import Recorder
from whence.influence import Influence, influence, plain_settings
from whence.network import Network
from whence.recipes.audit_maps import Mapper, Pair, attributed, map_record
from whence.recipes.audit_subject import Settings, Subject, Tested, choose, predict
from whence.recipes.boxes import CarriedMap
from whence.recipes.cards import class_names, dataset_card, model_card, run_card
from whence.recipes.findings import harmful_images, sampled, suspect_labels
from whence.recipes.groups import group_records
from whence.recipes.harm import harm_of, lengths_of, rather_than
from whence.recipes.neighbours import Neighbours, neighbours_of
from whence.recipes.proposals import Grounds, proposed
from whence.recipes.regions import find_shortcuts
from whence.recipes.removed import removal_record
from whence.results import AuditRecord, InfluenceRecord, QueryRecord

__all__ = ["Auditor", "Settings", "Subject"]

THUMBNAILS = 48
"""Training images whose picture is kept for suspects, and as a reference for regions."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The test images under audit.

    Args:
        places: Their places in the test data.
        images: The images, ``(q, c, h, w)``.
        predictions: What is predicted, ``(q,)``.
        labels: What is true; -1 where it is not known.
        confidences: Probabilities of the predictions.
    """

    places: list[int]
    images: Images
    predictions: Tensor
    labels: Tensor
    confidences: Tensor

    @property
    def wrong(self) -> list[int]:
        """Rows of the images that are predicted wrongly."""
        return (
            ((self.labels >= 0) & (self.labels != self.predictions.cpu())).nonzero()[:, 0].tolist()
        )


@final
class Auditor:
    """One audit, stage by stage; holds what the stages share."""

    def __init__(
        self,
        subject: Subject,
        train: ImageData,
        test: ImageData,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.subject = subject
        self.train = train
        self.test = test
        self.settings = settings
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.mapper = Mapper(subject=subject, train=train, asked=settings.training_map)
        self.harm: dict[int, Tensor] = {}

    def run(self, command: str) -> AuditRecord:
        """Go through all stages and return the record."""
        started = perf_counter()
        for data in (self.train, self.test):
            if not len(data):
                msg = f"{data.title} holds no images."
                raise DataError(msg)
        first = next(iter(self.train.batches(2)), None)
        if first is None:
            msg = f"{self.train.title} holds no usable images."
            raise DataError(msg)
        device = self.device
        network = Network.read(self.subject.module, first.images.to(device))
        started = self.clock("reading the model", started)
        size = self.settings.batch_size or 32
        tested = predict(network, self.test, device, size, self.progress)
        asked = self.ask(tested)
        started = self.clock("predicting", started)
        scores = self.score(network, asked)
        started = self.clock("influence", started)
        maps = attributed(
            self.settings.method, network, asked.images, asked.predictions, self.progress
        )
        started = self.clock("attribution", started)
        queries, carried = self.trace(scores, asked, maps)
        started = self.clock("training features", started)
        own = self.own_columns(scores, asked)
        neighbours = self.neighbours(network, own)
        self.clock("neighbours", started)
        return self.record(network, tested, own, asked, queries, carried, neighbours, command)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensor = next(self.subject.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def clock(self, stage: str, started: float) -> float:
        """Note how long a stage took; return the time now."""
        now = perf_counter()
        self.seconds[stage] = now - started
        return now

    def ask(self, tested: Tested) -> Asked:
        """Return the test images to audit."""
        places = choose(tested, self.settings.queries, self.settings.count, len(self.test))
        usable = tested.indices.tolist()
        rows = [usable.index(place) for place in places]
        batches = self.test.batches(32, places)
        return Asked(
            places=places,
            images=torch.cat([b.images for b in batches]).to(self.device),
            predictions=tested.predictions[rows].to(self.device),
            labels=tested.labels[rows],
            confidences=tested.confidences[rows],
        )

    def score(self, network: Network, asked: Asked) -> Influence:
        """Return the scores for the predictions and, after these, for the labels of wrong ones."""
        wrong = asked.wrong
        labels = asked.labels[wrong].to(self.device)
        return influence(
            network,
            self.train,
            torch.cat([asked.images, asked.images[wrong]]),
            Margin(torch.cat([asked.predictions, labels])),
            scorer=self.settings.scorer,
            checkpoints=self.settings.checkpoints or None,
            parameters=self.settings.parameters,
            batch_size=self.settings.batch_size,
            progress=self.progress,
        )

    def own_columns(self, scores: Influence, asked: Asked) -> Influence:
        """Return the scores for the predictions alone."""
        return replace(scores, scores=scores.scores[:, : len(asked.places)])

    def trace(
        self, scores: Influence, asked: Asked, maps: list[Any]
    ) -> tuple[list[QueryRecord], list[CarriedMap]]:
        """Return each query with the training images that matter, and the proponents' maps."""
        k = self.settings.k
        sides = (scores.proponents(k), scores.opponents(k))
        wrong = {row: len(asked.places) + at for at, row in enumerate(asked.wrong)}
        queries: list[QueryRecord] = []
        carried: list[CarriedMap] = []
        for q, place in enumerate(asked.places):
            self.progress("training features", q, len(asked.places))
            found = []
            for sign, side in zip((1, -1), sides, strict=True):
                pairs: list[Pair] = [
                    (int(i), float(s))
                    for i, s in zip(side.indices[q], side.scores[q], strict=True)
                    if sign * s > 0
                ]
                found.append(self.mapper.influences(scores, q, pairs))
            pictures = self.mapper.pictures
            carried += [
                CarriedMap(
                    index=r.index,
                    label=pictures[r.index].label,
                    values=r.map.values,
                    picture=pictures[r.index].picture,
                    query=place,
                )
                for r in found[0]
            ]
            label = int(asked.labels[q])
            drawn = self.mapper.drawn
            queries.append(
                QueryRecord(
                    index=place,
                    name=self.test.name(place),
                    label=label if label >= 0 else None,
                    prediction=int(asked.predictions[q]),
                    confidence=float(asked.confidences[q]),
                    picture=self.subject.picture(asked.images[q]),
                    attribution=map_record(maps[q], 0, self.settings.method),
                    proponents=found[0],
                    opponents=found[1],
                    harmful=self.harmful(scores, q, wrong[q], place) if q in wrong else (),
                    training_map=drawn.name if drawn else "",
                    stand_in=self.mapper.stand_in,
                )
            )
        self.progress("training features", len(asked.places), len(asked.places))
        return queries, carried

    def harmful(
        self, scores: Influence, query: int, label: int, place: int
    ) -> tuple[InfluenceRecord, ...]:
        """Return what speaks for a wrong prediction rather than for the label, with maps."""
        if not isinstance(scores.recorder, Recorder):
            return ()
        difference = rather_than(scores, query, label)
        harm = harm_of(difference)
        self.harm[place] = harm
        top = harm.topk(min(self.settings.k, len(harm)))
        rows = [
            row for row, s in zip(top.indices.tolist(), top.values.tolist(), strict=True) if s > 0
        ]
        pairs = [(int(scores.indices[row]), float(harm[row])) for row in rows]
        return self.mapper.influences(difference, 0, pairs, lengths_of(difference)[rows])

    def neighbours(self, network: Network, scores: Influence) -> Neighbours | None:
        """Return what is around the training images, where a last layer has features."""
        try:
            return neighbours_of(network, self.train, scores, progress=self.progress)
        except (UnsupportedOperation, SettingError) as error:
            self.notes.append(
                f"Labels were not compared with those of similar training images: {error}"
            )
            return None

    def record(
        self,
        network: Network,
        tested: Tested,
        scores: Influence,
        asked: Asked,
        queries: list[QueryRecord],
        carried: list[CarriedMap],
        neighbours: Neighbours | None,
        command: str,
    ) -> AuditRecord:
        """Return the record of the audit."""
        started = perf_counter()
        suspects = suspect_labels(scores, self.train, neighbours=neighbours)
        harmful = harmful_images(self.harm, scores, self.train)
        shown = [s.index for s in suspects[:THUMBNAILS]] + [h.index for h in harmful]
        self.mapper.keep_all(shown)
        usable = scores.indices.tolist()
        reference = self.mapper.pictures_at([usable[i] for i in sampled(len(usable), THUMBNAILS)])
        regions = find_shortcuts(carried, reference, {q.index: q.picture for q in queries})
        names = class_names(classes_of(network), self.subject.classes, self.train.classes)
        findings = proposed(
            Grounds(
                network=network,
                subject=self.subject,
                train=self.train,
                test=self.test,
                classes=names,
                maps=carried,
                pictures={place: one.picture for place, one in self.mapper.pictures.items()},
                reference=reference,
            ),
            regions,
            (suspects, harmful),
            self.settings.groups,
            len(self.harm),
            self.progress,
        )
        groups = group_records(
            scores,
            self.train,
            names,
            lists=self.settings.groups,
            regions=regions,
            suspects=suspects,
            harmful=harmful,
        )
        started = self.clock("findings", started)
        removal = None
        if self.settings.removal is not None:
            removal = removal_record(
                self.settings.removal,
                scores,
                self.harm,
                module=self.subject.module,
                network=network,
                train=self.train,
                images=asked.images,
                places=asked.places,
                predictions=asked.predictions,
                labels=asked.labels,
                progress=self.progress,
            )
            started = self.clock("retraining", started)
        cards = (dataset_card(self.train), dataset_card(self.test))
        self.clock("fingerprints", started)
        return AuditRecord(
            model=model_card(
                self.subject.module,
                name=self.subject.name,
                classes=names,
                preprocessing=self.subject.preprocessing,
            ),
            train=cards[0],
            test=cards[1],
            accuracy=tested.accuracy,
            queries=tuple(queries),
            training_images=self.mapper.pictures,
            suspect_labels=suspects,
            regions=regions,
            run=run_card(command, self.described(scores), self.seconds),
            notes=(
                *notes_on(network, scores, self.train, self.test),
                *self.notes,
                *self.stood_in(),
            ),
            harmful=harmful,
            groups=groups,
            removal=removal,
            findings=findings,
        )

    def stood_in(self) -> tuple[str, ...]:
        """Return a note if another map than the default one had to be drawn."""
        if not self.mapper.stand_in or self.mapper.drawn is None:
            return ()
        return (f"On training images {self.mapper.drawn.name} stands in: {self.mapper.stand_in}",)

    def described(self, scores: Influence) -> dict[str, Any]:
        """Return the settings for the record."""
        s = self.settings
        drawn = self.mapper.drawn or s.training_map
        return {
            "queries": s.queries if isinstance(s.queries, str) else list(s.queries),
            "count": s.count,
            "k": s.k,
            "score": s.scorer.name,
            "score settings": plain_settings(s.scorer),
            "checkpoints": len(s.checkpoints),
            "parameters": s.parameters if isinstance(s.parameters, str) else list(s.parameters),
            "share of parameters compared": round(scores.coverage, 4),
            "passes over the training data": scores.passes,
            "method": str(s.method),
            "training_method": str(drawn.method) if drawn else None,
            "training_map": drawn.name if drawn else None,
            "hold_weights": drawn.hold_weights if drawn else None,
            "groups": {name: len(places) for name, places in s.groups.items()},
            "removal": None if s.removal is None else str(s.removal),
        }


def classes_of(network: Network) -> int:
    """Return how many classes the network has."""
    with torch.no_grad():
        return int(network(network.example).shape[1])


def notes_on(network: Network, scores: Influence, train: ImageData, test: ImageData) -> list[str]:
    """Return what a reader must know to judge the result."""
    notes: list[str] = []
    if scores.zero_gradients:
        notes.append(
            f"{scores.zero_gradients} training images have no gradient at all; their scores are 0."
        )
    zero = scores.zero_queries[: scores.scores.shape[1]]
    if zero.any():
        notes.append(f"{int(zero.sum())} queries have no gradient at all; all their scores are 0.")
    if scores.coverage < 1:
        notes.append(f"Gradients were compared over {scores.coverage:.0%} of the parameters.")
    if network.unread:
        notes.append(
            f"{len(network.unread)} parameters do not enter the predictions, or are cached as "
            f"constants: {', '.join(network.unread[:4])}{', ...' if network.unread[4:] else ''}."
        )
    notes.extend(
        f"{len(data.skipped)} images of {data.title} could not be used; they are listed with the "
        f"data."
        for data in (train, test)
        if data.skipped
    )
    return notes
