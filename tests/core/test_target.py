"""Targets against formulas restated row by row in float64, and the target grammar."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.core import (
    Contrast,
    Custom,
    Logit,
    Margin,
    Target,
    check_count,
    contrast,
    log_probability,
    logit,
    loss,
    margin,
    probability,
    resolve_target,
)
from whence.core.target import pick
from whence.errors import TargetError

CLASSES = torch.tensor([2, 0, 1, 2])
FOILS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def logits(generator):
    return 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)


def share(row, k):
    return math.exp(row[k]) / sum(math.exp(value) for value in row)


def odds(row, k):
    return math.exp(row[k]) / sum(math.exp(value) for j, value in enumerate(row) if j != k)


FORMULAS = {
    "logit": (logit, lambda row, k: row[k]),
    "log_probability": (log_probability, lambda row, k: math.log(share(row, k))),
    "loss": (loss, lambda row, k: -math.log(share(row, k))),
    "margin": (margin, lambda row, k: math.log(odds(row, k))),
    "probability": (probability, share),
}
each_formula = pytest.mark.parametrize(("make", "formula"), FORMULAS.values(), ids=FORMULAS)


@each_formula
def test_a_target_of_one_class_per_image_is_its_formula(make, formula, logits):
    rows = zip(logits.tolist(), CLASSES.tolist(), strict=True)
    expected = torch.tensor([formula(row, k) for row, k in rows], dtype=torch.float64)
    torch.testing.assert_close(make(CLASSES)(logits), expected, rtol=1e-12, atol=1e-12)


@each_formula
def test_a_target_of_one_class_for_all_is_its_formula(make, formula, logits):
    expected = torch.tensor([formula(row, 1) for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make(1)(logits), expected, rtol=1e-12, atol=1e-12)


def test_a_contrast_is_the_difference_of_two_logits(logits):
    expected = [
        row[k] - row[j]
        for row, k, j in zip(logits.tolist(), CLASSES.tolist(), FOILS.tolist(), strict=True)
    ]
    values = contrast(CLASSES, FOILS)(logits)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(contrast(2, 0)(logits), logits[:, 2] - logits[:, 0])


def test_the_loss_is_torchs_unreduced_cross_entropy(logits):
    expected = torch.nn.functional.cross_entropy(logits, CLASSES, reduction="none")
    torch.testing.assert_close(loss(CLASSES)(logits), expected)


def gradient(target, logits):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(target(leaf).sum(), leaf)[0]


def test_the_margins_gradient_is_the_losss_direction(logits):
    p = logits.softmax(dim=1).gather(1, CLASSES[:, None])
    expected = -(1 - p) * gradient(margin(CLASSES), logits)
    torch.testing.assert_close(gradient(loss(CLASSES), logits), expected, rtol=1e-10, atol=1e-12)


def test_the_margin_of_two_classes_is_their_contrast(logits):
    two = logits[:, :2]
    torch.testing.assert_close(margin(0)(two), contrast(0, 1)(two))


@pytest.mark.parametrize("gap", [40.0, -40.0, 90.0])
def test_the_margin_stays_exact_in_float32_where_the_loss_saturates(gap):
    logits = torch.tensor([[gap, 0.0, 0.0]])
    exact = gap - math.log(2)
    torch.testing.assert_close(margin(0)(logits), torch.tensor([exact]))
    expected = torch.tensor([[1.0, -0.5, -0.5]])
    torch.testing.assert_close(gradient(margin(0), logits), expected)
    if gap > 0:
        assert gradient(loss(0), logits).abs().max() < 1e-6


@pytest.mark.parametrize("make", [logit, log_probability, loss, margin, probability])
def test_second_derivatives_are_finite_at_a_gap_of_40(make):
    logits = torch.tensor([[40.0, 0.0, -3.0], [-40.0, 0.0, 3.0]])
    hessian = torch.autograd.functional.hessian(lambda z: make(0)(z).sum(), logits)
    assert hessian.isfinite().all()


@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=9))
@pytest.mark.parametrize(
    "target",
    [
        logit(CLASSES),
        logit(1),
        log_probability(CLASSES),
        loss(CLASSES),
        margin(CLASSES),
        probability(CLASSES),
        contrast(CLASSES, FOILS),
        contrast(CLASSES, 0),
        Custom(lambda logits: logits[:, 0] * logits[:, 1]),
    ],
    ids=lambda target: type(target).__name__,
)
def test_at_rows_gives_the_rows_of_the_whole(target, rows):
    logits = torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(4, 3).sin() * 4
    at = torch.tensor(rows)
    torch.testing.assert_close(target.at(at)(logits[at]), target(logits)[at], rtol=0, atol=0)


@pytest.mark.parametrize("make", [logit, log_probability, loss, margin, probability])
@pytest.mark.parametrize("wrong", [3, -1])
def test_a_class_outside_the_output_is_refused_with_the_range(make, wrong):
    with pytest.raises(TargetError, match=r"classes run from 0 to 2"):
        make(wrong)(torch.zeros(4, 3))
    with pytest.raises(TargetError, match=rf"holds class {wrong}.*classes run from 0 to 2"):
        make(torch.tensor([0, 1, wrong, 0]))(torch.zeros(4, 3))


def test_a_wrong_number_of_classes_is_refused():
    with pytest.raises(TargetError, match="holds 4 classes, but the model returned 2 rows"):
        logit(CLASSES)(torch.zeros(2, 3))


def test_a_margin_needs_another_class():
    with pytest.raises(TargetError, match="at least two classes"):
        margin(0)(torch.zeros(2, 1))


def test_a_callable_target_must_return_one_scalar_per_image():
    with pytest.raises(TargetError, match=r"shape \(4,\); it returned \(4, 3\)"):
        Custom(lambda logits: logits)(torch.zeros(4, 3))


# The grammar.


def test_an_integer_is_a_logit(logits):
    torch.testing.assert_close(resolve_target(2, logits)(logits), logits[:, 2])


@pytest.mark.parametrize("classes", [[2, 0, 1, 2], (2, 0, 1, 2), CLASSES, CLASSES.int()])
def test_one_integer_per_image_is_a_logit_each(classes, logits):
    expected = logits[torch.arange(4), CLASSES]
    torch.testing.assert_close(resolve_target(classes, logits)(logits), expected)


def test_predicted_is_the_highest_logit(logits):
    values = resolve_target("predicted", logits)(logits)
    torch.testing.assert_close(values, logits.max(dim=1).values)


def test_label_is_the_given_label(logits):
    values = resolve_target("label", logits, labels=CLASSES)(logits)
    torch.testing.assert_close(values, logit(CLASSES)(logits))


def test_versus_makes_a_contrast(logits):
    target = resolve_target("predicted", logits, versus="runner-up")
    top = logits.sort(dim=1, descending=True).values
    assert isinstance(target, Contrast)
    torch.testing.assert_close(target(logits), top[:, 0] - top[:, 1])
    both = resolve_target(CLASSES, logits, versus=0)(logits)
    torch.testing.assert_close(both, contrast(CLASSES, 0)(logits))


def test_a_callable_and_a_target_pass_through(logits):
    values = resolve_target(lambda z: z[:, 0] * 2, logits)(logits)
    torch.testing.assert_close(values, logits[:, 0] * 2)
    own = Margin(1)
    assert resolve_target(own, logits) is own


def test_a_class_of_the_user_that_has_the_protocol_passes_through(logits):
    class First:
        def __call__(self, logits):
            return logits[:, 0]

        def at(self, rows):
            return self

    own = First()
    assert isinstance(own, Target)
    assert resolve_target(own, logits) is own


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (7, r"classes run from 0 to 2"),
        (-1, r"classes run from 0 to 2"),
        (True, r"Cannot read True as a class"),
        ("predcited", r"Unknown target 'predcited'"),
        ("label", r"needs labels=, and none were given"),
        ([0, 1], r"must be 4 integers.*shape \(2,\)"),
        ([0, 1, 2, 3], r"Class 3 of image 3 does not exist"),
        ([0, -1, 2, 0], r"Class -1 of image 1 does not exist"),
        (torch.zeros(4), r"must be 4 integers.*torch\.float32"),
        (torch.zeros(4, dtype=torch.bool), r"must be 4 integers.*torch\.bool"),
        (torch.zeros(4, 1, dtype=torch.long), r"shape \(4, 1\)"),
    ],
)
def test_a_wrong_target_is_refused_with_the_outputs_shape(target, says, logits):
    with pytest.raises(TargetError, match=says) as caught:
        resolve_target(target, logits)
    assert "shape (4, 3)" in str(caught.value)


def test_a_wrong_target_is_refused_with_an_example(logits):
    with pytest.raises(TargetError, match=r"target=\[0, 1\].*'predicted', 'label', or a callable"):
        resolve_target("foil", logits)


def test_a_runner_up_needs_two_classes():
    with pytest.raises(TargetError, match="at least two classes"):
        resolve_target(0, torch.zeros(2, 1), versus="runner-up")


def test_a_label_outside_the_classes_is_refused(logits):
    with pytest.raises(TargetError, match="Class 9 of image 1"):
        resolve_target("label", logits, labels=torch.tensor([0, 9, 0, 0]))


def test_a_target_is_a_frozen_value():
    with pytest.raises(AttributeError):
        Logit(0).classes = 1


@pytest.mark.parametrize("make", [logit, log_probability, loss, margin, probability])
@pytest.mark.parametrize(
    "classes",
    [torch.tensor([0.0, 1, 2, 0]), torch.tensor([True] * 4), torch.zeros(4, 3, dtype=torch.long)],
    ids=["floats", "truths", "one-hot rows"],
)
def test_classes_that_are_no_whole_numbers_are_refused_with_the_cure(make, classes, logits):
    with pytest.raises(TargetError, match=r"needs one whole number per image.*argmax\(dim=1\)"):
        inspect.unwrap(pick)(logits, classes, make.__name__)


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32])
def test_classes_of_any_whole_type_are_taken(kind, logits):
    torch.testing.assert_close(logit(CLASSES.to(kind))(logits), logit(CLASSES)(logits))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (np.int64(2), 2),
        (torch.tensor(1), 1),
        (np.array([2, 0, 1, 2]), [2, 0, 1, 2]),
        (np.array([2, 0, 1, 2], dtype=np.int32), [2, 0, 1, 2]),
    ],
    ids=["a NumPy number", "a tensor of one number", "a NumPy array", "a short NumPy array"],
)
def test_numbers_of_other_libraries_are_classes(target, expected, logits):
    found = resolve_target(target, logits)
    assert isinstance(found, Logit)
    classes = found.classes if isinstance(found.classes, int) else found.classes.tolist()
    assert classes == expected


@pytest.mark.parametrize(
    ("target", "versus"), [(1, 1), ("predicted", "predicted"), ([2, 0, 1, 2], [2, 0, 1, 2])]
)
def test_a_class_is_not_compared_with_itself(target, versus, logits):
    with pytest.raises(TargetError, match=r"the same class.*versus='runner-up'"):
        resolve_target(target, logits, versus=versus)


def test_some_classes_may_be_compared_with_themselves(logits):
    found = resolve_target([2, 0, 1, 2], logits, versus=2)
    assert found(logits)[0] == 0


@pytest.mark.parametrize("make", [logit, log_probability, loss, margin, probability])
def test_classes_that_are_not_one_per_image_are_counted(make):
    check_count(make(CLASSES), 4)
    check_count(make(1), 3)
    with pytest.raises(TargetError, match=r"holds 4 (classes|labels), but there are 3 images"):
        check_count(make(CLASSES), 3)


def test_foils_that_are_not_one_per_image_are_counted():
    with pytest.raises(TargetError, match="holds 4 foils, but there are 2 images"):
        check_count(contrast(0, FOILS), 2)
    check_count(Custom(lambda logits: logits[:, 0]), 2)
