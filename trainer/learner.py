"""Turning losses into better weights: the optimizer, its rates over the run, clipping, and the scaling fp16 needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer import optimizers
from trainer.optimizers import OPTIMIZERS, make_optimizer, module_of
from trainer.report import Failure
from trainer.schedules import factor, span_of

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.devices import Precision
    from trainer.plan import Plan
    from trainer.report import Reporter
    from trainer.settings import Settings

UNET, TEXT = "unet", "textencoder"
"""Names of the groups of parameters, as the learning-rate curves show them."""


class Learner:
    """Holds everything that changes while training: the adapter, the optimizer's memory, the scale of fp16's losses."""

    def __init__(self, adapter: Adapter, s: Settings, plan: Plan, precision: Precision, report: Reporter) -> None:
        self.adapter, self.s, self.precision = adapter, s, precision
        groups = {UNET: adapter.unet_parameters, TEXT: adapter.text_parameters}
        groups = {name: parameters for name, parameters in groups.items() if parameters}
        self.optimizer = self._make(groups, plan)
        self.span = span_of(s, plan.steps, plan.warmup_steps)
        # Schedule-free optimizers are in an undefined mode until they are told.
        getattr(self.optimizer, "train", lambda: None)()
        self._say_what_does_not_count(groups, report)

    def _make(self, groups: dict[str, list[nn.Parameter]], plan: Plan) -> torch.optim.Optimizer:
        try:
            vectors, small = optimizers.lay_out(self.s, groups)
            self._in_vectors = vectors is not groups
            return make_optimizer(self.s, vectors, self.precision.device, plan.warmup_steps, small)
        except ValueError as error:
            raise Failure(f"Optimizer extra arguments: {error}", "Correct or empty them.", "optimizer_args") from error
        except ImportError as error:
            name = self.s.optimizer
            reason = f"Optimizer: {name} needs the package {module_of(name)}, which cannot be loaded here ({error})."
            raise Failure(reason, "Choose another optimizer, such as AdamW.", "optimizer") from error

    def _say_what_does_not_count(self, groups: dict[str, list[nn.Parameter]], report: Reporter) -> None:
        s, row = self.s, OPTIMIZERS[self.s.optimizer]
        if self._chooses_rate:
            text = f"{s.optimizer} chooses its own rate; Learning rate and LR Scheduler do not count."
            report.note(text, key="optimizer")
        if row.averages and s.lr_scheduler != "constant":
            report.note(f"{s.optimizer} has a schedule of its own; LR Scheduler does not count.", key="lr_scheduler")
        asked = {rate for rate in (s.unet_lr, s.text_encoder_lr) if rate is not None}
        if row.finds_rate and len(groups) > 1 and asked - {optimizers.rate_of(s, UNET)}:
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
        """The names of the groups that are being trained."""
        return [group["name"] for group in self.optimizer.param_groups]

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder is being trained."""
        return TEXT in self.parts

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
        for parameter in [parameter for group in groups if group["name"] == TEXT for parameter in group["params"]]:
            self.optimizer.state.pop(parameter, None)
        groups[:] = [group for group in groups if group["name"] != TEXT]
        for parameter in self.adapter.text_parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
