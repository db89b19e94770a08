"""Models and data that influence must cope with, or refuse, on the command line."""

import pytest
import torch

from whence.results import load_audit

MORE = '''
import torch
from torch import nn

class Seeing(nn.Module):
    """Attention on the default kernel, batch norm, and a layer that nothing uses."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(5, 2)

    def forward(self, x):
        tokens = self.norm(self.patches(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.mean(dim=1))

def seeing():
    torch.manual_seed(0)
    net = Seeing()
    net.preprocessing = {"size": 12, "mean": 0.5, "std": 0.5}
    net.classes = ("circle", "plus", "square")
    return net.train()
'''


def words_of(result):
    return " ".join(result.output.split())


@pytest.fixture
def seeing(audit, place):
    (place / "more.py").write_text(MORE, encoding="utf-8")
    return lambda *words, **kw: audit(*words, model="more.py:seeing", **kw)


@pytest.mark.parametrize("score", ["grad-cos", "ekfac"])
def test_attention_batch_norm_and_unused_parameters_are_audited_with_maps(seeing, place, score):
    result = seeing("--score", score, "--training-method", "gradient")
    assert result.exit_code == 0, result.output
    record = load_audit(place / "audit")
    assert all(query.proponents for query in record.queries)


def test_fewer_training_images_than_asked_for_are_all_of_them(audit, place):
    result = audit("-k", 50)
    assert result.exit_code == 0, result.output
    record = load_audit(place / "audit")
    for query in record.queries:
        assert len({p.index for p in query.proponents + query.opponents}) == 12


def test_an_ek_fac_fit_is_kept_read_again_and_refused_for_another_model(audit, place, weight_file):
    words = ("--score", "ekfac", "--score-set", "cache=fit.safetensors")
    assert audit(*words, out="first").exit_code == 0
    kept = (place / "fit.safetensors").read_bytes()
    again = audit(*words, "--score-set", "damping=layer", out="second")
    assert again.exit_code == 0, again.output
    assert (place / "fit.safetensors").read_bytes() == kept
    assert "cache" not in load_audit(place / "first").run.settings["score settings"]
    other = weight_file(lambda state: {n: v / 2 for n, v in state.items()})
    refused = audit(*words, "--weights", other, out="third")
    assert refused.exit_code == 1
    assert "fit.safetensors" in words_of(refused)
    assert "differs in model" in words_of(refused)
    assert not (place / "third").exists()


def test_a_checkpoint_of_another_architecture_is_refused(seeing, place, weight_file):
    refused = seeing("--score", "tracin", "--checkpoint", weight_file())
    assert refused.exit_code == 1
    assert "does not fit" in words_of(refused)
    assert not (place / "audit").exists()


def test_a_checkpoint_with_nan_is_refused_by_name(audit, weight_file):
    file = weight_file(lambda state: {n: v * torch.nan for n, v in state.items()})
    refused = audit("--score", "tracin", "--checkpoint", file)
    assert refused.exit_code == 1
    assert "NaN" in words_of(refused)
