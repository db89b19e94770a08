"""What a metric says of every candidate on a network: gathered from cells, and read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from whence.evaluation.bootstrap import Bootstrap
from whence.recipes.evaluate_compare import comparisons_of, estimate_record
from whence.recipes.evaluate_folder import Cells
from whence.recipes.evaluate_parts import Candidate, Question
from whence.recipes.evaluate_roar import hits_name, whole_name
from whence.results.evaluation import ComparisonRecord, CurveRecord, ScoreRecord

__all__ = ["Asked", "Gathered", "gathered", "learned"]

SAME = "control"
LEAST = 2
"""Trainings of which the spread is known."""


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A metric on a network, and how what it says of every candidate is read."""

    network: str
    question: Question
    candidates: Sequence[Candidate]
    bootstrap: Bootstrap
    chance: bool

    @property
    def silenced(self) -> str:
        """Why nothing may be claimed, whatever the interval; empty if it may."""
        metric = self.question.first
        if self.question.entry.form == "retraining" and self.chance and metric.seeds < LEAST:
            return "each was trained once, and what another training gives is not known; seeds=3"
        return ""

    @property
    def better(self) -> Literal["higher", "lower", "neither"]:
        """Which direction is better."""
        found: Literal["higher", "lower", "neither"] = self.question.first.card.better
        return found

    def scores(self, answers: Sequence["Gathered"]) -> list[ScoreRecord]:
        """Return the score of every candidate."""
        names = [one.name for one in self.candidates]
        control = self.question.entry.control
        beside = answers[names.index(control)] if control in names else None
        return [
            one.scored(self, candidate, beside)
            for one, candidate in zip(answers, self.candidates, strict=True)
        ]

    def comparisons(self, answers: Sequence["Gathered"]) -> list[ComparisonRecord]:
        """Return every two methods, or maps, that have values, against each other."""
        values = {
            candidate.name: one.drawn
            for one, candidate in zip(answers, self.candidates, strict=True)
            if candidate.kind != "control" and not one.refused
        }
        return comparisons_of(
            self.network,
            self.question.name,
            values,
            self.better,
            self.bootstrap,
            silenced=self.silenced,
        )


class Gathered:
    """A metric's values of one candidate on one network, from all cells."""

    def __init__(self, count: int) -> None:
        self.values = torch.full((count,), torch.nan, dtype=torch.float64)
        self.undefined: Counter[str] = Counter()
        self.curves: list[list[float]] = []
        self.fractions: list[float] = []
        self.refused = ""
        self.repeated: Tensor | None = None

    @property
    def drawn(self) -> Tensor:
        """What intervals are made of: a value per image, or per repetition and image."""
        return self.values if self.repeated is None else self.repeated

    def scored(self, asked: Asked, candidate: Candidate, beside: "Gathered | None") -> ScoreRecord:
        """Return the values with what may be claimed from them."""
        bootstrap, better = asked.bootstrap, asked.better
        verdict, reason, difference = "not applicable", self.refused, None
        estimate = None if self.refused else bootstrap.estimate(self.drawn)
        if not self.refused:
            if candidate.kind == "control":
                verdict, reason = SAME, ""
            elif better == "neither":
                verdict, reason = "no claim", "neither direction is better"
            elif beside is None:
                verdict, reason = "no claim", "no control is fair to this metric"
            else:
                control = torch.full_like(self.drawn, torch.nan)
                control = control if beside.refused else beside.drawn
                found = bootstrap.compare(self.drawn, control, better)
                verdict, reason = found.verdict, found.reason
                difference = found.difference
                if asked.silenced:
                    verdict, reason = "no claim", asked.silenced
        if not self.refused and estimate is None and candidate.kind != "control":
            verdict, reason = "no claim", "undefined for every image"
        return ScoreRecord(
            network=asked.network,
            metric=asked.question.name,
            method=candidate.name,
            values=self.values.numpy(),
            estimate=estimate_record(estimate),
            difference=estimate_record(difference),
            verdict=verdict,
            reason=reason,
            undefined=dict(sorted(self.undefined.items())),
            curve=None if self.refused else self.band(bootstrap),
        )

    def band(self, bootstrap: Bootstrap) -> CurveRecord | None:
        """Return the mean curve with its band."""
        if not self.curves:
            return None
        lines = torch.tensor(self.curves, dtype=torch.float64)
        if bool(lines.isnan().any(dim=1).all()):
            return None
        found = bootstrap.band(lines)
        return CurveRecord(
            fractions=np.array(self.fractions, dtype=np.float64),
            mean=found.mean.numpy(),
            low=found.low.numpy(),
            high=found.high.numpy(),
            count=found.count,
        )


def gathered(n: int, c: int, metric: str, cells: Cells, indices: Sequence[int]) -> Gathered:
    """Collect a metric's values of one candidate on one network."""
    place = {index: k for k, index in enumerate(indices)}
    found = Gathered(len(indices))
    for name in sorted(cells.held):
        if not name.endswith(f"-{n:02d}-{c:03d}"):
            continue
        cell = cells.held[name]
        answer: dict[str, Any] = {} if "refused" in cell else cell["scores"].get(metric, {})
        refused = cell.get("refused") or answer.get("refused")
        if refused:
            found.refused = refused
            continue
        rows = zip(cell["indices"], answer.get("values", ()), strict=False)
        for index, value in rows:
            if value is not None:
                found.values[place[index]] = value
        found.undefined.update(reason for reason in answer.get("reasons", ()) if reason)
        if "curves" in answer:
            found.fractions = answer["fractions"]
            found.curves += [
                [np.nan if x is None else x for x in line] for line in answer["curves"]
            ]
    if found.refused:
        found.values.fill_(torch.nan)
        found.undefined.clear()
    return found


def learned(
    n: int, q: int, c: int, question: Question, cells: Cells, indices: Sequence[int]
) -> Gathered:
    """Collect who was recognised by networks that were trained again, of one candidate."""
    found, metric = Gathered(len(indices)), question.first
    cell = cells.get(hits_name(n, q, c)) or {"refused": "it was not trained"}
    if "refused" in cell:
        found.refused = cell["refused"]
        return found
    start = cells.get(whole_name(n)) or {}
    place = {index: k for k, index in enumerate(indices)}
    rows = [place[index] for index in start["indices"]]
    shares = len(metric.shares)
    hits = torch.tensor(cell["hits"], dtype=torch.float64).view(metric.seeds, shares, -1)
    whole = torch.tensor(start["hits"], dtype=torch.float64)
    found.repeated = torch.full((metric.seeds, len(indices)), torch.nan, dtype=torch.float64)
    found.repeated[:, rows] = hits.mean(dim=1)
    found.values = found.repeated.mean(dim=0)
    found.fractions = [0.0, *metric.shares]
    lines = torch.cat([whole[: metric.seeds].mean(dim=0)[None], hits.mean(dim=0)])
    found.curves = lines.T.tolist()
    return found
