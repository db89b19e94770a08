r"""Report: what a conversion changed, and whether the outcome is an X-DNN."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.convert.routes import Change
from whence.network import Homogeneity, OperationDegree

__all__ = ["ConversionReport", "Refusal", "refusals_in", "scale_errors"]

FACTORS = (0.3, 2.0, 50.0)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error that rounding explains; measured 6e-15 and 2e-6 on deep networks."""

LIST = 12
"""Lines of a list that are shown."""


@final
@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An operation that still breaks homogeneity.

    Args:
        path: The module that calls it.
        operation: Its name in the graph.
        reason: Why it breaks homogeneity.
        answer: ``Replace it with ...``, ``Not yet: ...`` or ``Never, because ...``.
    """

    path: str
    operation: str
    reason: str
    answer: str


@final
@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    r"""What a conversion did, and what came of it.

    Args:
        changes: Every change, in order.
        homogeneity: The verdict over the graph: the proof, or all offenders.
        refusals: The offenders, each with an answer.
        scale_errors: For each factor ``k`` the largest :math:`|f(kx) - k f(x)|` relative to the
            largest :math:`|k f(x)|`; NaN if the network's output is zero for all images.
        at_zero: The largest :math:`|f(0)|`.
        tolerance: The largest scale error that rounding explains.
        kept: Share of the images whose predicted class did not change.
    """

    changes: tuple[Change, ...]
    homogeneity: Homogeneity
    refusals: tuple[Refusal, ...]
    scale_errors: Mapping[float, float]
    at_zero: float
    tolerance: float
    kept: float

    @property
    def holds(self) -> bool:
        """Whether the outcome is an X-DNN, by proof and by test."""
        scales = all(error <= self.tolerance for error in self.scale_errors.values())
        return self.homogeneity.holds and scales and self.at_zero == 0

    def __str__(self) -> str:
        """Return the report as text."""
        removed = sum(change.parameters for change in self.changes)
        summary = (
            f"{len(self.changes)} changes, {removed} numbers removed; {self.kept:.0%} of the "
            f"images keep their predicted class."
        )
        advice = f"{summary} Fine-tune before use." if self.changes else summary
        verdict = "An X-DNN: nonnegatively homogeneous of degree 1."
        lines = [verdict if self.holds else "Not an X-DNN.", advice]
        lines += listed([f"{c.path}: {c.what}" for c in self.changes])
        if self.refusals:
            lines.append(f"{len(self.refusals)} operations still break homogeneity:")
            lines += listed([written(r) for r in self.refusals])
        errors = ", ".join(f"{k:g}: {error:.1e}" for k, error in self.scale_errors.items())
        lines.append(f"Scale errors by factor: {errors}; largest |f(0)|: {self.at_zero:.1e}.")
        return "\n".join(lines)


def listed(lines: list[str]) -> list[str]:
    """Return the first lines of a list, indented, and how many more there are."""
    more = [f"  ... and {len(lines) - LIST} more"] if len(lines) > LIST else []
    return [f"  {line}" for line in lines[:LIST]] + more


def written(refusal: Refusal) -> str:
    """Return a refusal as a line."""
    where = refusal.path or "forward"
    return f"{where} ({refusal.operation}): {refusal.reason} {refusal.answer}"


ANSWERS = {
    **dict.fromkeys(
        ("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "softplus", "tanh"),
        "Replace it with an nn.ReLU module; it is called as a function (or is of a class of its "
        "own), and only modules of torch can be exchanged.",
    ),
    **dict.fromkeys(
        ("relu6", "hardtanh", "clamp", "clamp_max"),
        "Replace it with an nn.ReLU module; it is called as a function, and only modules can be "
        "exchanged.",
    ),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm"),
        "Never, because what divides by the size of its input forgets the image's scale; train "
        "the network anew with a learned scale in its place.",
    ),
    **dict.fromkeys(
        ("sigmoid", "hardsigmoid"),
        "Not yet: gates on an input of unit length would scale.",
    ),
    **dict.fromkeys(
        ("scaled_dot_product_attention", "softmax"),
        "Not yet: attention with queries and keys of unit length would scale.",
    ),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "baddbmm"),
        "Replace it with a layer without a bias; here the bias is no part of an nn.Linear or "
        "convolution, or its route was not taken.",
    ),
    "batch_norm": "Replace it with ChannelScale; its route was not taken, or it has no running "
    "statistics.",
    **dict.fromkeys(
        ("add", "sub", "cat", "stack"),
        "Not yet: constants (tokens, positions, offsets) could be fed from an extra input.",
    ),
}
"""What can be done about an operation that breaks homogeneity."""


def refusals_in(verdict: Homogeneity) -> tuple[Refusal, ...]:
    """Return the offenders of a verdict, each with one of the three answers."""
    return tuple(refusal(row) for row in verdict.offenders)


def refusal(row: OperationDegree) -> Refusal:
    """Return one offender with its answer."""
    offence = row.offence
    return Refusal(
        path=row.path,
        operation=row.operation,
        reason=offence.reason if offence else "",
        answer=ANSWERS.get(row.operation, f"Not yet: {offence.cure if offence else ''}"),
    )


@torch.no_grad()
def scale_errors(f: Callable[[Tensor], Tensor], images: Tensor) -> tuple[dict[float, float], float]:
    """Return the scale error of each factor, and the largest ``|f(0)|``."""
    values = f(images)
    errors: dict[float, float] = {}
    for factor in FACTORS:
        wrong = (f(factor * images) - factor * values).abs().max()
        errors[factor] = float(wrong / (factor * values).abs().max())
    return errors, float(f(torch.zeros_like(images)).abs().max())
