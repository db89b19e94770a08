from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from whence.adapters import load_model
from whence.adapters.timm import build_timm, open_timm
from whence.adapters.torchvision import build_torchvision, open_torchvision, torchvision_classes
from whence.adapters.transformers import open_transformers
from whence.errors import NumericsError, SettingError, ShapeError, TargetError, WeightsError

FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(3, 4))

def declared():
    model = plain()
    model.classes = ["a", "b", "c", "d"]
    model.preprocessing = {"size": (6, 5), "mean": 0.5, "std": 0.5}
    return model

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))

def odd():
    model = plain()
    model.preprocessing = 7
    return model

def spatial():
    return nn.Conv2d(3, 4, 1)

def broken():
    raise KeyError("no such file")

def text():
    return "a model"

def diverged():
    model = plain()
    with torch.no_grad():
        model[3].bias[1] = float("nan")
    return model

constant = 5
"""


@pytest.fixture
def factories(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FACTORIES)
    return path


def saved(model, path):
    state = model.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def resnet():
    return build_torchvision("resnet18", 7).eval()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_torchvision_network_for_seven_classes_comes_back(ending, resnet, tmp_path):
    path = saved(resnet, tmp_path / f"w{ending}")
    loaded = load_model("torchvision/resnet18", weights=path)
    assert loaded.classes == ("0", "1", "2", "3", "4", "5", "6")
    assert loaded.preprocessing.source == "weights' own transforms"
    assert not any(part.training for part in loaded.module.modules())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(x), resnet(x))


def test_a_timm_network_for_seven_classes_comes_back(tmp_path):
    model = build_timm("mobilenetv3_small_050", 7).eval()
    path = saved(model, tmp_path / "w.safetensors")
    loaded = load_model("timm/mobilenetv3_small_050", weights=path, classes=list("abcdefg"))
    assert loaded.classes == tuple("abcdefg")
    assert loaded.preprocessing.source == "timm config"
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(x), model(x))


def test_a_network_of_imagenets_classes_has_their_names(tmp_path):
    model = build_torchvision("squeezenet1_1", None)
    path = saved(model, tmp_path / "w.pt")
    loaded = load_model("torchvision/squeezenet1_1", weights=path)
    assert loaded.classes[0] == "tench"
    assert loaded.classes == torchvision_classes("squeezenet1_1", 1000)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_loads_with_and_without_its_training_heads(auxiliary, tmp_path):
    model = build_torchvision("googlenet", 5, auxiliary=auxiliary)
    loaded = load_model("torchvision/googlenet", weights=saved(model, tmp_path / "w.pt"))
    assert len(loaded.classes) == 5


@pytest.fixture
def vit(tmp_path):
    transformers = open_transformers()
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "eel"},
        label2id={"cat": 0, "dog": 1, "eel": 2},
    )
    model = transformers.ViTForImageClassification(config).eval()
    folder = tmp_path / "vit"
    model.save_pretrained(folder)
    return model, folder


def test_a_transformers_folder_gives_model_names_and_preprocessing(vit):
    model, folder = vit
    processor = open_transformers().ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    loaded = load_model(f"transformers/{folder}")
    assert loaded.classes == ("cat", "dog", "eel")
    assert loaded.preprocessing.source == "transformers image processor"
    assert (loaded.preprocessing.size, loaded.preprocessing.crop) == ((32, 32), False)
    assert loaded.preprocessing.normalisation.mean == (0.5, 0.5, 0.5)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(x).logits, model(x).logits)


def test_a_transformers_folder_without_processor_says_that_it_guesses(vit):
    loaded = load_model(f"transformers/{vit[1]}")
    assert loaded.preprocessing.size == (32, 32)
    assert loaded.preprocessing.source.startswith("ImageNet default")


def test_a_transformers_folder_takes_other_weights(vit, tmp_path):
    model, folder = vit
    with torch.no_grad():
        model.classifier.bias += 1
    loaded = load_model(f"transformers/{folder}", weights=saved(model, tmp_path / "new.pt"))
    assert torch.equal(loaded.module.classifier.bias, model.classifier.bias)


def test_a_transformers_folder_with_too_few_weights_is_refused(vit):
    model, folder = vit
    state = {k: v for k, v in model.state_dict().items() if "classifier" not in k}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"2 missing keys: classifier\.bias, classifier\.weight"):
        load_model(f"transformers/{folder}")


def test_a_transformers_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"There is no folder.*download"):
        load_model("transformers/nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"needs config\.json"):
        load_model(f"transformers/{tmp_path / 'empty'}")


def test_a_factory_in_a_file_brings_classes_and_preprocessing(factories):
    loaded = load_model(f"{factories}:declared")
    assert loaded.classes == ("a", "b", "c", "d")
    assert loaded.preprocessing.size == (6, 5)
    assert loaded.preprocessing.source == "the model's own attribute"
    assert not any(part.training for part in loaded.module.modules())


def test_a_factory_in_a_package_is_imported(factories, monkeypatch):
    monkeypatch.syspath_prepend(factories.parent)
    loaded = load_model("mine:plain", classes=4)
    assert loaded.classes == ("0", "1", "2", "3")
    assert loaded.preprocessing.source == "ImageNet default"


def test_a_factory_takes_weights_and_another_preprocessing(factories, tmp_path, plain):
    layer = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity(), nn.Linear(3, 4))
    path = saved(layer, tmp_path / "w.pt")
    loaded = load_model(f"{factories}:declared", weights=path, preprocessing=plain)
    assert torch.equal(loaded.module[3].weight, layer[3].weight)
    assert loaded.preprocessing == plain


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none", SettingError, "has no callable 'none'.*broken"),
        ("constant", SettingError, "has no callable 'constant'"),
        ("broken", SettingError, "failed: KeyError: 'no such file'"),
        ("text", SettingError, "returned a str; a torch module was needed"),
        ("odd", SettingError, "attribute preprocessing is a int"),
        ("spatial", ShapeError, r"logits of shape \(1, classes\)"),
        ("diverged", NumericsError, r"NaN: 1 of 4 values of 3\.bias"),
    ],
)
def test_a_factory_that_gives_no_classifier_is_named(name, error, message, factories):
    with pytest.raises(error, match=message):
        load_model(f"{factories}:{name}")


def test_code_that_is_not_there_or_fails_is_named(tmp_path):
    with pytest.raises(SettingError, match="no Python file"):
        load_model(f"{tmp_path}/none.py:make")
    with pytest.raises(SettingError, match=r"no module nothing_here.*path/to/nothing_here\.py"):
        load_model("nothing_here:make")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(SettingError, match="ZeroDivisionError"):
        load_model(f"{tmp_path}/bad.py:make")


def test_weights_that_do_not_fit_a_factory_are_refused(factories, tmp_path):
    path = saved(nn.Sequential(nn.Identity(), nn.Linear(4, 4)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_model(f"{factories}:plain", weights=path)


def test_a_model_that_cannot_take_its_pictures_is_named(factories, plain):
    assert load_model(f"{factories}:fixed", preprocessing=plain).classes == ("0", "1")
    with pytest.raises(ShapeError, match=r"shape \(1, 3, 224, 224\).*ImageNet default"):
        load_model(f"{factories}:fixed")


@pytest.mark.parametrize("spec", ["torchvision/resnet18", "timm/resnet18"])
def test_random_weights_are_refused_with_both_ways_out(spec):
    with pytest.raises(WeightsError, match=r"no weights.*local file \(weights\).*\(download\)"):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "names no model.*torchvision/NAME"),
        ("torchvision/", "names no model"),
        ("torchvision/resnet81", "no classifier 'resnet81'.*resnet18"),
        ("timm/vit_tiny_patch16", "no model 'vit_tiny_patch16'.*vit_tiny_patch16_"),
    ],
)
def test_a_model_that_does_not_exist_is_named(spec, message, resnet, tmp_path):
    with pytest.raises(SettingError, match=message):
        load_model(spec, weights=saved(resnet, tmp_path / "w.pt"))


def test_weights_of_another_architecture_are_refused(resnet, tmp_path):
    path = saved(resnet, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"keys missing: features.*keys unexpected: conv1"):
        load_model("torchvision/squeezenet1_1", weights=path)


def test_another_number_of_names_than_outputs_is_refused(resnet, tmp_path):
    path = saved(resnet, tmp_path / "w.pt")
    with pytest.raises(TargetError, match="7 outputs, and 2 class names"):
        load_model("torchvision/resnet18", weights=path, classes=["cat", "dog"])
    with pytest.raises(TargetError, match="7 outputs, and 10 classes"):
        load_model("torchvision/resnet18", weights=path, classes=10)


def test_a_file_and_a_download_contradict_each_other():
    with pytest.raises(SettingError, match="Choose one"):
        load_model("torchvision/resnet18", weights=Path("w.pt"), download=True)


def test_a_device_that_is_not_there_is_named(factories):
    with pytest.raises(SettingError, match="device 'warp'"):
        load_model(f"{factories}:plain", device="warp")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="device 'cuda'"):
            load_model(f"{factories}:plain", device="cuda")


def test_loading_leaves_the_random_generator_as_it_was(resnet, tmp_path):
    before = torch.get_rng_state()
    load_model("torchvision/resnet18", weights=saved(resnet, tmp_path / "w.pt"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_download_asks_the_library_for_its_default_weights(monkeypatch):
    models = open_torchvision().models
    asked = []

    def serve(self, *args, **kwargs):
        asked.append(self)
        return models.resnet18().state_dict()

    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", serve)
    loaded = load_model("torchvision/resnet18", download=True)
    assert asked == [models.ResNet18_Weights.DEFAULT]
    assert loaded.classes[1] == "goldfish"


def test_a_download_asks_timm_for_its_weights(monkeypatch):
    timm = open_timm()
    asked = []

    def create(name, *, pretrained, num_classes):
        asked.append((name, pretrained, num_classes))
        return build("resnet18")

    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    assert len(load_model("timm/resnet18.a1_in1k", download=True).classes) == 1000
    assert asked == [("resnet18.a1_in1k", True, None)]


def test_a_download_that_fails_says_so_and_what_to_do(monkeypatch):
    def offline(self, *args, **kwargs):
        message = "Name or service not known"
        raise OSError(message)

    monkeypatch.setattr(open_torchvision().models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(WeightsError, match=r"torchvision/resnet18 could not be downloaded: Name"):
        load_model("torchvision/resnet18", download=True)
