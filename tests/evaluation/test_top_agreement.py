import pytest
import torch

from whence.errors import DataError, SettingError
from whence.evaluation import Spearman, TopAgreement, between_images, of_shuffled_pixels

KINDS = ["feature", "rank", "sign", "signed-rank"]


def naive(one, two, count, kind):
    """The paper's sets, one image, without ties."""
    first, second = (x.abs().argsort(descending=True)[:count].tolist() for x in (one, two))
    agreed = 0
    for pixel in set(first) & set(second):
        rank = first.index(pixel) == second.index(pixel)
        sign = bool(one[pixel].sign() == two[pixel].sign())
        agreed += {"feature": True, "rank": rank, "sign": sign, "signed-rank": rank and sign}[kind]
    return agreed / count


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_papers_share_where_nothing_ties(kind, generator):
    one = torch.randn(30, 1, 4, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(30, 1, 4, 5, generator=generator, dtype=torch.float64)
    two = one + 0.2 * noise
    two[::2] = -two[::2]
    found = TopAgreement(kind=kind, fraction=0.4)(one, two)
    expected = [naive(a.flatten(), b.flatten(), 8, kind) for a, b in zip(one, two, strict=True)]
    assert found.tolist() == pytest.approx(expected)
    assert 0 < sum(expected) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_agrees_with_itself_also_where_it_ties(kind, generator):
    values = torch.randint(-3, 4, (5, 2, 6, 6), generator=generator).float()
    found = TopAgreement(kind=kind, fraction=0.1)(values, 2 * values)
    assert (found > 0.99).all()


@pytest.mark.parametrize(
    ("kind", "level"), [("feature", 0.2), ("sign", 0.1), ("rank", 0.01), ("signed-rank", 0.005)]
)
def test_random_maps_get_the_cards_chance_level(kind, level, generator):
    one, two = torch.randn(2, 3000, 1, 10, 10, generator=generator)
    found = TopAgreement(kind=kind, fraction=0.2)(one, two).mean().item()
    assert found == pytest.approx(level, rel=0.15)


def test_the_floor_between_images_pairs_each_image_with_the_next(generator):
    values, others = torch.randn(2, 4, 1, 5, 5, generator=generator)
    found = between_images(Spearman(), values, others)
    for row in range(4):
        alone = Spearman()(values[row : row + 1], others[(row + 1) % 4][None])
        assert found[row].item() == pytest.approx(alone.item())
    with pytest.raises(DataError, match="two images or more; got 1"):
        between_images(Spearman(), values[:1], others[:1])


def test_maps_of_one_shape_agree_between_images_and_not_once_shuffled(generator):
    bump = torch.randn(1, 1, 12, 12, generator=generator)
    values = bump + 0.1 * torch.randn(6, 1, 12, 12, generator=generator)
    assert between_images(Spearman(), values, values).min().item() > 0.9
    assert of_shuffled_pixels(Spearman(), values).abs().max().item() < 0.3


def test_shuffling_keeps_the_values_and_ignores_the_batch(generator):
    values = torch.randn(6, 1, 4, 4, generator=generator)
    seen = []
    of_shuffled_pixels(lambda a, b: seen.append(b) or a.flatten(1)[:, 0], values)
    of_shuffled_pixels(lambda a, b: seen.append(b) or a.flatten(1)[:, 0], values[2:3])
    assert torch.equal(seen[0].flatten(1).sort().values, values.flatten(1).sort().values)
    assert not torch.equal(seen[0], values)
    assert torch.equal(seen[0][2:3], seen[1])


@pytest.mark.parametrize("settings", [{"kind": "both"}, {"fraction": 0}, {"fraction": 2.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(SettingError, match="got"):
        TopAgreement(**settings)
