import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.convert import (
    ROUTES,
    ChannelScale,
    DivergenceWarning,
    GraphRoute,
    HomogeneousCoordinate,
    NormWrapper,
    ReplaceActivations,
    Route,
    ScaleOnlyBatchNorms,
    SizedConstants,
    StripBiases,
    UncentredBatchNorms,
    Wrapping,
    converted,
    x_dnn,
)
from whence.errors import MissingExtra, NumericsError, UnsupportedOperation


def filled(model):
    """Fill parameters and statistics from a seed, so that nothing is trivially zero or one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        for module in model.modules():
            if getattr(module, "running_var", None) is not None:
                module.running_var.abs_().add_(0.5)
    return model.double().eval()


@pytest.fixture
def model():
    act = nn.GELU()
    return filled(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            act,
            nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, affine=False), act),
            nn.MaxPool2d(2),
            nn.ReLU6(inplace=True),
            nn.Flatten(),
            nn.Linear(6 * 9, 4),
        )
    )


@pytest.fixture
def images(generator):
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


def test_a_convolutional_network_becomes_an_x_dnn(model, images):
    made = x_dnn(model, images)
    report = made.report
    assert report.holds
    assert report.homogeneity.holds
    assert max(report.homogeneity.certificate.scale_errors.values()) < 1e-12
    assert report.homogeneity.certificate.at_zero == 0
    for factor in (1e-3, 0.7, 1000):
        torch.testing.assert_close(made.model(factor * images), factor * made.model(images))


def test_input_times_gradient_of_the_outcome_adds_up_to_the_logit(model, images):
    made = x_dnn(model, images).model
    source = images.clone().requires_grad_()
    values = made(source)[:, 2]
    (gradient,) = torch.autograd.grad(values.sum(), source)
    torch.testing.assert_close((images * gradient).sum(dim=(1, 2, 3)), values)


def test_the_report_names_every_change_and_counts_what_is_gone(model, images):
    changes = x_dnn(model, images).report.changes
    assert [(c.path, c.parameters) for c in changes] == [
        ("0", 6),
        ("3.0", 6),
        ("7", 4),
        ("1", 12),  # mean and bias
        ("3.1", 6),  # mean
        ("2", 0),
        ("5", 0),
    ]
    assert changes[0].what == "Conv2d lost its bias"
    assert changes[5].what == "GELU became ReLU"
    assert "scale per channel" in changes[3].what


def test_a_module_in_two_places_is_exchanged_in_both_and_stays_one(model, images):
    made = x_dnn(model, images).model
    assert isinstance(made[2], nn.ReLU)
    assert made[2] is made[3][2]


def test_a_scale_is_the_batch_norm_without_its_shift(model, images):
    norm = model[1]
    made = nn.Sequential(norm)
    ScaleOnlyBatchNorms()(made)
    values = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    shift = norm(torch.zeros_like(values))
    assert isinstance(made[0], ChannelScale)
    torch.testing.assert_close(made[0](values), norm(values) - shift)
    flat = torch.randn(5, 6, dtype=torch.float64)
    expected = flat * norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(made[0](flat), expected)


def test_the_weights_are_the_models_own(model, images):
    made = x_dnn(model, images).model
    assert torch.equal(made[0].weight, model[0].weight)
    assert made[0].weight is not model[0].weight
    assert [name for name, _ in made.named_parameters()] == [
        "0.weight",
        "1.scale",
        "3.0.weight",
        "3.1.scale",
        "7.weight",
    ]


def test_the_users_model_is_untouched(model, images, untouched):
    with untouched(model):
        x_dnn(model, images)
    with untouched(model), pytest.raises(UnsupportedOperation):
        x_dnn(model, images, routes=())


def test_the_share_of_kept_predictions_is_counted(model, images):
    made = x_dnn(model, images)
    same = made.model(images).argmax(dim=1) == model(images).argmax(dim=1)
    assert made.report.kept == same.double().mean().item()
    assert converted(model, images, routes=()).report.kept == 1


def test_a_network_that_is_an_x_dnn_already_is_not_changed(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.LeakyReLU(), nn.Flatten())
    report = x_dnn(filled(model), images).report
    assert report.changes == ()
    assert report.kept == 1


@pytest.mark.parametrize("left_out", ROUTES[:3], ids=lambda route: type(route).__name__)
def test_every_route_is_needed(model, images, left_out):
    with pytest.raises(UnsupportedOperation, match="Not an X-DNN"):
        x_dnn(model, images, routes=[r for r in ROUTES if r is not left_out])


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.GroupNorm(2, 6)
        self.offset = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, images):
        values = functional.gelu(self.first(images))
        values = self.norm(values) * torch.sigmoid(values) + self.offset
        return self.head(functional.hardtanh(values).amax(dim=(2, 3)))


def test_what_is_called_as_a_function_is_exchanged_in_the_graph(images, untouched):
    model = filled(Functional())
    with untouched(model):
        made = x_dnn(model, images, routes=[*ROUTES, CapAsReLU()])
    assert made.report.holds
    done = {(c.path, c.what) for c in made.report.changes}
    assert ("", "gelu became ReLU") in done
    assert ("norm", "group_norm became a scale that does not look at sizes") in done
    assert ("", "sigmoid looks at values of a fixed size") in done
    assert ("", "add: constants take the size of the values") in done
    names = dict(made.model.named_parameters())
    assert {"first.weight", "head.weight", "norm.scale", "offset"} <= set(names)
    assert not any(part.training for part in made.model.modules())


class CapAsReLU:
    """A route of one's own, on the graph."""

    def __call__(self, model):
        return ()

    def on_graph(self, surgery):
        for node, row in surgery.offenders():
            if row.operation == "hardtanh":
                new = surgery.call(node, torch.ops.aten.relu.default, node.args[0])
                surgery.replace(node, new, "hardtanh became ReLU")


