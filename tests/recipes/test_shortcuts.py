"""Marks that carry influence: found by place and by what they look like, and not found in noise."""

import numpy as np
import pytest

from whence.recipes.boxes import CarriedMap, best_box, best_gain, chance_in_place
from whence.recipes.likeness import likeness, spread_of
from whence.recipes.marks import find_marks
from whence.recipes.regions import find_regions, find_shortcuts

SIDE, PATCH = 24, 4
FIXED = (3, 5)  # left, top


def picture(generator, corner=None):
    drawn = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if corner is not None:
        left, top = corner
        drawn[top : top + PATCH, left : left + PATCH] = (255, 0, 0)
    return drawn


def carried(index, corner, *, pasted=True, seen=True, label=0):
    """A map of noise that is high at a corner, where the picture may have a patch."""
    generator = np.random.default_rng(index)
    values = generator.uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
    left, top = corner
    if seen:
        values[top : top + PATCH, left : left + PATCH] += 10
    shown = picture(generator, corner if pasted else None)
    return CarriedMap(index=index, label=label, values=values, picture=shown, query=index % 5)


def somewhere(index):
    left, top = np.random.default_rng(500 + index).integers(0, SIDE - PATCH + 1, 2)
    return int(left), int(top)


REFERENCE = [picture(np.random.default_rng(900 + k)) for k in range(12)]


def test_a_patch_that_moves_is_found_where_it_is_in_each_image():
    maps = [carried(k, somewhere(k)) for k in range(14)]
    maps += [carried(k, somewhere(k), pasted=False) for k in range(20, 26)]
    (found,) = find_marks(maps, REFERENCE)
    assert set(found.images) == set(range(14))
    assert found.similarity > 0.9
    assert abs(found.chance_similarity) < 0.3
    assert found.p == pytest.approx(1 / 20)
    assert found.chance_images < len(found.images)
    for index, (left, top, right, bottom) in zip(found.images, found.boxes, strict=True):
        x, y = somewhere(index)
        assert x <= left < right <= x + PATCH
        assert y <= top < bottom <= y + PATCH
    assert found.mass > 2 * found.area
    assert found.queries == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "maps",
    [
        [carried(k, somewhere(k), pasted=False) for k in range(20)],
        [carried(k, somewhere(k), seen=False) for k in range(20)],
        [carried(k, somewhere(k)) for k in range(7)],
        [carried(k % 5, somewhere(k % 5)) for k in range(30)],
    ],
    ids=["maps without patch", "patch that no map sees", "too few", "too few images"],
)
def test_there_is_no_mark_without_a_patch_that_enough_maps_see(maps):
    assert find_marks(maps, REFERENCE) == ()


def test_the_test_images_that_show_a_mark_are_told():
    maps = [carried(k, somewhere(k)) for k in range(15)]
    generator = np.random.default_rng(0)
    queries = {q: picture(generator, (7, 11) if q < 2 else None) for q in range(5)}
    (moving,) = find_shortcuts(maps, REFERENCE, queries)
    assert moving.shown_in == (0, 1)
    fixed = [carried(k, FIXED) for k in range(15)]
    queries = {q: picture(generator, FIXED if q == 3 else None) for q in range(5)}
    region = find_shortcuts(fixed, REFERENCE, queries)[0]
    assert (region.shown_in, region.boxes) == ((3,), ())


def test_images_without_the_patch_do_not_lower_its_similarity():
    maps = [carried(k, FIXED) for k in range(12)]
    maps += [carried(k, FIXED, pasted=False) for k in range(20, 30)]
    (found,) = find_regions(maps, REFERENCE)
    assert found.images == tuple(range(12))
    assert found.similarity > 0.95
    inside = found.box
    assert inside[0] >= FIXED[0]
    assert inside[2] <= FIXED[0] + PATCH


def test_a_patch_in_a_few_of_a_classs_images_is_found():
    maps = [carried(k, FIXED) for k in range(10)]
    maps += [carried(k, FIXED, seen=False, pasted=False) for k in range(20, 50)]
    found = find_regions(maps, REFERENCE)
    assert [r.images for r in found] == [tuple(range(10))]


def test_a_region_whose_pixels_differ_is_no_shortcut():
    maps = [carried(k, FIXED, pasted=False) for k in range(20)]
    assert len(find_regions(maps, REFERENCE)) == 1
    assert find_shortcuts(maps, REFERENCE) == ()


def test_maps_moved_at_random_say_what_chance_gives():
    agreeing = np.stack([carried(k, FIXED).values for k in range(20)])
    agreeing /= agreeing.sum(axis=(1, 2), keepdims=True)
    mass, p = chance_in_place(agreeing)
    left, top, right, bottom = best_box(agreeing.mean(axis=0))
    assert p == pytest.approx(1 / 40)
    assert mass < agreeing.mean(axis=0)[top:bottom, left:right].sum() / 2
    noise = np.random.default_rng(0).uniform(0, 1, agreeing.shape).astype(np.float32)
    noise /= noise.sum(axis=(1, 2), keepdims=True)
    assert chance_in_place(noise)[1] > 0.05


def test_the_best_gain_of_several_maps_is_that_of_each():
    maps = np.stack([carried(k, somewhere(k)).values for k in range(3)]).astype(np.float64)
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    gains, masses = best_gain(maps)
    for one, gain, mass in zip(maps, gains, masses, strict=True):
        left, top, right, bottom = best_box(one)
        inside, area = one[top:bottom, left:right].sum(), (right - left) * (bottom - top) / SIDE**2
        assert mass == pytest.approx(inside)
        out = (1 - inside) * np.log((1 - inside) / (1 - area))
        assert gain == pytest.approx(inside * np.log(inside / area) + out)


def test_independent_crops_are_alike_by_nothing_and_equal_ones_by_one():
    crops = np.random.default_rng(0).normal(0, 3, (400, 12))
    found = likeness(crops, crops, spread_of(crops))
    assert np.allclose(np.diag(found), 1)
    assert abs(found[np.triu_indices(400, 1)].mean()) < 0.02
    a, b = crops[3], crops[7]
    assert found[3, 7] == pytest.approx(1 - ((a - b) ** 2).sum() / (24 * spread_of(crops)))
    assert (likeness(crops, crops, 0.0) == 0).all()
