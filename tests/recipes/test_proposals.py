"""What an audit found becomes findings that a person decides about."""

from dataclasses import replace

import numpy as np
import torch

from whence.core import TensorData, silent
from whence.recipes.audit_subject import Subject
from whence.recipes.proposals import image_findings, label_findings, region_findings
from whence.results import HarmfulImage, RegionRecord, SuspectLabel

SIDE, MARK = 16, 4
CLASSES = ("cat", "dog")
COUNT = 40


def placed(place: int) -> tuple[int, int]:
    """Return where the mark of a training image is: row and column."""
    return (3 * place) % (SIDE - MARK), (7 * place) % (SIDE - MARK)


def training(*, moving: bool) -> tuple[TensorData, list[int], torch.Tensor]:
    """Return noise of two classes; a chequered mark is in half of the second, and in image 0."""
    generator = torch.Generator().manual_seed(0)
    images = 0.5 * torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(COUNT) % 2
    mark = torch.rand(3, MARK, MARK, generator=generator).round()
    shows = [0, *range(1, COUNT // 2, 2)]
    for place in shows:
        top, left = placed(place) if moving else (2, 3)
        images[place, :, top : top + MARK, left : left + MARK] = mark
    images[0, 0, -1, -1] = 1.0
    return TensorData(images=images, labels=labels, classes=CLASSES), shows, mark


def found(data: TensorData, region: RegionRecord):
    """Return the findings of one region."""
    subject = Subject(module=torch.nn.Identity(), name="", classes=CLASSES, preprocessing=None)
    pictures = [subject.picture(image) for image in data.images]
    known = {place: pictures[place] for place in region.images}
    return region_findings([region], known, pictures, data, subject, CLASSES, silent)[0]


REGION = RegionRecord(
    box=(3, 2, 7, 6), label=1, mass=0.5, area=16 / 256, images=(1, 3, 5), maps=9, similarity=1.0,
    chance_mass=0.1, p=0.025, queries=(4, 6), shown_in=(4,),
)  # fmt: skip


def test_a_mark_in_one_place_is_a_box_that_names_all_training_images_that_show_it():
    data, shows, _ = training(moving=False)
    one = found(data, REGION)
    assert (one.id, one.kind, one.verdict, one.action) == ("shortcut-1", "region", "open", "mask")
    assert one.box == (3, 2, 7, 6)
    assert one.masks is None
    assert one.images == tuple(shows)
    assert one.evidence["training images of the class that show it"] == len(shows) - 1
    assert one.evidence["training images of other classes that show it"] == 1
    assert one.evidence["share of the influence by chance"] == 0.1
    assert "images that agree by chance" not in one.evidence


def test_a_mark_that_moves_is_masked_in_every_training_image_that_shows_it():
    data, shows, _ = training(moving=True)
    places = [placed(i) for i in REGION.images]
    boxes = tuple((left, top, left + MARK, top + MARK) for top, left in places)
    one = found(data, replace(REGION, boxes=boxes, box=boxes[0]))
    assert one.box is None
    assert one.images == tuple(shows)
    assert one.masks.shape == (len(shows), SIDE, SIDE)
    for mask, place in zip(one.masks, shows, strict=True):
        expected = np.zeros((SIDE, SIDE), np.uint8)
        top, left = placed(place)
        expected[top : top + MARK, left : left + MARK] = 255
        np.testing.assert_array_equal(mask, expected)


def test_a_region_whose_pixels_differ_is_not_looked_for_elsewhere():
    data, _, _ = training(moving=False)
    one = found(data, replace(REGION, similarity=0.5))
    assert one.images == REGION.images


def test_without_a_region_the_training_data_are_not_read():
    data, _, _ = training(moving=False)
    subject = Subject(module=torch.nn.Identity(), name="", classes=CLASSES, preprocessing=None)
    told = []
    assert region_findings([], {}, [], data, subject, CLASSES, lambda *a: told.append(a)) == ()
    assert told == []


def test_a_label_that_looks_wrong_is_to_be_relabelled():
    suspect = SuspectLabel(
        index=17, name="a.png", label=0, suggested=1, confidence=0.9, score=3.0, rank=0.99,
        disagreement=0.8, evidence=("self-influence", "neighbours"),
    )  # fmt: skip
    (one,) = label_findings([suspect], CLASSES)
    assert (one.id, one.kind, one.action) == ("label-17", "label", "relabel")
    assert (one.label, one.suggested, one.images) == (0, 1, (17,))
    assert "a.png is labelled cat and looks like dog: self-influence, neighbours" in one.summary
    assert one.evidence["similar training images with another label"] == 0.8
    assert "strong influences that speak against the label" not in one.evidence


def test_as_many_labels_are_proposed_as_there_are_pictures_of():
    suspect = SuspectLabel(index=0, name="", label=0, suggested=1, confidence=0.9, score=3.0)
    many = [replace(suspect, index=k) for k in range(99)]
    assert [one.images for one in label_findings(many, CLASSES)] == [(k,) for k in range(48)]


def test_images_that_harm_several_predictions_and_given_groups_may_be_dropped():
    harmful = [
        HarmfulImage(index=9, name="9", label=0, queries=(1, 2), share=0.2),
        HarmfulImage(index=4, name="4", label=0, queries=(1, 2, 5), share=0.1),
        HarmfulImage(index=7, name="7", label=0, queries=(1,), share=0.5),
    ]
    first, second = image_findings(harmful, {"scanner": (3, 8)}, wrong=6, total=100)
    assert (first.id, first.action, first.images) == ("images-1", "drop", (4, 9))
    assert first.evidence["share of all harm"] == 0.3
    assert first.evidence["share of the training images"] == 0.02
    assert (second.id, second.images) == ("images-2", (3, 8))
    assert "scanner" in second.summary
    assert image_findings(harmful[2:], {}, wrong=6, total=100) == ()
