"""A real notebook shows every result as a picture or a table, not as its ``repr``."""

import json
import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'notebook'")
nbclient = pytest.importorskip("nbclient", reason="needs the extra 'notebook'")
pytest.importorskip("ipykernel", reason="needs the extra 'notebook'")

SETUP = """
import torch, whence
from torch import nn
from whence.convert import x_dnn
from whence.attribution import InputXGradient, attribute
from whence.core import Margin, ModelScalar, logit
from whence.influence import influence
from whence.recipes import planted_digits
from whence.training_features import training_features
torch.set_num_threads(1)
digits = planted_digits(seed=0)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
)
images = next(digits.test.batches(3)).images
model(images)
model.eval()
network = whence.Network.read(model, images)
scores = influence(network, digits.train, images, Margin(network(images).argmax(dim=1)))
None
"""

CELLS = {
    "whence.explain(model, images, method='input-x-gradient', names=['<script>', 'b', 'c'])": (
        "Explanation"
    ),
    "whence.explain(model, images, method='gradient').record": "Explanation",
    "attribute(InputXGradient(), ModelScalar(model, logit(3)), images)": "Attribution",
    "scores": "Influence",
    "scores.proponents(4)": "Ranking",
    "training_features(scores, 0, digits.train, [3, 5])": "Training features",
    "network.homogeneity(images)": "Homogeneity",
    "x_dnn(model, images)": "Conversion",
}


def test_every_result_shows_itself(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell(text) for text in (SETUP, *CELLS)]
    kernel = tmp_path / "kernels" / "whence"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "whence", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(notebook, kernel_name="whence", timeout=300)
    client.execute(cwd=str(tmp_path))
    for code, title in CELLS.items():
        (cell,) = [one for one in notebook.cells if one.source == code]
        (output,) = cell.outputs
        shown = output["data"]["text/html"]
        assert f"<strong>{title}</strong>" in shown, code
        assert "<script" not in shown
        assert len(shown) < 200_000
    nbformat.validate(notebook)
