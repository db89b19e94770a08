"""The study behind a verification: two networks, asked the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.core import ImageData, Images, Method, Progress, logits_from
from whence.errors import DataError
from whence.influence import Scorer
from whence.network import Network
from whence.recipes.audit_subject import Subject
from whence.recipes.cards import dataset_card, model_card, run_card
from whence.recipes.findings import sampled
from whence.recipes.fix_plan import Plan
from whence.recipes.measure import scale, verdict
from whence.recipes.verify_figures import row_of, sentences_of
from whence.recipes.verify_maps import (
    FAITHFULNESS,
    Explained,
    Traced,
    explained,
    faithful,
    inside_share,
    traced,
)
from whence.recipes.verify_plant import Planted, Shown, planted, shown
from whence.recipes.verify_shots import Seen, accepted_in, shots
from whence.results import Audited, ModelCard
from whence.results.verify import VerifyFact, VerifyRecord, VerifyRow

__all__ = ["Study"]

TESTED = 16


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Two networks, and what is asked of both."""

    audited: Audited
    plan: Plan
    modules: tuple[nn.Module, nn.Module]
    subject: Subject
    train: ImageData
    test: ImageData
    method: Method
    scorer: Scorer
    k: int
    count: int
    most: int
    queries: int
    seed: int
    masks: NDArray[np.bool_] | None
    progress: Progress
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, also: Mapping[str, ImageData], command: str) -> VerifyRecord:
        """Ask both networks everything, and return the record."""
        started = perf_counter()
        images, labels, places, kept = self.tested()
        networks = (self.read(0, images), self.read(1, images))
        guesses = self.predicted(networks, images)
        seen = shown(self.plan, self.train, images, self.subject)
        put = self.put(images, labels, seen, kept)
        rows = [
            *self.accuracy(labels, guesses, seen),
            *(row for name, data in also.items() for row in self.other(networks, name, data)),
        ]
        started = self.clock("accuracy", started)
        views: list[Seen] = []
        if put is not None:
            rows += self.shortcut(networks, images, labels, put)
            rows += self.attribution(networks, put, views)
        some = torch.tensor(sampled(len(images), self.most, self.seed))
        pair = self.explained(networks, images[some], "attributing test images")
        views.append(Seen(kind="test", rows=some, pair=pair))
        started = self.clock("attribution", started)
        rows += self.training(networks, images, labels, guesses, put)
        started = self.clock("training features", started)
        rows += self.faithfulness(networks, images[some], pair)
        self.clock("faithfulness", started)
        return VerifyRecord(
            model=self.card(0, ""),
            fixed=self.card(1, ", put right"),
            train=dataset_card(self.train),
            test=dataset_card(self.test),
            accepted=accepted_in(self.plan, self.audited),
            dropped=len(self.plan.dropped),
            relabelled=len(self.plan.relabelled),
            rows=tuple(rows),
            facts=self.facts(images),
            images=tuple(
                shots(self.subject, self.test, images, labels, places, self.plan, put, views)
            ),
            sentences=sentences_of(rows),
            notes=tuple(self.notes),
            run=run_card(command, self.settings(), self.seconds),
        )

    def card(self, side: int, after: str) -> ModelCard:
        """Return the card of one of the networks."""
        return model_card(
            self.modules[side],
            name=self.subject.name + after,
            classes=self.audited.classes,
            preprocessing=self.subject.preprocessing,
        )

    def settings(self) -> dict[str, object]:
        """Return the settings for the record."""
        return {
            "method": str(self.method),
            "score": self.scorer.name,
            "proponents": self.k,
            "planted images, at most": self.count,
            "attributed images, at most": self.most,
            "traced predictions, at most": self.queries,
            "masks of the test images": "given" if self.masks is not None else "none",
            "seed": self.seed,
        }

    def tested(self) -> tuple[Images, Tensor, Tensor, list[int]]:
        """Return all usable test images with labels and places."""
        batches = list(self.test.batches(64))
        labels = torch.cat([b.labels for b in batches]) if batches else torch.empty(0)
        if not (labels >= 0).any():
            msg = f"{self.test.title} holds no image with a label, which a comparison needs."
            raise DataError(msg)
        places = torch.cat([b.indices for b in batches])
        return torch.cat([b.images for b in batches]), labels, places, places.tolist()

    def read(self, side: int, images: Images) -> Network:
        """Return one of the networks as a graph."""
        return Network.read(self.modules[side], images[:2])

    def predicted(self, networks: tuple[Network, Network], images: Images) -> tuple[Tensor, Tensor]:
        """Return what both networks predict."""
        found = []
        for network in networks:
            parts = [images[at : at + 64] for at in range(0, len(images), 64)]
            with torch.no_grad():
                found.append(torch.cat([logits_from(network, p).argmax(dim=1) for p in parts]))
        return found[0], found[1]

    def clock(self, stage: str, started: float) -> float:
        """Note how long a stage took; return the time now."""
        now = perf_counter()
        self.seconds[stage] = now - started
        return now

    def put(self, images: Images, labels: Tensor, seen: Shown, kept: list[int]) -> Planted | None:
        """Return images with a shortcut planted; None if nothing is masked, or nothing can be."""
        if self.plan.shortcut is None:
            return None
        found, notes = planted(
            self.plan,
            self.train,
            images,
            labels,
            seen,
            most=self.count,
            seed=self.seed,
            masks=None if self.masks is None else self.masks[kept],
        )
        self.notes.extend(notes)
        return found

    def accuracy(
        self, labels: Tensor, guesses: tuple[Tensor, Tensor], seen: Shown
    ) -> list[VerifyRow]:
        """Return accuracies on the test images."""
        right = tuple(guess == labels for guess in guesses)
        known = labels >= 0
        rows = [
            row_of(
                "accuracy", "accuracy", "Test images that are predicted right.",
                right[0][known], right[1][known], "higher",
            )
        ]  # fmt: skip
        if self.plan.shortcut is None:
            return rows
        if not seen.by:
            self.notes.append(
                f"Which test images show {', '.join(seen.unknown)} cannot be told, since pixels "
                f"there differ from image to image; give images that are free of it (also, --also)."
            )
            return rows
        shows = seen.any(len(labels))
        parts = (
            ("accuracy without the shortcut", "Test images that do not show it.", known & ~shows),
            ("accuracy with the shortcut", "Test images that show it themselves.", known & shows),
        )
        return rows + [
            row_of("accuracy", name, text, right[0][part], right[1][part], "higher")
            for name, text, part in parts
            if part.any()
        ]

    def other(
        self, networks: tuple[Network, Network], name: str, data: ImageData
    ) -> list[VerifyRow]:
        """Return the accuracy on further images."""
        batches = list(data.batches(64))
        images = torch.cat([b.images for b in batches])
        labels = torch.cat([b.labels for b in batches])
        guesses = self.predicted(networks, images)
        known = labels >= 0
        right = [(guess == labels)[known] for guess in guesses]
        text = f"Images of {data.title} that are predicted right."
        return [row_of("accuracy", f"accuracy on {name}", text, right[0], right[1], "higher")]

    def shortcut(
        self, networks: tuple[Network, Network], images: Images, labels: Tensor, put: Planted
    ) -> list[VerifyRow]:
        """Return what becomes of images with a shortcut of another class in them."""
        truth = labels[put.rows]
        plain = self.predicted(networks, images[put.rows])
        with_it = self.predicted(networks, put.images)
        others = self.predicted(networks, put.others)
        taken = [guess == put.classes for guess in with_it]
        rows = [
            row_of(
                "shortcut", "right with the shortcut planted",
                "Images of other classes with its pixels in them that are predicted right.",
                with_it[0] == truth, with_it[1] == truth, "higher",
            ),
            row_of(
                "shortcut", "taken in by the shortcut",
                "The same images that are predicted as the shortcut's class.",
                taken[0], taken[1], "lower",
            ),
            row_of(
                "shortcut", "the same images without it",
                "Predicted as the shortcut's class though nothing was planted.",
                plain[0] == put.classes, plain[1] == put.classes, "neither",
            ),
            row_of(
                "shortcut", "control: other pixels there",
                "Predicted as the shortcut's class with pixels of an image of another class in "
                "the same place.",
                others[0] == put.classes, others[1] == put.classes, "neither",
            ),
        ]  # fmt: skip
        if put.moved.any():
            some = put.moved
            away = self.predicted(networks, put.elsewhere[some])
            rows.append(
                row_of(
                    "shortcut", "control: its pixels elsewhere",
                    "Predicted as the shortcut's class with its pixels at another place.",
                    away[0] == put.classes[some], away[1] == put.classes[some], "neither",
                )
            )  # fmt: skip
        names = sorted(set(put.findings))
        for name in names if len(names) > 1 else ():
            own = torch.tensor([one == name for one in put.findings])
            rows.append(
                row_of(
                    "shortcut", "taken in by the shortcut", f"The same for {name} alone.",
                    taken[0][own], taken[1][own], "lower", finding=name,
                )
            )  # fmt: skip
        return rows

    def explained(
        self, networks: tuple[Network, Network], images: Images, stage: str
    ) -> tuple[Explained, Explained]:
        """Return what both networks make of images, and where that comes from."""
        found = []
        for side, network in enumerate(networks):
            self.progress(stage, side, len(networks))
            found.append(explained(network, images, self.method))
        self.progress(stage, len(networks), len(networks))
        return found[0], found[1]

    def attribution(
        self,
        networks: tuple[Network, Network],
        put: Planted,
        views: list[Seen],
    ) -> list[VerifyRow]:
        """Return how much of the attribution lies in the planted region."""
        some = torch.tensor(sampled(len(put.rows), self.most, self.seed))
        pair = self.explained(networks, put.images[some], "attributing planted images")
        views.append(Seen(kind="planted", rows=some, pair=pair))
        inside = put.inside[some]
        shares = [inside_share(one.values.cpu(), inside) for one in pair]
        return [
            row_of(
                "attribution", "attribution in the region",
                "Share of the evidence for the prediction that lies in the planted region.",
                shares[0], shares[1], "lower",
                reference=float(inside.double().mean()), referred="share of the area",
            )
        ]  # fmt: skip

    def training(
        self,
        networks: tuple[Network, Network],
        images: Images,
        labels: Tensor,
        guesses: tuple[Tensor, Tensor],
        put: Planted | None,
    ) -> list[VerifyRow]:
        """Return where predictions come from in the training data, and what was left out did."""
        group = sorted({*self.plan.dropped, *self.plan.relabelled})
        wrong = ((guesses[0] != labels) & (labels >= 0)).nonzero()[:, 0]
        plain = wrong if len(wrong) else torch.arange(len(images))
        first = 0 if put is None else min(self.queries, len(put.rows))
        chosen = [] if put is None else sampled(len(put.rows), first, self.seed)
        second = [int(plain[k]) for k in sampled(len(plain), self.queries, self.seed)]
        if not group:
            second = []
        if not chosen and not second:
            return []
        parts = [] if put is None else [put.images[chosen]]
        asked = torch.cat([*parts, images[second]])
        regions = tuple(one for one in self.plan.accepted if one.action == "mask")
        found = [
            traced(
                network,
                self.train,
                asked,
                scorer=self.scorer,
                k=self.k,
                masks=None if self.plan.shortcut is None else self.plan.masks,
                carriers=frozenset(place for one in regions for place in one.images),
                group=group,
                wanted=range(len(chosen)),
                progress=self.progress,
            )
            for network in networks
        ]
        if found[0].map != found[1].map:
            self.notes.append(
                f"Training-feature maps are {found[0].map} before and {found[1].map} after, since "
                f"one of the networks has an operation without a rule."
            )
        return self.training_rows(found, len(chosen), group)

    def training_rows(
        self, found: Sequence[Traced], first: int, group: Sequence[int]
    ) -> list[VerifyRow]:
        """Return the figures of what was traced."""
        rows = []
        if first:
            area = self.plan.shortcut
            touched = None if area is None else area.flatten(1).double().mean(dim=1)
            inside = [one.inside[:first] for one in found]
            rows = [
                row_of(
                    "training", "training-feature maps in the region",
                    "Share of the influence of the strongest proponents on planted images that "
                    "their pixels in the region carry.",
                    inside[0], inside[1], "lower",
                    reference=None if touched is None else float(touched[touched > 0].mean()),
                    referred="share of the area",
                ),
                row_of(
                    "training", "proponents that show the shortcut",
                    "Share of the strongest proponents of planted images that show it.",
                    found[0].carriers[:first], found[1].carriers[:first], "lower",
                ),
            ]  # fmt: skip
        if group:
            rows.append(
                row_of(
                    "images", "influence of the images left out or relabelled",
                    f"Mean score of the {len(group)} images on predictions, less that of a "
                    f"training image that stayed as it was.",
                    found[0].group, found[1].group, "neither", share=False,
                )
            )  # fmt: skip
        return [row for row in rows if row.before is not None]

    def faithfulness(
        self, networks: tuple[Network, Network], images: Images, pair: tuple[Explained, Explained]
    ) -> list[VerifyRow]:
        """Return metrics of the maps of test images."""
        found = []
        for side, network in enumerate(networks):
            self.progress("faithfulness", side, len(networks))
            found.append(faithful(network, images, pair[side]))
        self.progress("faithfulness", len(networks), len(networks))
        texts = {
            "deletion": "Area under the probability of the prediction while the highest pixels of "
            "its map are removed first, less that of a random order.",
            "insertion": "The same while they are put onto a blurred image first.",
            "faithfulness": "Correlation of sums of the map with the fall of the logit.",
            "completeness": "How far a map is from adding up to what it explains.",
        }
        return [
            row_of(
                "faithfulness", name, texts[name.split(",")[0].split()[0]],
                found[0][name], found[1][name], "lower" if better == "lower" else "higher",
                share=False,
            )
            for name, better in FAITHFULNESS
        ]  # fmt: skip

    def facts(self, images: Images) -> tuple[VerifyFact, ...]:
        """Return what is so without chance."""
        held = [verdict(module, images[:2]) for module in self.modules]
        errors = [scale(module, images[:TESTED]) for module in self.modules]
        said = {True: "yes, by proof", False: "no", None: "unknown"}
        return (
            VerifyFact(
                name="homogeneous (an X-DNN)", before=said[held[0][0]], after=said[held[1][0]]
            ),
            VerifyFact(
                name="largest scale error |f(kx) - k f(x)| / |k f(x)|",
                before=f"{errors[0][0]:.1e}",
                after=f"{errors[1][0]:.1e}",
            ),
            VerifyFact(
                name="largest |f(0)|", before=f"{errors[0][1]:.1e}", after=f"{errors[1][1]:.1e}"
            ),
        )