def test_what_cannot_be_exchanged_gets_one_of_three_answers(images):
    report = converted(filled(Functional()), images, routes=()).report
    answers = {r.operation: r.answer for r in report.refusals}
    assert answers["gelu"] == "Replace it with ReLU (ReplaceActivations)."
    assert answers["group_norm"].startswith("Replace it with a scale")
    assert answers["sigmoid"].startswith("Replace it with a gate")
    assert answers["add"].startswith("Replace it with constants that take the size")
    assert answers["hardtanh"] == "Replace it with nn.ReLU, which has no cap."
    assert {r.path for r in report.refusals} == {"", "norm"}
    assert "norm (group_norm): It divides by the size of its input" in str(report)

    class Strange(nn.Module):
        def forward(self, images):
            chosen = torch.where(images > 0.3, images, 2 * images)
            return (chosen + images.erf()).mean(dim=(2, 3))

    answers = {r.operation: r.answer for r in converted(Strange().eval(), images).report.refusals}
    assert answers["gt"].startswith("Never, because a fixed threshold")
    assert answers["erf"].startswith("Not yet: ")


def test_an_operation_that_a_proof_misses_is_caught_by_the_scale_test(model, images, monkeypatch):
    from whence.network import degrees

    monkeypatch.setattr(degrees, "KEEPS", degrees.KEEPS | {"hardtanh"})
    made = nn.Sequential(nn.Flatten(), nn.Hardtanh())
    report = converted(made.eval(), images, routes=()).report
    assert report.homogeneity.degree == 1
    assert not report.holds
    assert report.homogeneity.certificate.scale_errors[50.0] > 0.1


def test_a_dead_network_is_not_called_an_x_dnn(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False)).double().eval()
    nn.init.zeros_(model[1].weight)
    assert not converted(model, images).report.holds


@pytest.fixture
def torchvision():
    from whence.adapters.torchvision import open_torchvision

    try:
        return open_torchvision()
    except MissingExtra as error:
        pytest.skip(str(error))


def test_the_report_holds_the_largest_value_at_zero_and_the_largest_error(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double().eval()
    with torch.no_grad():
        model[1].weight.fill_(0.01)
        model[1].bias.copy_(torch.tensor([0.0, -0.5, 0.25, 0.0]))
        values = model(images)
    tested = converted(model, images, routes=()).report.homogeneity.certificate
    assert tested.at_zero == 0.5
    error = (model(2 * images) - 2 * values).abs().max() / (2 * values).abs().max()
    assert tested.scale_errors[2.0] == pytest.approx(error.item())


def test_resnet18_becomes_an_x_dnn(generator, torchvision):
    with torch.random.fork_rng():
        torch.random.set_rng_state(generator.get_state())
        model = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    images = torch.randn(2, 3, 64, 64, generator=generator)
    report = x_dnn(model, images).report
    assert report.holds
    assert len(report.changes) == 20 + 1  # batch norms and the last bias
    assert "an X-DNN" in str(report)


def transformer(torchvision, generator):
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    ).eval()
    for p in model.parameters():
        if p.ndim > 1 or not p.any():
            nn.init.normal_(p, std=0.4, generator=generator)
    return model


def test_a_vision_transformer_becomes_an_x_dnn(generator, torchvision):
    model = transformer(torchvision, generator)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    made = x_dnn(model, images)
    assert isinstance(made.model, torch.fx.GraphModule)
    assert "encoder.layers.encoder_layer_0.ln_1.scale" in made.model.state_dict()
    assert torch.equal(
        made.model.state_dict()["encoder.layers.encoder_layer_0.mlp.0.weight"],
        model.state_dict()["encoder.layers.encoder_layer_0.mlp.0.weight"],
    )
    for factor in (0.01, 30):
        torch.testing.assert_close(
            made.model(factor * images), factor * made.model(images), rtol=1e-4, atol=1e-5 * factor
        )


def test_routes_that_were_not_taken_are_named_in_the_refusal(generator, torchvision):
    images = torch.randn(2, 3, 32, 32, generator=generator)
    with pytest.raises(UnsupportedOperation) as caught:
        x_dnn(transformer(torchvision, generator), images, routes=ROUTES[:3])
    text = str(caught.value)
    assert "encoder.ln" in text
    assert "(ScaleOnlyNorms)" in text
    assert "(UnitAttention)" in text
    assert "(SizedConstants)" in text


