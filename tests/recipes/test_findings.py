from dataclasses import dataclass

import numpy as np
import pytest
import torch

from whence.core import TensorData
from whence.recipes.boxes import CarriedMap, best_box
from whence.recipes.findings import sampled, suspect_labels
from whence.recipes.regions import find_regions

SIDE = 24
PATCH = (3, 5, 8, 9)  # left, top, right, bottom


def noise(seed, low=0.0):
    return np.random.default_rng(seed).uniform(low, 1, (SIDE, SIDE)).astype(np.float32)


def picture(seed, *, pasted=False):
    drawn = np.random.default_rng(1000 + seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if pasted:
        left, top, right, bottom = PATCH
        drawn[top:bottom, left:right] = (255, 0, 0)
    return drawn


def carried(index, *, label=0, inside=1.0, values=None, pasted=True):
    """A map of uniform noise, and in the patch as much again as ``inside`` says."""
    if values is None:
        left, top, right, bottom = PATCH
        values = noise(index)
        values[top:bottom, left:right] += inside * SIDE
    return CarriedMap(
        index=index, label=label, values=values, picture=picture(index, pasted=pasted)
    )


REFERENCE = [picture(100 + k) for k in range(20)]


def overlap(one, other):
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (sum(area) - both)


def test_a_planted_patch_is_found_with_its_mass_and_area():
    maps = [carried(k) for k in range(12)]
    (found,) = find_regions(maps, REFERENCE)
    assert overlap(found.box, PATCH) > 0.8
    left, top, right, bottom = found.box
    shares = [np.maximum(m.values, 0) / np.maximum(m.values, 0).sum() for m in maps]
    mass = np.mean([s[top:bottom, left:right].sum() for s in shares])
    assert found.mass == pytest.approx(mass, rel=1e-5)
    assert found.area == (right - left) * (bottom - top) / SIDE**2
    assert found.ratio == pytest.approx(found.mass / found.area)
    assert found.label == 0
    assert found.images == tuple(range(12))
    assert found.maps == 12


def test_uniform_noise_has_no_region():
    maps = [carried(k, values=noise(k)) for k in range(30)]
    assert find_regions(maps, REFERENCE) == ()
    signed = [carried(k, values=noise(k, low=-1)) for k in range(30)]
    assert find_regions(signed, REFERENCE) == ()


def test_maps_that_concentrate_in_different_places_have_no_region():
    maps = []
    for k in range(100):
        values = noise(k)
        top, left = np.random.default_rng(k).integers(0, SIDE - 4, 2)
        values[top : top + 4, left : left + 4] += SIDE
        maps.append(carried(k, values=values))
    assert find_regions(maps, REFERENCE) == ()


def test_a_region_needs_enough_different_images():
    assert find_regions([carried(k) for k in range(7)], REFERENCE) == ()
    assert find_regions([carried(k % 7) for k in range(40)], REFERENCE) == ()
    assert len(find_regions([carried(k) for k in range(4)], REFERENCE, fewest=4)) == 1


def test_negative_influence_makes_no_region():
    maps = [carried(k, values=-carried(k).values) for k in range(12)]
    assert find_regions(maps, REFERENCE) == ()


def test_one_image_counts_once_however_often_it_is_a_proponent():
    maps = [carried(k) for k in range(8)]
    plain = [carried(40, values=noise(40)) for _ in range(200)]
    (found,) = find_regions([*maps, *plain], REFERENCE)
    assert overlap(found.box, PATCH) > 0.8
    assert found.maps == 208
    assert found.images == tuple(range(8))


def test_a_loud_map_counts_as_much_as_a_quiet_one():
    maps = [carried(k) for k in range(12)]
    loud = [carried(50, values=1e6 * noise(50)), *maps]
    (found,) = find_regions(loud, REFERENCE)
    assert overlap(found.box, PATCH) > 0.8


def test_classes_are_looked_at_one_by_one():
    first = [carried(k, label=1) for k in range(10)]
    second = [carried(20 + k, label=2, values=noise(20 + k)) for k in range(10)]
    (found,) = find_regions([*first, *second], REFERENCE)
    assert found.label == 1


def test_a_second_region_of_a_class_is_found_beside_the_first():
    maps = []
    for k in range(12):
        values = carried(k).values
        values[16:20, 15:20] += SIDE / 2
        maps.append(carried(k, values=values))
    found = find_regions(maps, REFERENCE)
    assert len(found) == 2
    assert max(overlap(r.box, PATCH) for r in found) > 0.7
    assert max(overlap(r.box, (15, 16, 20, 20)) for r in found) > 0.7
    assert len(find_regions(maps, REFERENCE, most=1)) == 1


def test_pixels_alike_from_image_to_image_tell_a_patch_from_an_object():
    (patch,) = find_regions([carried(k) for k in range(12)], REFERENCE)
    (other,) = find_regions([carried(k, pasted=False) for k in range(12)], REFERENCE)
    assert patch.similarity > 0.8
    assert abs(other.similarity) < 0.25
    both = [carried(k, label=1, pasted=False) for k in range(12)]
    both += [carried(20 + k) for k in range(12)]
    assert [r.label for r in find_regions(both, REFERENCE)] == [0, 1]


def test_pictures_of_one_colour_are_no_evidence():
    flat = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    maps = [CarriedMap(index=k, label=0, values=carried(k).values, picture=flat) for k in range(12)]
    (found,) = find_regions(maps, [flat] * 5)
    assert found.similarity == 0


def test_nothing_has_no_region():
    assert find_regions([], REFERENCE) == ()
    empty = np.zeros((SIDE, SIDE), dtype=np.float32)
    assert find_regions([carried(k, values=empty) for k in range(12)], REFERENCE) == ()


@pytest.mark.parametrize("box", [(0, 0, 3, 2), (21, 20, 24, 24), (5, 6, 15, 8)])
def test_the_box_of_a_map_that_is_flat_but_for_a_box_is_that_box(box):
    left, top, right, bottom = box
    values = np.full((SIDE, SIDE), 0.01, dtype=np.float32)
    values[top:bottom, left:right] = 1
    assert best_box(values / values.sum()) == box


def test_wide_and_tiny_maps_have_boxes():
    values = np.full((4, 60), 0.01, dtype=np.float32)
    values[1:3, 50:55] = 1
    left, top, right, bottom = best_box(values / values.sum())
    assert (top, bottom) == (1, 3)
    assert overlap((left, top, right, bottom), (50, 1, 55, 3)) > 0.6
    assert best_box(np.array([[0.9, 0.1]], dtype=np.float32)) == (0, 0, 1, 1)


@dataclass(frozen=True)
class Scored:
    """What suspect labels are read from."""

    indices: torch.Tensor
    labels: torch.Tensor
    predictions: torch.Tensor
    confidences: torch.Tensor
    self_influence: torch.Tensor


def as_influence(scored):
    """Return the scored images as an influence, of which only these facts are used."""
    from whence.influence import GradCos, Influence

    none = torch.zeros(0)
    made = object.__new__(Influence)
    facts = {
        "scores": none,
        "indices": scored.indices,
        "labels": scored.labels,
        "predictions": scored.predictions,
        "confidences": scored.confidences,
        "residuals": torch.ones(len(scored.labels)),
        "squared_norms": scored.self_influence,
        "parameters": (),
        "coverage": 1.0,
        "scorer": GradCos(),
        "passes": 1,
        "members": (),
        "weights": none,
    }
    for name, value in facts.items():
        object.__setattr__(made, name, value)
    return made


def scored(count=40):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    return Scored(
        indices=torch.arange(count) * 2,
        labels=labels,
        predictions=labels.clone(),
        confidences=torch.full((count,), 0.9),
        self_influence=torch.rand(count, generator=generator),
    )


def data(count=80):
    return TensorData(
        images=torch.zeros(count, 1, 2, 2), names=tuple(f"{i:03}.png" for i in range(count))
    )


def test_suspects_are_contradicted_images_by_self_influence():
    found = scored()
    flipped = [4, 11, 30]
    found.predictions[flipped] = (found.labels[flipped] + 1) % 3
    found.self_influence[flipped] = torch.tensor([2.0, 5.0, 0.1])
    suspects = suspect_labels(as_influence(found), data())
    assert [s.index for s in suspects] == [22, 8, 60]
    assert [s.name for s in suspects] == ["022.png", "008.png", "060.png"]
    first = suspects[0]
    assert (first.label, first.suggested) == (int(found.labels[11]), int(found.predictions[11]))
    assert first.score == 5
    assert first.confidence == pytest.approx(0.9)


def test_an_unsure_model_contradicts_only_on_request():
    found = scored()
    found.predictions[7] = (found.labels[7] + 1) % 3
    found.confidences[7] = 0.4
    assert suspect_labels(as_influence(found), data()) == ()
    (asked,) = suspect_labels(as_influence(found), data(), count=5)
    assert asked.index == 14


def test_at_most_a_tenth_is_suspected_unless_more_are_asked_for():
    found = scored()
    found.predictions[:] = (found.labels + 1) % 3
    suspects = suspect_labels(as_influence(found), data())
    assert len(suspects) == 4
    assert [s.score for s in suspects] == sorted((s.score for s in suspects), reverse=True)
    assert suspects[0].score == float(found.self_influence.max())
    assert len(suspect_labels(as_influence(found), data(), count=11)) == 11


def test_samples_are_places_in_order_without_repetition():
    assert sampled(5, 48) == [0, 1, 2, 3, 4]
    drawn = sampled(1000, 48)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 48
    assert drawn[-1] < 1000
    assert drawn == sampled(1000, 48)
    assert drawn != sampled(1000, 48, seed=1)
