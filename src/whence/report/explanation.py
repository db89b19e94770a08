"""What an explanation's page shows: one entry per image."""

from dataclasses import dataclass
from typing import final

from whence.display import is_pixel_art, picture_uri, symmetric_limit
from whence.report.views import PERCENTILE, Shot, heat_uri, scale_text
from whence.report.words import number, percent
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
    method: str
    scale: str


def explanation_views(record: ExplanationRecord) -> tuple[ExplainedView, ...]:
    """The explained images, ready to be shown; each map has its own colour scale."""
    views = []
    for at, one in enumerate(record.maps):
        picture = record.pictures[at]
        limit = symmetric_limit([one.values], PERCENTILE)
        height, width = picture.shape[:2]
        plain = Shot(
            picture=picture_uri(picture),
            width=width,
            height=height,
            pixelated=is_pixel_art(picture),
        )
        views.append(
            ExplainedView(
                anchor=f"image-{at + 1}",
                number=at + 1,
                name=record.names[at],
                plain=plain,
                shot=Shot(
                    picture=plain.picture,
                    width=width,
                    height=height,
                    pixelated=plain.pixelated,
                    heat=heat_uri(one.values, limit),
                ),
                prediction=record.model.classes[record.predictions[at]],
                confidence=percent(record.confidences[at]),
                confidence_share=record.confidences[at],
                explained=number(one.explained),
                total=number(one.total),
                gap="" if one.gap is None else percent(one.gap, 2),
                method=one.method,
                scale=scale_text(limit),
            )
        )
    return tuple(views)
