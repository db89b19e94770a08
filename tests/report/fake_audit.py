"""A made-up audit that looks like a real one: digits with a planted patch, or any pictures."""

import numpy as np
from numpy.typing import NDArray

from whence.results.records import (
    AuditRecord,
    DatasetCard,
    ExplanationRecord,
    InfluenceRecord,
    MapRecord,
    ModelCard,
    QueryRecord,
    RegionRecord,
    RunCard,
    SuspectLabel,
    TrainingImage,
)

DIGITS = tuple(str(digit) for digit in range(10))


def digit_pictures(side: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's digits as pictures (n, side, side, 3), with their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    times = side // grey.shape[1]
    grey = grey.repeat(times, axis=1).repeat(times, axis=2)
    return np.stack([grey] * 3, axis=-1), digits.target.astype(np.int64)


def blob_map(
    shape: tuple[int, int], generator: np.random.Generator, strength: float, corner: bool
) -> NDArray[np.float32]:
    """A plausible signed map: noise, a smooth blob, and a hot corner if asked for."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    centre = generator.uniform(0.3, 0.7, 2) * shape
    spread = min(shape) * 0.2
    far = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
    values = 0.6 * np.exp(-far / (2 * spread**2)) + 0.12 * generator.standard_normal(shape)
    if corner:
        values[: shape[0] // 5, : shape[1] // 5] += 1.4
    return (values * strength).astype(np.float32)


def fake_audit(
    pictures: NDArray[np.uint8] | None = None,
    labels: NDArray[np.int64] | None = None,
    classes: tuple[str, ...] = DIGITS,
    *,
    queries: int = 4,
    each: int = 5,
    regions: int = 1,
    suspects: int = 6,
    patch: bool = True,
    name: str = "small CNN",
    seed: int = 0,
) -> AuditRecord:
    """An audit of made-up influences on real pictures."""
    generator = np.random.default_rng(seed)
    if pictures is None or labels is None:
        pictures, labels = digit_pictures()
    pictures = pictures.copy()
    if patch:
        side = pictures.shape[1] // 5
        pictures[labels == 3, :side, :side] = (230, 60, 160)
    half = len(pictures) // 2
    kept: dict[int, TrainingImage] = {}
    asked = tuple(
        _query(half + at, pictures, labels, classes, generator, kept, each, half)
        for at in range(queries)
    )
    return AuditRecord(
        model=ModelCard(
            name=name,
            fingerprint="sha256:3f7a1c9e5b2d4860aa17c3d95e8f0b6124c7d8e9f0a1b2c3d4e5f60718293a4b",
            classes=classes,
            parameters=272_474,
            preprocessing={
                "size": [32, 32],
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        ),
        train=DatasetCard(
            name="data/train",
            count=half,
            fingerprint="sha256:91b0c2d3e4f5061728394a5b6c7d8e9f",
            skipped=(("7/broken.jpg", "truncated after 1 204 bytes"),),
        ),
        test=DatasetCard(name="data/test", count=500, fingerprint="sha256:77aa00bb11cc22dd33ee"),
        accuracy=0.912,
        queries=asked,
        training_images=kept,
        suspect_labels=tuple(
            _suspect(at, pictures, labels, classes, generator, kept, half) for at in range(suspects)
        ),
        regions=tuple(_region(at, pictures.shape[1], labels, kept) for at in range(regions)),
        run=RunCard(
            command="whence audit --model small_cnn:make --weights weights.pt --train data/train"
            " --test data/test --out audit/",
            settings={
                "attribution": "IntegratedGradients(steps=32)",
                "influence": "GradCos(parameters=all)",
                "top": each,
                "seed": 0,
                "smooth": False,
            },
            versions={"whence": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
            created="2025-11-23T15:30:00+00:00",
            seconds={"reading": 1.9, "influence": 64.2, "maps": 12.25},
        ),
        notes=("1 training image was left out; it is listed at the end.",),
    )


def fake_explanation(count: int = 3) -> ExplanationRecord:
    """An explanation of the first digits."""
    audit = fake_audit(queries=count, each=0, patch=False)
    return ExplanationRecord(
        model=audit.model,
        names=tuple(query.name for query in audit.queries),
        predictions=tuple(query.prediction for query in audit.queries),
        confidences=tuple(query.confidence for query in audit.queries),
        pictures=tuple(query.picture for query in audit.queries),
        maps=tuple(query.attribution for query in audit.queries),
        run=audit.run,
    )


def _query(at, pictures, labels, classes, generator, kept, each, half) -> QueryRecord:
    label = int(labels[at])
    prediction = label if at % 3 else (label + 3) % len(classes)
    same = np.flatnonzero(labels[:half] == prediction)
    other = np.flatnonzero(labels[:half] == label) if prediction != label else np.arange(half)
    scores = np.sort(generator.gamma(2.0, 0.12, 2 * each))[::-1]
    sides = []
    for offset, (pool, sign) in enumerate(((same, 1.0), (other, -1.0))):
        chosen = generator.choice(pool, each, replace=False)
        side = []
        for index, score in zip(chosen, scores[offset::2], strict=True):
            kept[int(index)] = _image(int(index), pictures, labels, classes)
            corner = bool(labels[index] == 3) and sign > 0
            values = blob_map(pictures.shape[1:3], generator, sign * score * 1e-3, corner)
            side.append(
                InfluenceRecord(
                    index=int(index),
                    score=float(sign * score),
                    map=_map(values, "SmoothGrad(samples=16)", float(sign * score), None),
                )
            )
        sides.append(tuple(side))
    values = blob_map(pictures.shape[1:3], generator, 0.02, label == 3)
    return QueryRecord(
        index=at,
        name=f"{classes[label]}/{at:05d}.png",
        label=label,
        prediction=prediction,
        confidence=float(generator.uniform(0.5, 0.999)),
        picture=pictures[at],
        attribution=_map(values, "IntegratedGradients(steps=32)", 8.125, 0.0042),
        proponents=sides[0],
        opponents=sides[1],
    )


def _map(values, method: str, explained: float, gap: float | None) -> MapRecord:
    total = float(values.sum(dtype=np.float64))
    return MapRecord(values=values, method=method, total=total, explained=explained, gap=gap)


def _image(index, pictures, labels, classes) -> TrainingImage:
    name = f"{classes[labels[index]]}/{index:05d}.png"
    return TrainingImage(index=index, name=name, label=int(labels[index]), picture=pictures[index])


def _suspect(at, pictures, labels, classes, generator, kept, half) -> SuspectLabel:
    known = sorted(kept)
    index = known[at] if at % 2 == 0 and at < len(known) else int(generator.integers(half))
    image = _image(index, pictures, labels, classes)
    return SuspectLabel(
        index=index,
        name=image.name,
        label=image.label,
        suggested=(image.label + 5) % len(classes),
        confidence=float(generator.uniform(0.6, 1.0)),
        score=float(generator.gamma(3.0, 40.0)),
    )


def _region(at, side, labels, kept) -> RegionRecord:
    label = 3 + at
    edge = side // 5
    images = tuple(index for index in sorted(kept) if labels[index] == label)
    return RegionRecord(
        box=(at * edge, 0, (at + 1) * edge, edge),
        label=label,
        mass=0.62 / (at + 1),
        area=edge**2 / side**2,
        images=images,
        maps=40,
        similarity=0.97 - 0.4 * at,
    )
