"""Every optimizer learns, is exact, and goes on exactly; arguments in every spelling."""

import io
from typing import Any

import pytest
import torch

from trainer import optimizers
from trainer.arguments import parse_arguments
from trainer.optimizers import (
    OPTIMIZERS,
    Unusable,
    averaged,
    complaint,
    make_optimizer,
    optimizer_type,
    rates,
    set_rates,
)
from trainer.plan import warmup
from trainer.schedules import SCHEDULES, Span, factor, rate_at, span_of
from trainer.settings import Settings
from trainer.tabulated import Tabulated

CPU = torch.device("cpu")
RATES = {"SGDNesterov": 0.05, "SGDNesterov8bit": 0.05, "SGDScheduleFree": 1.0}


def settings(name: str, **values: Any) -> Settings:
    rate = 1.0 if OPTIMIZERS[name].finds_rate else RATES.get(name, 0.01)
    return Settings(optimizer=name, **{"learning_rate": rate, **values})


class Problem:
    """Least squares with a factored weight, as a LoRA's is; large enough for 8-bit states (4096 values)."""

    def __init__(self, s: Settings, laid_out: bool = False) -> None:
        source = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 96, generator=source)
        self.y = self.x @ torch.randn(96, 64, generator=source) / 10
        self.down = torch.nn.Parameter(torch.randn(96, 48, generator=source) / 10)
        self.up = torch.nn.Parameter(torch.zeros(48, 64))
        self.bias = torch.nn.Parameter(torch.zeros(64))
        self.groups = {"unet": [self.down, self.up], "textencoder": [self.bias]}
        groups, small = optimizers.lay_out(s, self.groups) if laid_out else (self.groups, [])
        self.in_vectors = groups is not self.groups
        self.optimizer = make_optimizer(s, groups, CPU, small=small)
        train(self.optimizer)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.groups["unet"], *self.groups["textencoder"]]

    def loss(self) -> torch.Tensor:
        return (self.x @ self.down @ self.up + self.bias - self.y).square().mean()

    def steps(self, count: int, span: Span | None = None) -> float:
        for step in range(count):
            if span is not None:
                share = factor("cosine", step, span)
                set_rates(self.optimizer, share.__mul__)
            loss = self.loss()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=not self.in_vectors)
        return self.loss().item()


def train(optimizer: torch.optim.Optimizer) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_learns(name: str) -> None:
    problem = Problem(settings(name))
    before = problem.loss().item()
    assert problem.steps(300, Span(300, 30)) < 0.5 * before


