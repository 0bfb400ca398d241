"""Parameter groups, schedules, freezing and the average of the weights, against the published facts."""

import math

import pytest
import torch
from torch import nn

from utils.engine.optim import AveragedWeights, freeze, make_optimizer, parameter_groups
from utils.engine.schedules import create_schedule
from utils.errors import UserError
from utils.recipe.resolve import resolve_recipe
from utils.recipe.schema import OptimisationSettings


class Small(nn.Module):
    """One of every kind of parameter."""

    name = "Small"

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.deep = nn.Sequential(nn.Conv3d(4, 4, 1, bias=False), nn.BatchNorm3d(4))
        self.linear = nn.Linear(4, 2)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        x = self.deep(self.backbone(x)[:, :, None])
        return self.linear(x.mean((2, 3, 4))) * (1 + self.gamma)


def recipe(**changes) -> OptimisationSettings:
    values = {"optimizer": "sgd", "parameter_groups": "published", "learning_rate": 0.1} | changes
    if values["optimizer"] == "sgd":
        values |= {"momentum": 0.937, "nesterov": True}
    groups = {"weight_decay": 5e-4} if values["parameter_groups"] != "all" else {}
    return resolve_recipe({"optimisation": {"weight_decay": 5e-4}}, "", values | groups).optimisation


def names_of(model: nn.Module, params) -> set[str]:
    wanted = {id(p) for p in params}
    return {name for name, p in model.named_parameters() if id(p) in wanted}


def test_the_published_groups():
    """Norms of 2-D layers and biases do not decay, those of 3-D layers do; other names are never trained."""
    model = Small()
    groups = make_optimizer(model, recipe()).param_groups
    found = [(group["weight_decay"], names_of(model, group["params"])) for group in groups]
    assert found == [
        (0.0, {"backbone.1.weight"}),
        (5e-4, {"backbone.0.weight", "deep.0.weight", "deep.1.weight", "linear.weight"}),
        (0.0, {"backbone.0.bias", "backbone.1.bias", "deep.1.bias", "linear.bias"}),
    ]
    assert all(g["momentum"] == 0.937 and g["nesterov"] for g in groups)
    assert not model.gamma.requires_grad


def test_groups_without_decay_of_any_norm():
    model = Small()
    without, with_decay = parameter_groups(model, recipe(parameter_groups="no-norm-decay"))
    assert without["weight_decay"] == 0
    assert names_of(model, with_decay["params"]) == {"backbone.0.weight", "deep.0.weight", "linear.weight"}
    assert "gamma" in names_of(model, without["params"])


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 5e-4), ("adamw", 5e-4), ("sgd", 0.0)])
def test_one_group_decays_with_adam_alone(optimizer, decay):
    model = Small()
    (group,) = make_optimizer(model, recipe(optimizer=optimizer, parameter_groups="all")).param_groups
    assert group["weight_decay"] == decay
    assert len(group["params"]) == len(list(model.parameters()))


def test_the_published_learning_rates():
    """Of 100 epochs of batches of 4, as they were read off the published code at work."""
    schedule = create_schedule("warmup-cosine-yolox", warmup_epochs=3, min_learning_rate=6.25e-6)
    published = {0: 6.25e-5, 1: 1.25e-4, 2: 3.125e-4, 3: 6.25e-4, 10: 6.16204e-4, 25: 5.41727e-4}
    published |= {50: 3.05063e-4, 75: 7.56393e-5, 94: 6.43036e-6, 95: 6.25e-6, 99: 6.25e-6}
    for epoch, rate in published.items():
        assert schedule.rate(6.25e-4, epoch, 100) == pytest.approx(rate, rel=1e-5), epoch


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_yolox_schedule_of_few_epochs(epochs):
    schedule = create_schedule("warmup-cosine-yolox", warmup_epochs=3, min_learning_rate=1e-3)
    rates = [schedule.rate(0.1, epoch, epochs) for epoch in range(epochs)]
    assert rates[0] == pytest.approx(0.01)
    assert all(1e-3 <= rate <= 0.1 for rate in rates)


def test_a_part_is_frozen_in_the_first_epochs():
    model = Small()
    part = recipe(freeze="backbone", freeze_epochs=2)
    optimizer = make_optimizer(model, part)
    for epoch in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        freeze(model, optimizer, part, epoch)
        optimizer.zero_grad(set_to_none=True)
        model(
            torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(epoch))
        ).square().sum().backward()
        optimizer.step()
        for name, p in model.named_parameters():
            moved = not torch.equal(p, before[name])
            if name == "backbone.0.bias" and epoch == 2:
                continue  # the norm behind it takes its effect away
            assert moved == (name != "gamma" and (epoch == 2 or not name.startswith("backbone"))), (
                name,
                epoch,
            )


def test_a_part_that_is_not_there_cannot_be_frozen():
    model, part = Small(), recipe(freeze="back", freeze_epochs=1)
    with pytest.raises(UserError, match="Small has no part 'back' to freeze; known: backbone, deep, linear"):
        freeze(model, make_optimizer(model, part), part, 0)


def test_a_part_that_thaws_trains_what_the_optimizer_holds_alone():
    """Else gradients that no step uses would pile up in the norm."""
    model = Small()
    model.backbone.register_parameter("scale", nn.Parameter(torch.ones(1)))  # no group of "published"
    part = recipe(freeze="backbone", freeze_epochs=1)
    optimizer = make_optimizer(model, part)
    for epoch, expected in ((0, False), (1, True)):
        freeze(model, optimizer, part, epoch)
        assert model.backbone[0].weight.requires_grad == expected
        assert not model.backbone.scale.requires_grad


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.99)}),
        ("AdamW", torch.optim.AdamW, {"betas": (0.9, 0.99)}),
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_optimizers_take_their_options(name, kind, options):
    typed = {"momentum": 0.8, "nesterov": True} if name == "sgd" else {"beta2": 0.99}
    chosen = resolve_recipe({}, "", {"optimizer": name, "learning_rate": 0.25, **typed}).optimisation
    optimizer = make_optimizer(Small(), chosen)
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in options} == options
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_the_average_follows_the_published_decays():
    """d of steps 1, 100, 2000 and 50000: 0.0004998, 0.0487657, 0.6320573, 0.9999."""
    model = Small()
    for step, decay in ((1, 0.0004998), (100, 0.0487657), (2000, 0.6320573), (50000, 0.9999)):
        average = AveragedWeights(model, 0.9999)
        changed = Small()
        with torch.no_grad():
            for value in changed.state_dict().values():
                value.add_(1)
        average.update(changed, step)
        assert decay == pytest.approx(0.9999 * (1 - math.exp(-step / 2000)), abs=1e-7)
        for name, value in average.model.state_dict().items():
            before, new = model.state_dict()[name], changed.state_dict()[name]
            expected = decay * before + (1 - decay) * new if value.is_floating_point() else before
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=name)


def test_the_average_is_apart_from_the_model():
    model = Small()
    average = AveragedWeights(model, 0.5)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    with torch.no_grad():
        model.linear.weight.add_(1)
    assert not torch.equal(average.model.linear.weight, model.linear.weight)
