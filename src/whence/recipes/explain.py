"""Explain: which pixels of these images does the prediction come from?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.adapters import Preprocessing
from whence.attribution import Attribution, attribute
from whence.core import (
    Images,
    Logits,
    Method,
    ModelScalar,
    Progress,
    Target,
    TargetLike,
    check_images,
    logits_from,
    resolve_target,
    silent,
)
from whence.display import DOUBLE_COLUMN, Panel, Plot, figure_of_query, png_bytes
from whence.errors import SettingError
from whence.network import Network
from whence.recipes.cards import class_names, model_card, run_card
from whence.recipes.explained import Model, Setting, chosen_method, placed, readable, subject_of
from whence.results import (
    ExplanationRecord,
    MapRecord,
    ModelCard,
    RunCard,
    new_folder,
    save_explanation,
)
from whence.results.folder import write_whole

__all__ = ["Explanation", "explain"]

CHUNK = 32
"""Images between two reports of progress; inside, methods choose their own batch by memory."""

ACROSS = 6
"""Images side by side in a figure."""

PAPER = 255


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Attributions of a batch of images, with what is needed to trust and to show them.

    Args:
        values: One value per pixel, ``(b, a, h, w)``, never rescaled; ``a`` is the images'
            channels, or 1.
        explained: The explained number of each image, ``(b,)``.
        total: The sum of each image's values, ``(b,)``.
        gap: How far ``total`` is from what an exact method's values add up to, relative to it
            (0.01 is one per cent), ``(b,)``; None for methods without such a law.
        found: Whether a method that searches (for evidence, or for the smallest area) found what
            it searched for, ``(b,)``; None for the others.
        predictions: The most probable class of each image, ``(b,)``.
        confidences: Its softmax probability, ``(b,)``.
        cost: Passes (a forward and an input-backward) per image that the method took. The
            prediction takes one forward more.
        method: The method, with its settings.
        names: What the images are called.
        pictures: The images as ``(h, w, 3)`` bytes, for display.
        model: The model's name, fingerprint, classes and preprocessing.
        run: How the explanation was made.
        warning: Which image's values miss their sum most, by how much, and which operations kept
            the rest; empty if none misses it by more than one per cent.
    """

    values: Tensor
    explained: Tensor
    total: Tensor
    gap: Tensor | None
    predictions: Tensor
    confidences: Tensor
    cost: float
    method: Method
    names: tuple[str, ...]
    pictures: tuple[NDArray[np.uint8], ...]
    model: ModelCard
    run: RunCard
    found: Tensor | None = None
    warning: str = ""

    @property
    def conservation(self) -> Tensor:
        """What share of the explained number the values add up to, ``total / explained``.

        1 on a network without biases and a method that is complete from zero; NaN or infinite
        where the explained number is zero.
        """
        return self.total / self.explained.to(self.total)

    @property
    def blank(self) -> Tensor:
        """Whether an image's map is zero everywhere: nothing speaks for the number; ``(b,)``."""
        return (self.values == 0).flatten(1).all(dim=1)

    @property
    def record(self) -> ExplanationRecord:
        """The explanation as plain values and arrays; channels are summed."""
        maps = self.values.detach().sum(dim=1, dtype=torch.float64).float().cpu().numpy()
        gaps = [None] * len(maps) if self.gap is None else self.gap.tolist()
        found = [None] * len(maps) if self.found is None else self.found.tolist()
        return ExplanationRecord(
            model=self.model,
            names=self.names,
            predictions=tuple(self.predictions.tolist()),
            confidences=tuple(self.confidences.tolist()),
            pictures=self.pictures,
            maps=tuple(
                MapRecord(
                    values=values, method=str(self.method), total=t, explained=e, gap=g, found=s
                )
                for values, t, e, g, s in zip(
                    maps, self.total.tolist(), self.explained.tolist(), gaps, found, strict=True
                )
            ),
            run=self.run,
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder with ``explanation.json`` and ``arrays.npz``, whole or not at all.

        Args:
            path: The folder.
            overwrite: Replace an old result of whence.

        Raises:
            OutputError: The folder holds something already, or cannot be written.
        """
        with new_folder(path, overwrite=overwrite) as folder:
            save_explanation(self.record, folder)
        return Path(path)

    def plot(self, path: str | Path) -> Path:
        """Write each image above its map into a file; a file that is there is replaced.

        A PNG is a picture, each map on its own scale, for the screen. PDF and SVG are
        :meth:`figure`, all maps on one scale, and need the extra ``figures``.

        Raises:
            MissingExtra: A PDF or SVG without matplotlib.
            OutputError: The file cannot be written.
            SettingError: The file's name ends in none of these.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in {".png", ".pdf", ".svg"}:
            msg = f"The figure's name must end in .png, .pdf or .svg; got {path.name!r}."
            raise SettingError(msg)
        if kind != ".png":
            return self.figure().save(path)
        write_whole(path, self.png())
        return path

    def figure(self, *, width: float = DOUBLE_COLUMN, columns: int | None = None) -> Plot:
        """A figure of the images above their maps, on one colour scale, for a paper.

        Args:
            width: Inches.
            columns: Images in a row.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return self.record.figure(width=width, columns=columns)

    def _repr_html_(self) -> str:
        """Show the explanation in a notebook."""
        return self.record._repr_html_()

    def png(self) -> bytes:
        """Return the bytes of that figure."""
        record = self.record
        columns = [
            figure_of_query(
                Panel(
                    picture=picture,
                    values=one.values,
                    title=self.model.classes[prediction],
                    note=f"{100 * confidence:.1f} %",
                ),
                (),
            )
            for picture, one, prediction, confidence in zip(
                self.pictures, record.maps, record.predictions, record.confidences, strict=True
            )
        ]
        blank = np.full_like(columns[0], PAPER)
        columns += [blank] * (-len(columns) % min(len(columns), ACROSS))
        rows = [
            np.concatenate(columns[start : start + ACROSS], axis=1)
            for start in range(0, len(columns), ACROSS)
        ]
        return png_bytes(np.concatenate(rows, axis=0))


def explain(  # noqa: PLR0913 - one keyword per question, with the same name everywhere
    model: Model,
    images: Tensor,
    *,
    target: TargetLike = "predicted",
    versus: TargetLike | None = None,
    method: Method | str = "integrated-gradients",
    settings: Mapping[str, Setting] | None = None,
    labels: Tensor | None = None,
    batch_size: int | None = None,
    fast: bool = False,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Explanation:
    """Say which pixels of each image the model's output comes from.

    Args:
        model: A classifier in eval mode; it is left exactly as it is. Activation maps need its
            graph, which is read for them (0.2 to 9 s); give a
            :class:`~whence.network.Network` to read it once for several calls.
        images: Preprocessed images ``(b, c, h, w)``; moved to the model's device.
        target: What is explained: a class, one class per image, ``"predicted"``, ``"label"``,
            or a callable on logits.
        versus: A second class, or ``"runner-up"``: explain the difference of the two logits.
        method: A name of ``whence methods``, or a method.
        settings: Of a method given by name: ``{"steps": 64, "baseline": "black"}``.
        labels: The true classes ``(b,)``, for ``target="label"``.
        batch_size: Images, or points on a path, per internal batch; by memory if None.
        fast: Read the model as a graph and tune it first: batch norms folded, channels last. The
            same maps to rounding, for less time and memory; it pays for itself from some images
            or steps on.
        preprocessing: How pictures became images; a loaded model brings its own. Baselines that
            are colours, and the pictures of the result, go through its normalisation.
        classes: Names of the model's outputs.
        names: What the images are called.
        command: How the result was asked for, for its record.
        progress: Called as work goes on.

    Returns:
        The attributions, with gap, conservation and cost. It costs what the method costs (see
        ``whence methods``) and one forward for the prediction.

    Raises:
        ModeError: The model is in train mode.
        NumericsError: NaN or infinity, with the place where it began.
        ReadError: The method needs the model's graph, and it cannot be exported.
        SettingError: The method or one of its settings does not exist.
        ShapeError: The images or the model's output have another shape.
        TargetError: The target is not of the grammar, or names a class that is not there.
    """
    start = perf_counter()
    subject = subject_of(model, preprocessing)
    images = placed(check_images(images), subject.module)
    units = None if subject.preprocessing is None else subject.preprocessing.normalisation
    chosen = chosen_method(method, settings, batch_size, units)
    called = tuple(names) if names is not None else tuple(f"image {k}" for k in range(len(images)))
    if len(called) != len(images):
        msg = f"{len(images)} images need {len(images)} names; got {len(called)}."
        raise SettingError(msg)
    logits = logits_in_batches(subject.callable, images, batch_size, progress)
    aim = resolve_target(target, logits, labels, versus)
    function = ModelScalar(readable(subject, images, chosen, fast=fast), aim)
    found = in_chunks(chosen, function, images, progress)
    confidences, predictions = logits.softmax(dim=1).max(dim=1)
    given = tuple(classes) if classes is not None else None
    known = class_names(logits.shape[1], given, subject.classes)
    return Explanation(
        values=found.values,
        explained=found.explained,
        total=found.total,
        gap=found.gap,
        found=found.found,
        warning=found.warning.replace(f"image {found.worst}", called[found.worst or 0], 1),
        predictions=predictions,
        confidences=confidences,
        cost=found.cost,
        method=chosen,
        names=called,
        pictures=tuple(picture_of(image, subject.preprocessing) for image in images),
        model=model_card(
            subject.module, name=subject.name, classes=known, preprocessing=subject.preprocessing
        ),
        run=run_card(
            command or "whence.explain",
            {"method": str(chosen), "target": plain(target), "versus": plain(versus)},
            {"explain": perf_counter() - start},
        ),
    )


def logits_in_batches(
    model: nn.Module | Network, images: Images, batch_size: int | None, progress: Progress
) -> Logits:
    """Return the logits of all images, without a graph."""
    parts = []
    with torch.no_grad():
        for start, stop in spans(len(images), batch_size or CHUNK):
            parts.append(logits_from(model, images[start:stop]))
            progress("predict", stop, len(images))
    return torch.cat(parts)


def in_chunks(
    method: Method, function: ModelScalar, images: Images, progress: Progress
) -> Attribution:
    """Return the attributions of all images, reporting progress between chunks.

    No method lets the images of a batch see one another, so that chunks change nothing.
    """
    parts: list[Attribution] = []
    progress("explain", 0, len(images))
    for start, stop in spans(len(images), CHUNK):
        rows = torch.arange(start, stop, device=images.device)
        parts.append(attribute(method, function.at(rows), images[start:stop]))
        progress("explain", stop, len(images))
    if len(parts) == 1:
        return parts[0]
    gaps = [part.gap for part in parts if part.gap is not None]
    found = [part.found for part in parts if part.found is not None]
    absorbed = [part.absorbed for part in parts if part.absorbed is not None]
    gap = torch.cat(gaps) if len(gaps) == len(parts) else None
    worst = None if gap is None or all(p.worst is None for p in parts) else int(gap.argmax())
    return Attribution(
        values=torch.cat([part.values for part in parts]),
        explained=torch.cat([part.explained for part in parts]),
        total=torch.cat([part.total for part in parts]),
        gap=gap,
        absorbed=torch.cat(absorbed) if len(absorbed) == len(parts) else None,
        losses=() if worst is None else parts[worst // CHUNK].losses,
        worst=worst,
        found=torch.cat(found) if len(found) == len(parts) else None,
        cost=sum(part.cost * len(part.total) for part in parts) / len(images),
        method=method,
    )


def spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` of at most ``size`` items."""
    for start in range(0, count, size):
        yield start, min(count, start + size)


def picture_of(image: Tensor, preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    """Return an image as a picture ``(h, w, 3)``.

    Without a preprocessing, values in [0, 1] are taken for pixels; others are stretched to the
    image's own range, for display only.
    """
    if preprocessing is not None and preprocessing.channels == len(image):
        return preprocessing.picture(image)
    shown = image.detach().float()
    if len(image) not in (1, 3):
        shown = shown.mean(dim=0, keepdim=True)
    low, high = shown.min(), shown.max()
    if low < 0 or high > 1:
        shown = (shown - low) / (high - low).clamp_min(torch.finfo(shown.dtype).tiny)
    bytes_ = (shown * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0)
    array: NDArray[np.uint8] = bytes_.contiguous().cpu().numpy()
    return array


def plain(target: TargetLike | None) -> str | int | list[int] | None:
    """Return a target as a record can hold it."""
    if target is None or isinstance(target, str | int):
        return target
    if isinstance(target, Tensor):
        return [int(k) for k in target.reshape(-1).tolist()]
    if isinstance(target, list | tuple):
        return [int(k) for k in target]
    return type(target).__name__ if isinstance(target, Target) else repr(target)
