"""Turning losses into better weights: the optimizer, its rates over the run, clipping, and the scaling fp16 needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer import optimizers
from trainer.adapters.start import label
from trainer.optimizers import OPTIMIZERS, knows_one_rate, make_optimizer, module_of, parse_arguments, part_of
from trainer.report import Failure
from trainer.schedules import factor, span_of

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter, Group
    from trainer.devices import Precision
    from trainer.plan import Plan
    from trainer.report import Reporter
    from trainer.settings import Settings

UNET, TEXT = "unet", "textencoder"
"""Beginnings of the names of the groups of parameters, as the learning-rate curves show them."""


class Learner:
    """Holds everything that changes while training: the adapter, the optimizer's memory, the scale of fp16's losses."""

    def __init__(self, adapter: Adapter, s: Settings, plan: Plan, precision: Precision, report: Reporter) -> None:
        self.adapter, self.s, self.precision = adapter, s, precision
        groups = adapter.groups()
        self.scales = {group.name: group.scale for group in groups}
        self.optimizer = self._make({group.name: group.parameters for group in groups}, plan)
        self._check_scales(groups)
        self.span = span_of(s, plan.steps, plan.warmup_steps)
        # Schedule-free optimizers are in an undefined mode until they are told.
        getattr(self.optimizer, "train", lambda: None)()
        self._say_what_does_not_count({group.part for group in groups}, report)

    def _check_scales(self, groups: list[Group]) -> None:
        one_rate = knows_one_rate(self.s.optimizer, parse_arguments(self.s.optimizer_args))
        if one_rate and len(set(self.scales.values())) > 1:
            key = "loraplus_lr_ratio" if any(group.name.endswith("plus") for group in groups) else "up_lr_weight"
            raise Failure(
                f"{label(key)}: {self.s.optimizer} finds one rate for everything; no group can have its own.",
                "Choose another optimizer, such as AdamW, or empty the LoRA+ ratios and the weights of blocks.",
                key,
            )

    def _make(self, groups: dict[str, list[nn.Parameter]], plan: Plan) -> torch.optim.Optimizer:
        try:
            vectors, small = optimizers.lay_out(self.s, groups, self.adapter.rests)
            self._in_vectors = vectors is not groups
            return make_optimizer(self.s, vectors, self.precision.device, plan.warmup_steps, small, self.scales)
        except ValueError as error:
            raise Failure(f"Optimizer extra arguments: {error}", "Correct or empty them.", "optimizer_args") from error
        except ImportError as error:
            name = self.s.optimizer
            reason = f"Optimizer: {name} needs the package {module_of(name)}, which cannot be loaded here ({error})."
            raise Failure(reason, "Choose another optimizer, such as AdamW.", "optimizer") from error

    def _say_what_does_not_count(self, parts: set[str], report: Reporter) -> None:
        s, row = self.s, OPTIMIZERS[self.s.optimizer]
        if self._chooses_rate:
            text = f"{s.optimizer} chooses its own rate; Learning rate and LR Scheduler do not count."
            report.note(text, key="optimizer")
        if row.averages and s.lr_scheduler != "constant":
            report.note(f"{s.optimizer} has a schedule of its own; LR Scheduler does not count.", key="lr_scheduler")
        asked = {rate for rate in (s.unet_lr, s.text_encoder_lr) if rate is not None}
        if row.finds_rate and len(parts) > 1 and asked - {optimizers.rate_of(s, UNET)}:
            report.note(
                f"{s.optimizer} knows one rate for all parts: both learn at {optimizers.rate_of(s, UNET):g}.",
                key="text_encoder_lr",
            )

    @property
    def _chooses_rate(self) -> bool:
        return any(group.get("relative_step") for group in self.optimizer.param_groups)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is being trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def parts(self) -> list[str]:
        """The names of the groups of parameters that are being trained; each begins with the part of the model."""
        return [group["name"] for group in self.optimizer.param_groups]

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder is being trained."""
        return any(part_of(name) == TEXT for name in self.parts)

    def rate_of(self, group: str) -> float:
        """The rate that the settings give to a group: that of its part, times what it alone is multiplied by."""
        return optimizers.rate_of(self.s, group) * self.scales[group]

    @property
    def rates(self) -> dict[str, float]:
        """What each part learns at."""
        return optimizers.rates(self.optimizer)

    def set_rates(self, step: int) -> None:
        """The rates for the step after `step` steps."""
        averages = OPTIMIZERS[self.s.optimizer].averages
        optimizers.set_rates(self.optimizer, 1.0 if averages else factor(self.s.lr_scheduler, step, self.span))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to those that wait for the step."""
        self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Move the weights by the gradients that were gathered, and forget these."""
        scaler, s = self.precision.scaler, self.s
        if s.max_grad_norm:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, s.max_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=not self._in_vectors)
        if s.scale_weight_norms:
            self.adapter.scale_norms(s.scale_weight_norms)

    def rest_text_encoder(self) -> None:
        """From now on only the U-Net learns: no gradient, no step, no optimizer memory for the text encoder."""
        groups = self.optimizer.param_groups
        resting = [group for group in groups if part_of(group["name"]) == TEXT]
        for parameter in [parameter for group in resting for parameter in group["params"]]:
            self.optimizer.state.pop(parameter, None)
        groups[:] = [group for group in groups if part_of(group["name"]) != TEXT]
        for parameter in self.adapter.text_parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
