"""Turning losses into better weights: the optimizer, its rates over the run, clipping, and the scaling fp16 needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer import optimizers, tabulated
from trainer.adapters.start import label
from trainer.arguments import parse_arguments
from trainer.optimizers import has_own_schedule, knows_one_rate, make_optimizer, optimizer_type, part_of
from trainer.report import Failure
from trainer.schedules import function_of, rate_at, span_of

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
        self.set_rates = self._schedule(plan)
        """Sets the rates for the step after so many steps."""
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
        except optimizers.Unusable as error:
            raise Failure(f"Optimizer: {error}", "Choose another optimizer, such as AdamW.", "optimizer") from error
        except ValueError as error:
            raise Failure(f"Optimizer extra arguments: {error}", "Correct or empty them.", "optimizer_args") from error

    def _schedule(self, plan: Plan) -> Callable[[int], None]:
        s, optimizer = self.s, self.optimizer
        if self._has_own_schedule or self._chooses_rate:
            return lambda step: optimizers.set_rates(optimizer, lambda rate: rate)
        try:
            if function_of(s) is None:
                table = tabulated.Tabulated(s, optimizer, plan.steps)
                return lambda step: table.set(optimizer, step)
            span = span_of(s, plan.steps, plan.warmup_steps)
        except tabulated.Unusable as error:
            raise Failure(f"LR Scheduler type: {error}", "Choose another one, or none.", "lr_scheduler_type") from error
        except ValueError as error:
            reason = f"LR scheduler extra arguments: {error}"
            raise Failure(reason, "Correct or empty them.", "lr_scheduler_args") from error
        return lambda step: optimizers.set_rates(optimizer, lambda rate: rate_at(s, step, rate, span))

    @property
    def _has_own_schedule(self) -> bool:
        return has_own_schedule(self.s.optimizer, parse_arguments(self.s.optimizer_args))

    def _say_what_does_not_count(self, parts: set[str], report: Reporter) -> None:
        s, row = self.s, optimizer_type(self.s.optimizer)
        if self._chooses_rate:
            text = f"{s.optimizer} chooses its own rate; Learning rate and LR Scheduler do not count."
            report.note(text, key="optimizer")
        if self._has_own_schedule and (s.lr_scheduler != "constant" or s.lr_scheduler_type):
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
    def is_sound(self) -> bool:
        """Whether everything that is being trained is made of finite numbers. Waits for the device, once."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.parameters]).all())

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

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to those that wait for the step."""
        self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Move the weights by the gradients that were gathered, and forget these."""
        scaler, s = self.precision.scaler, self.s
        if s.max_grad_norm:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, s.max_grad_norm)
        try:
            scaler.step(self.optimizer)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if optimizers.is_listed(s.optimizer) or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = f"Optimizer: {s.optimizer} cannot take a step here: {str(error).strip() or type(error).__name__}"
            raise Failure(reason, "Choose another optimizer, such as AdamW.", "optimizer") from error
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
