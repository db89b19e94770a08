"""What an explanation's page shows: one entry per image."""

from dataclasses import dataclass
from typing import final

from whence.display import picture_uri
from whence.report.shots import Shot, cells_of, drawn, shot_of
from whence.report.words import brief_method, number, percent
from whence.results.records import ExplanationRecord

__all__ = ["ExplainedView", "explanation_views"]


@final
@dataclass(frozen=True, kw_only=True)
class ExplainedView:
    """An explained image."""

    anchor: str
    number: int
    name: str
    plain: Shot
    shot: Shot
    prediction: str
    confidence: str
    confidence_share: float
    explained: str
    total: str
    gap: str
    verdict: str
    method: str
    full_method: str
    scale: str
    cells: str


def explanation_views(
    record: ExplanationRecord, shared: float | None = None
) -> tuple[ExplainedView, ...]:
    """The explained images, ready to be shown; each map has its own colour scale.

    Args:
        record: The explanation.
        shared: Where another colour scale ends, which the maps share with others.
    """
    views = []
    for at, one in enumerate(record.maps):
        picture = record.pictures[at]
        uri, heat = picture_uri(picture), drawn(one.values, shared)
        views.append(
            ExplainedView(
                anchor=f"image-{at + 1}",
                number=at + 1,
                name=record.names[at],
                plain=shot_of(picture, uri),
                shot=shot_of(picture, uri, heat),
                prediction=record.model.classes[record.predictions[at]],
                confidence=percent(record.confidences[at]),
                confidence_share=record.confidences[at],
                explained=number(one.explained),
                total=number(one.total),
                gap="" if one.gap is None else percent(one.gap, 2),
                verdict="" if one.found is None else ("succeeded" if one.found else "failed"),
                method=brief_method(one.method),
                full_method=one.method,
                scale=heat.end,
                cells=cells_of([one.values]),
            )
        )
    return tuple(views)