def test_on_the_calibration_images_the_transformers_activations_keep_their_size(
    generator, torchvision
):
    images = torch.randn(2, 3, 32, 32, generator=generator)
    report = x_dnn(transformer(torchvision, generator), images).report
    assert {scale.path for scale in report.scales} >= {"conv_proj", "logits"}
    assert all(0.1 < scale.ratio < 10 for scale in report.scales)
    assert report.diverging == ()


def test_routes_keep_their_protocol():
    assert all(isinstance(route, Route) for route in ROUTES)
    assert all(isinstance(route, Wrapping) for route in (NormWrapper(), HomogeneousCoordinate()))
    assert all(isinstance(route, GraphRoute) for route in ROUTES)


def exploding():
    """Negative biases hold the activations down; without them every layer doubles them."""
    layers = []
    for _ in range(10):
        layer = nn.Conv2d(3, 3, 1)
        nn.init.constant_(layer.weight, 2 / 3)
        nn.init.constant_(layer.bias, -1.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4)).double().eval()


def test_a_network_that_diverges_without_its_biases_is_warned_of_layer_by_layer(generator):
    images = 1.5 + 1e-4 * torch.rand(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    with pytest.warns(DivergenceWarning, match="explode or vanish") as caught:
        report = converted(exploding(), images).report
    assert "before and after:" in str(caught[0].message)
    assert "2: " in str(caught[0].message)
    worst = max(report.diverging, key=lambda scale: scale.ratio)
    assert worst.after > 30 * worst.before
    assert "small learning rate" in str(report)


def test_a_network_that_overflows_without_its_biases_is_refused_with_the_size_of_each_layer():
    layers = []
    for _ in range(45):
        layer = nn.Conv2d(3, 3, 1)
        nn.init.constant_(layer.weight, 10 / 3)
        nn.init.constant_(layer.bias, -100.0)
        layers += [layer, nn.ReLU()]
    held = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4)).eval()
    for routes in (ROUTES, (StripBiases(),)):
        with pytest.raises(NumericsError, match=r"(?s)overflows.*6: 100 -> .*and 3\d more") as told:
            converted(held, torch.rand(2, 3, 4, 4) + 0.5, routes=routes)
        assert "keep a norm" in str(told.value)


def test_an_uncentred_norm_is_a_scale_in_eval_mode_and_normalises_in_train_mode(images):
    norm = filled(nn.Sequential(nn.BatchNorm2d(3)))
    made = nn.Sequential(norm[0])
    (change,) = UncentredBatchNorms()(made)
    plain = nn.Sequential(norm[0])
    ScaleOnlyBatchNorms()(plain)
    assert change.parameters == 6
    assert set(made.state_dict()) == {"0.weight", "0.running_var"}
    torch.testing.assert_close(made[0](images), plain[0](images))
    before = made[0].running_var.clone()
    made[0].training = True
    variance = images.var(dim=(0, 2, 3), unbiased=False)
    wanted = images * (made[0].weight / (variance + made[0].eps).sqrt())[:, None, None]
    torch.testing.assert_close(made[0](images), wanted)
    torch.testing.assert_close(made[0].running_var, 0.9 * before + 0.1 * variance)


def test_an_uncentred_network_is_an_x_dnn_in_eval_mode(model, images):
    routes = (StripBiases(), UncentredBatchNorms(), ReplaceActivations())
    assert x_dnn(model, images, routes=routes).report.holds


def test_dropped_constants_leave_nothing_to_the_energy(generator, torchvision):
    images = torch.randn(2, 3, 32, 32, generator=generator)
    routes = (*ROUTES[:-1], SizedConstants(keep=False))
    made = x_dnn(transformer(torchvision, generator), images, routes=routes)
    assert not any("ratio" in name for name in made.model.state_dict())
    assert any("constants are gone" in change.what for change in made.report.changes)


def test_the_report_says_that_the_intercept_is_gone_and_where_to_put_it(model, images):
    assert "add the logarithms of their frequencies" in str(x_dnn(model, images).report)
    exact = converted(model, images, routes=[ReplaceActivations(), HomogeneousCoordinate()])
    assert "intercept" not in str(exact.report)


def test_a_conversion_unpacks_as_model_and_report(model, images):
    made, report = x_dnn(model, images)
    assert isinstance(made, nn.Module)
    assert report.holds


class Gated(nn.Module):
    """Batch norms far from zero mean, and a gate: what grows once shifts are gone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            images = functional.silu(norm(layer(images)))
            images = images * torch.sigmoid(images.mean((2, 3), keepdim=True))
        return self.head(images.mean((2, 3)))


def test_where_the_graph_is_changed_scales_are_set_such_that_activations_keep_their_size(images):
    model = filled(Gated())
    with torch.no_grad():
        for norm in model.norms:
            norm.running_mean.add_(4)
    made = x_dnn(model, images)
    ratios = [scale.ratio for scale in made.report.scales[:3]]
    assert ratios == pytest.approx([1, 1, 1], rel=1e-6)
    kept = [c for c in made.report.changes if c.what.endswith("keep their size")]
    assert [c.path for c in kept] == ["norms.0", "norms.1", "norms.2"]