GOLDEN: dict[str, list[float]] = {
    "AdamW": [0.924274, 0.857839, 0.684055],
    "AdamW8bit": [0.924274, 0.857848, 0.684285],
    "PagedAdamW": [0.924274, 0.857839, 0.684055],
    "PagedAdamW8bit": [0.924274, 0.857848, 0.684285],
    "PagedAdamW32bit": [0.924274, 0.857839, 0.684055],
    "AdamWScheduleFree": [0.925695, 0.87794, 0.754071],
    "RAdamScheduleFree": [0.936959, 0.935113, 0.927608],
    "Adafactor": [0.936476, 0.935319, 0.933073],
    "Lion": [0.924212, 0.856718, 0.683474],
    "Lion8bit": [0.924212, 0.856718, 0.683472],
    "PagedLion8bit": [0.924212, 0.856718, 0.683472],
    "Prodigy": [0.887295, 0.517081, 0.244468],
    "prodigyplus.ProdigyPlusScheduleFree": [0.902337, 0.773481, 0.462834],
    "DAdaptation": [0.895702, 0.369093, 0.602472],
    "DAdaptAdamPreprint": [0.895702, 0.369093, 0.602472],
    "DAdaptAdam": [0.895702, 0.456249, 0.0989692],
    "DAdaptAdaGrad": [0.929792, 0.912035, 0.882827],
    "DAdaptAdan": [0.93489, 0.917505, 0.762955],
    "DAdaptAdanIP": [0.93489, 0.917029, 0.689408],
    "DAdaptLion": [0.924212, 0.856705, 0.682459],
    "DAdaptSGD": [0.936922, 0.936504, 0.93472],
    "bitsandbytes.optim.AdEMAMix8bit": [0.924257, 0.857573, 0.682771],
    "bitsandbytes.optim.PagedAdEMAMix8bit": [0.924257, 0.857573, 0.682771],
    "pytorch_optimizer.CAME": [0.669576, 1.57552, 0.46665],
    "SGDNesterov": [0.935658, 0.923664, 0.885446],
    "SGDNesterov8bit": [0.935966, 0.924858, 0.88738],
    "SGDScheduleFree": [0.929828, 0.903748, 0.852519],
}  # fmt: skip
"""The loss after 3, 9 and 18 steps with the defaults of each optimizer; the rate climbs in each of the three parts."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_golden_losses(name: str) -> None:
    """A change that should not alter results must not alter these."""
    guess = {"optimizer_args": "d0=0.01"} if OPTIMIZERS[name].finds_rate else {}  # near enough to move at once
    problem = Problem(settings(name, **guess), laid_out=True)
    found = [problem.steps(count, Span(60, 30)) for count in (3, 6, 9)]
    assert found == pytest.approx(GOLDEN[name], rel=2e-4)


SHAPES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [0.578803, 0.252554, 0.0564956]),
    "constant_with_warmup": ({"lr_warmup": 50}, [0.907695, 0.575902, 0.107343]),
    "linear": ({}, [0.751234, 0.329589, 0.119357]),
    "cosine": ({}, [0.751234, 0.318757, 0.127271]),
    "cosine_with_restarts": ({"lr_scheduler_num_cycles": 3}, [0.751234, 0.395731, 0.12667]),
    "cosine_with_min_lr": ({"lr_scheduler_args": "min_lr_rate=0.3"}, [0.751234, 0.316932, 0.0873547]),
    "polynomial": ({"lr_scheduler_power": 3, "lr_scheduler_args": "lr_end=1e-3"}, [0.751234, 0.36607, 0.189921]),
    "inverse_sqrt": ({"lr_scheduler_args": "timescale=2"}, [0.751234, 0.381239, 0.131961]),
    "warmup_stable_decay": (
        {"lr_scheduler_args": "num_decay_steps=0.8 decay_type=1-sqrt min_lr_ratio=0.1"},
        [0.720521, 0.313508, 0.115906],
    ),
    "piecewise_constant": ({"lr_scheduler_args": "step_rules=1:4,0.5:9,0.2"}, [0.578803, 0.30868, 0.151742]),
    "adafactor": ({"lr_warmup": 0}, [0.578803, 0.252554, 0.0564956]),
    "CosineAnnealingLR": ({"lr_scheduler_args": "T_max=9 eta_min=1e-3"}, [0.593314, 0.367481, 0.116101]),
    "StepLR": ({"lr_scheduler_args": "step_size=5 gamma=0.3"}, [0.578803, 0.3283, 0.270174]),
}
"""For each schedule and class: options, and the loss after 3, 9 and 27 steps of AdamW."""


@pytest.mark.parametrize("name", SHAPES)
def test_golden_losses_of_schedules(name: str) -> None:
    options, expected = SHAPES[name]
    which = {"lr_scheduler" if name in SCHEDULES else "lr_scheduler_type": name}
    s = settings("AdamW", **which, **options)
    problem = Problem(s)
    span = None if name == "StepLR" else span_of(s, 27, warmup(s, 27))
    table = Tabulated(s, problem.optimizer, 27) if span is None else None
    found = []
    for step in range(27):
        if table is not None:
            table.set(problem.optimizer, step)
        else:
            set_rates(problem.optimizer, lambda rate, step=step: rate_at(s, step, rate, span))  # type: ignore[arg-type, misc]
        loss = problem.steps(1)
        found += [loss] if step + 1 in (3, 9, 27) else []
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_schedule_has_golden_losses() -> None:
    assert {*SCHEDULES} <= {*SHAPES}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_exactly_from_a_saved_state(name: str) -> None:
    whole, first, second = (Problem(settings(name)) for _ in range(3))
    whole.steps(20)
    first.steps(8)
    file = io.BytesIO()
    torch.save(first.optimizer.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for mine, other in zip(second.parameters, first.parameters, strict=True):
            mine.copy_(other)
    second.optimizer.load_state_dict(torch.load(file, weights_only=True))
    second.steps(12)
    for mine, other in zip(second.parameters, whole.parameters, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_that_is_taken_out_rests(name: str) -> None:
    problem = Problem(settings(name))
    problem.steps(35, Span(300, 30))
    resting = problem.bias.detach().clone()
    problem.optimizer.param_groups.pop()
    problem.bias.requires_grad_(False)
    problem.bias.grad = None
    moving = problem.up.detach().clone()
    problem.steps(5)
    assert not torch.equal(problem.up, moving)
    assert torch.equal(problem.bias, resting)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_arguments_can_be_read_without_importing_it(name: str) -> None:
    import importlib
    import inspect

    module, _, kind = OPTIMIZERS[name].path.rpartition(".")
    made = inspect.signature(getattr(importlib.import_module(module), kind)).parameters.values()
    names = [item.name for item in made if item.kind is not inspect.Parameter.VAR_KEYWORD]
    assert optimizers.argument_names(name) == tuple(word for word in names if word not in ("params", "lr"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vectors_give_the_same_values(name: str) -> None:
    """To the last bit where the optimizer looks at nothing but a value and its gradient (or its block of 256)."""
    plain, vectors = Problem(settings(name)), Problem(settings(name), laid_out=True)
    assert vectors.in_vectors == OPTIMIZERS[name].elementwise
    for problem in (plain, vectors):
        problem.steps(40, Span(40, 5))
    sums = OPTIMIZERS[name].finds_rate  # a sum over all values is rounded in another order
    for mine, other in zip(vectors.parameters, plain.parameters, strict=True):
        assert torch.allclose(mine, other, atol=2e-3 if sums else 1e-7, rtol=2e-2 if sums else 1e-5)


def test_small_tensors_keep_32_bits_in_a_vector() -> None:
    problem = Problem(settings("AdamW8bit"), laid_out=True)
    many = [torch.nn.Parameter(torch.ones(40, 40)) for _ in range(9)]
    groups, small = optimizers.lay_out(settings("AdamW8bit"), {"unet": [*problem.groups["unet"], *many]})
    optimizer = make_optimizer(settings("AdamW8bit"), groups, CPU, small=small)
    for vector in groups["unet"]:
        vector.grad = torch.ones_like(vector)
    optimizer.step()
    kinds = {vector.numel(): optimizer.state[vector]["state1"].dtype for vector in groups["unet"]}
    assert kinds == {96 * 48: torch.uint8, 48 * 64 + 9 * 1792: torch.float32}


def test_rates_of_parts() -> None:
    s = Settings(optimizer="AdamW", learning_rate=1e-4, text_encoder_lr=5e-5, unet_lr=None)
    assert optimizers.rate_of(s, "unet") == 1e-4
    assert optimizers.rate_of(s, "textencoder") == 5e-5
    optimizer = Problem(s).optimizer
    set_rates(optimizer, lambda rate: rate / 2)
    assert rates(optimizer) == {"unet": 5e-5, "textencoder": 2.5e-5}
    set_rates(optimizer, lambda rate: rate)
    assert rates(optimizer) == {"unet": 1e-4, "textencoder": 5e-5}


def test_zero_is_zero_and_empty_is_the_learning_rate() -> None:
    s = Settings(learning_rate=1e-3, unet_lr=0, text_encoder_lr=None)
    assert (optimizers.rate_of(s, "unet"), optimizers.rate_of(s, "textencoder")) == (0, 1e-3)


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.finds_rate])
def test_one_rate_where_the_rate_is_found(name: str) -> None:
    s = settings(name, unet_lr=1.0, text_encoder_lr=0.5)
    assert optimizers.rate_of(s, "textencoder") == optimizers.rate_of(s, "unet") == 1.0
    problem = Problem(s)
    problem.steps(3)
    found = rates(problem.optimizer)
    assert found["d*lr/unet"] > 0
    assert optimizers.rate_of(settings(name, unet_lr=0, text_encoder_lr=0.5), "textencoder") == 0.5


def test_adamw_is_the_textbooks() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, by hand for one step."""
    s = Settings(optimizer="AdamW", learning_rate=0.1, optimizer_args="betas=0.8,0.9 weight_decay=0.5 eps=1e-8")
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make_optimizer(s, {"unet": [weight]}, CPU)
    weight.grad = torch.tensor([0.5, 0.25])
    optimizer.step()
    expected = torch.tensor([1.0, -2.0]) * (1 - 0.1 * 0.5) - 0.1  # the first step of Adam is lr in the sign's direction
    assert torch.allclose(weight, expected, atol=1e-6)


