"""Orders and ranks: what every metric of ranks stands on."""

import pytest
import torch
from scipy.stats import rankdata

from whence.evaluation.metric import ascending, mean_ranks


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("levels", [1, 3, 40, 10**6])
def test_equal_values_keep_their_order(levels, dtype, generator):
    values = (torch.randint(levels, (5, 300), generator=generator) / levels).to(dtype)
    values[0] = torch.arange(300) / 512  # a row without ties beside rows with them
    values[1, ::2] *= -0.0
    assert torch.equal(ascending(values), values.argsort(dim=1, stable=True))


@pytest.mark.parametrize("levels", [1, 3, 40, 10**6])
def test_ranks_are_scipys(levels, generator):
    values = torch.randint(levels, (4, 7, 43), generator=generator).double().flatten(1)
    found = mean_ranks(values.float())
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.from_numpy(rankdata(values.numpy(), axis=1)))
    assert torch.equal(mean_ranks(values[:, :1]), torch.ones(4, 1, dtype=torch.float64))