def test_nesterov_momentum_is_the_textbooks() -> None:
    """Sutskever et al. 2013 in torch's form: v = μv + g, step = g + μv."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(Settings(optimizer="SGDNesterov", learning_rate=0.1), {"unet": [weight]}, CPU)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * (1 + 0.9))
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * 1.9 - 0.1 * (1 + 0.9 * 1.9))


def test_adafactor_chooses_its_rate_unless_told_otherwise() -> None:
    relative = Problem(settings("Adafactor"))
    assert optimizers.ignores_rate("adafactor", {})
    assert rates(relative.optimizer) == {"unet": 0.0, "textencoder": 0.0}
    set_rates(relative.optimizer, lambda rate: rate / 2)
    relative.steps(2)
    assert rates(relative.optimizer)["unet"] > 0
    text = "scale_parameter=False relative_step=False warmup_init=False"
    fixed = Problem(settings("Adafactor", optimizer_args=text, learning_rate=1e-3))
    assert not optimizers.ignores_rate("Adafactor", parse_arguments(text))
    set_rates(fixed.optimizer, lambda rate: rate / 2)
    assert rates(fixed.optimizer)["unet"] == 5e-4


AVERAGING = [name for name, row in OPTIMIZERS.items() if row.averages]


@pytest.mark.parametrize(
    "name", [*AVERAGING, "pytorch_optimizer.ScheduleFreeAdamW", "schedulefree.AdamWScheduleFreeReference"]
)
def test_averages_are_looked_at_without_a_trace(name: str) -> None:
    """As sampling and saving do, of listed classes and of those by their path."""
    assert optimizer_type(name).averages
    rate = 1.0 if optimizer_type(name).finds_rate else 0.01
    s = Settings(optimizer=name, learning_rate=RATES.get(name, rate))
    looked, plain = Problem(s), Problem(s)
    looked.steps(12)
    plain.steps(12)
    trained = looked.up.detach().clone()
    with averaged(looked.optimizer):
        assert not torch.equal(looked.up, trained)
    assert torch.equal(looked.up, trained)
    assert looked.steps(5) == plain.steps(5)


def test_schedule_free_optimizers_get_the_warm_up() -> None:
    groups = {"unet": [torch.nn.Parameter(torch.zeros(2, 2))]}
    optimizer = make_optimizer(settings("AdamWScheduleFree"), groups, CPU, warmup_steps=17)
    assert optimizer.param_groups[0]["warmup_steps"] == 17


def test_unknown_and_refused_arguments_are_sentences() -> None:
    assert "weight_dekay" in optimizers.wrong_arguments("AdamW8bit", {"weight_dekay": 1})
    assert "fields of its own" in optimizers.wrong_arguments("AdamW", {"lr": 1})
    assert optimizers.wrong_arguments("Prodigy", {"d_coef": 2, "decouple": True}) == ""
    with pytest.raises(ValueError, match="no argument 'frobnicate'"):
        Problem(settings("AdamW", optimizer_args="frobnicate=1"))
    with pytest.raises(ValueError, match="does not accept"):
        Problem(settings("AdamW", optimizer_args="foreach=True fused=True"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("AdamW", "betas=0.9", "betas takes 2 numbers from 0 to below 1, such as betas=0.9,0.999; 0.9 is not."),
        ("AdamW", "betas=0.9,1.5", "betas takes 2 numbers from 0 to below 1"),
        ("pytorch_optimizer.CAME", "betas=0.9,0.99", "betas takes 3 numbers"),
        ("Adafactor", "eps=1e-30", "eps takes 2 numbers, such as eps=1e-30,0.001; 1e-30 is not."),
        ("AdamW", "weight_decay=abc", "weight_decay is a number, such as weight_decay=0.01; abc is not."),
        ("Prodigy", "weight_decay=abc", "weight_decay is a number, such as weight_decay=0; abc is not."),
        ("AdamW8bit", "weight_decay=-1", "weight_decay is at least 0; -1 is not."),
        ("DAdaptAdam", "decouple=yes", "decouple is True or False; yes is neither."),
    ],
)
def test_a_value_of_another_kind_is_said_before_the_start(name: str, text: str, said: str) -> None:
    assert optimizers.wrong_arguments(name, parse_arguments(text)).startswith(said)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AdamW", "eps=1e-8 amsgrad=True foreach=False betas=0,0"),
        ("Prodigy", "decouple=1 weight_decay=0.01 d_coef=2 beta3=None betas=0.9,0.99"),
        ("Adafactor", "scale_parameter=False relative_step=False warmup_init=False eps=1e-30,1e-3 decay_rate=-0.8"),
        ("prodigyplus.ProdigyPlusScheduleFree", "eps=None"),
    ],
)
def test_values_that_optimizers_take_are_not_spoken_of(name: str, text: str) -> None:
    assert optimizers.wrong_arguments(name, parse_arguments(text)) == ""


def test_names_in_any_case_and_old_names() -> None:
    assert OPTIMIZERS["adamw8BIT"] is OPTIMIZERS["AdamW8bit"]
    assert optimizer_type("DAdaptAdamPreprint") == optimizer_type("DAdaptation")


def test_every_name_of_the_kohya_gui_is_there() -> None:
    assert set(OPTIMIZERS) >= {
        "AdamW", "AdamWScheduleFree", "AdamW8bit", "Adafactor", "bitsandbytes.optim.AdEMAMix8bit",
        "bitsandbytes.optim.PagedAdEMAMix8bit", "DAdaptation", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptAdanIP",
        "DAdaptAdamPreprint", "DAdaptLion", "DAdaptSGD", "Lion", "Lion8bit", "PagedAdamW8bit", "PagedAdamW32bit",
        "PagedLion8bit", "Prodigy", "prodigyplus.ProdigyPlusScheduleFree", "pytorch_optimizer.CAME", "RAdamScheduleFree",
        "SGDNesterov", "SGDNesterov8bit", "SGDScheduleFree",
    }  # fmt: skip


# Classes by their path.

BY_PATH = {
    "torch.optim.RMSprop": 0.003, "Adamax": 0.01, "pytorch_optimizer.ScheduleFreeAdamW": 0.01,
    "pytorch_optimizer.Prodigy": 1.0, "schedulefree.AdamWScheduleFreeReference": 0.01, "bitsandbytes.optim.Adam8bit": 0.01,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_PATH)
def test_a_class_by_its_path_learns(name: str) -> None:
    problem = Problem(Settings(optimizer=name, learning_rate=BY_PATH[name]))
    before = problem.loss().item()
    assert problem.steps(100) < 0.7 * before
    assert optimizer_type(name).finds_rate == (BY_PATH[name] == 1)


def test_a_path_to_a_listed_class_is_the_listed_one() -> None:
    assert optimizer_type("prodigyopt.Prodigy") is OPTIMIZERS["Prodigy"]
    assert optimizer_type("transformers.Adafactor") is OPTIMIZERS["Adafactor"]
    assert optimizer_type("torch.optim.SGD") is not OPTIMIZERS["SGDNesterov"]  # which has defaults of its own


@pytest.mark.parametrize(
    ("name", "said", "instead"),
    [
        ("", "choose an optimizer", "AdamW"),
        ("AdamWW", "there is no optimizer AdamWW; did you mean AdamW?", "AdamW"),
        ("Prodigi", "there is no optimizer Prodigi; did you mean Prodigy?", "Prodigy"),
        ("Adadeltas", "did you mean Adadelta?", "Adadelta"),
        ("torch.optim.adamw", "torch.optim has no class adamw; did you mean AdamW?", "torch.optim.AdamW"),
        ("torch.optm.AdamW", "there is no torch.optm.", "AdamW"),
        ("fancy_optim.Fancy", "install it with: pip install fancy-optim", "AdamW"),
        ("os.system", "os.system is not of a package that was installed with pip", "AdamW"),
        ("trainer.train.Desk", "is not of a package that was installed with pip", "AdamW"),
        ("torch.nn.Linear", "torch.nn.Linear is not an optimizer", "AdamW"),
        ("torch.optim.Optimizer", "is not an optimizer", "AdamW"),
        ("pytorch_optimizer.load_optimizer", "is not a class", "AdamW"),
        ("LBFGS", "LBFGS needs the loss several times in a step (a closure)", "AdamW"),
        ("pytorch_optimizer.SAM", "needs the loss several times in a step (a closure)", "AdamW"),
        ("pytorch_optimizer.Lookahead", "is put around another optimizer", "AdamW"),
        ("pytorch_optimizer.LOMO", "is put around a model", "AdamW"),
        ("a; import os", "is no optimizer's name", "AdamW"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(name: str, said: str, instead: str) -> None:
    found = complaint(name)
    assert found is not None
    assert said in str(found)
    assert found.instead == instead
    with pytest.raises(Unusable):
        make_optimizer(Settings(optimizer=name), {"unet": [torch.nn.Parameter(torch.ones(2, 2))]}, CPU)


def test_what_only_importing_shows_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "optimizer_type", lambda name: optimizers.OptimizerType("torch.optim.nothing.Here"))
    with pytest.raises(Unusable, match="cannot be loaded here"):
        make_optimizer(Settings(optimizer="torch.optim.Muon"), {"unet": [torch.nn.Parameter(torch.ones(3))]}, CPU)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"does not accept these rates and weights: .*2D"):
        make_optimizer(Settings(optimizer="torch.optim.Muon"), {"unet": [torch.nn.Parameter(torch.ones(3))]}, CPU)


def test_pages_are_left_out_where_there_is_no_graphics_card() -> None:
    """The library has them for large tensors only, and for none on the processor."""
    large = torch.nn.Parameter(torch.ones(400, 400))
    optimizer = make_optimizer(settings("bitsandbytes.optim.PagedAdEMAMix8bit"), {"unet": [large]}, CPU)
    large.grad = torch.ones_like(large)
    optimizer.step()
    assert large.max() < 1
