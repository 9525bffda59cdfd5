"""The training loop."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from trainer import checkpoint, diffusion
from trainer.adapters import attach
from trainer.attention import choose_attention
from trainer.checkpoint import EPOCHS, STEPS, Progress, Saver, of_step
from trainer.compiling import compile_unet
from trainer.conditioning import Conditioning
from trainer.curves import Curves
from trainer.data.captions import settled, varies_captions
from trainer.data.dataset import Skipped, caches_latents, scan, verify
from trainer.data.loader import Batch, Batches
from trainer.devices import Precision, choose_precision, lower, memory_use, put
from trainer.events import EpochEnd, Started
from trainer.learner import Learner
from trainer.losses import Losses
from trainer.memory import LOADING, PREPARING, TRAINING, memory_for
from trainer.models import load_model
from trainer.models.demands import unfit_weights
from trainer.models.sd import load_text_encoders
from trainer.plan import Plan, batches_a_step, due, make_plan
from trainer.publish import Publisher, fetched
from trainer.report import Failure, Stopped
from trainer.sample import Painter, asked_for
from trainer.storage import Frozen
from trainer.world import World, join

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset, Picture
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings


def train(s: Settings, report: Reporter) -> None:
    """Fit a low-rank update to a frozen diffusion model (Hu et al. 2021; Ho et al. 2020).

    Writes the LoRA into the output folder and everything else into the run's folder. Raises `Failure` with a sentence,
    or `Stopped` when a stop command was obeyed and everything is saved.
    """
    s = fetched(s, report)
    state = checkpoint.open_state(s.resume) if s.resume else None
    precision = choose_precision(s, report)
    report.memory = partial(memory_use, precision.device)
    world = join(precision.device)  # the processes that train together; mostly it is one
    s = with_seed(s, state, report, world)
    dataset = pictures(s, report, world)
    plan = make_plan(s, dataset)
    report(Started(job="train", name=s.output_name, pid=os.getpid(), plan=plan.as_json(),
                   resumed_from_step=state.step if state else 0))  # fmt: skip

    with memory_for(LOADING, s, precision.device):
        model = load_model(s, report, precision.device, precision.dtype)
        conditioning = Conditioning(model, s, precision)
        if s.sdxl_cache_text_encoder_outputs and model.family == "sdxl":
            reload = partial(load_text_encoders, model, report)  # for prompts that are changed while the run is on
            conditioning.replace_encoders(texts(s, dataset), asked_for(s), report, reload)
        choose_attention(model, s, report)
        frozen = Frozen(model, s, precision)  # how its weights are kept
        adapter = attach(model, s, report)  # W + (alpha / rank) B A
        frozen.store(adapter.unet_parameters)
        lower(adapter.unet_parameters + adapter.text_parameters, precision)
        learner = Learner(adapter, s, plan, precision, report)
        progress = Progress() if state is None else resumed(state, s, model, learner, plan, report)
    with (
        world,
        memory_for(PREPARING, s, precision.device),
        Batches(s, dataset, model, report, precision.device, world=world) as batches,
        Curves(s, report, {"plan": plan.sentence}, progress.step, writes=world.is_main) as curves,
        Publisher(s, report) as publisher,
    ):
        conditioning.sits_on(adapter, learner.trains_text)
        painter = Painter(s, report, model, conditioning, learner, draws=world.is_main)
        saver = Saver(s, report, model, dataset, plan, learner, publisher, writes=world.is_main)
        if state is not None:
            saver.go_on_from(state)
        losses = Losses(plan.steps_per_epoch, precision.device, progress.losses)
        desk = Desk(s, report, plan, progress, losses, curves, painter, saver, world)
        make_room(s, model, dataset, conditioning, painter, report)
        loss_of = Objective(model, conditioning, s, precision)

        with memory_for(TRAINING, s, precision.device):
            if s.sample_at_first and not progress.step:
                painter.draw(progress)
            world.wait()
            report.phase("training", progress.step, plan.steps)
            while progress.step < plan.steps:
                for group in groups(batches, progress, s):  # the batches of one step, or this process's share of them
                    if learner.trains_text and is_over_for_text(progress, plan):
                        rest_text_encoder(learner, conditioning, model, report)
                    learner.set_rates(progress.step)
                    loss = torch.zeros((), device=precision.device)
                    for batch in group.batches:
                        share = loss_of(batch, progress.step, batch.index - progress.batch) / group.size
                        learner.backward(share)
                        loss += share.detach()
                    world.add_up(loss, learner.parameters)
                    learner.step()

                    progress.advance(group.size)
                    losses.add(progress.step, progress.current_epoch, loss, learner.rates, group.pictures)
                    desk.after_step()
                    if progress.step == plan.steps:
                        break
                if progress.batch >= batches.per_epoch:
                    progress.end_epoch()
                    desk.after_epoch()
        saver.save(progress, with_state=s.save_state_on_train_end)
        world.wait()
    saver.tidy()
    saver.forget_autosaves()


class Objective:
    """The loss of a batch: how far the model is from telling noise and picture apart (Ho et al. 2020, eq. 14)."""

    def __init__(self, model: Model, conditioning: Conditioning, s: Settings, precision: Precision) -> None:
        self.model, self.conditioning, self.s, self.precision = model, conditioning, s, precision
        # What steps count is by the model's own schedule, also where another one mixes picture and noise.
        self.alpha_bars = diffusion.alpha_bars(model.scheduler_config)
        self.mixing = diffusion.zero_terminal_snr(self.alpha_bars) if s.zero_terminal_snr else self.alpha_bars
        for found in unfit_weights(s, model.prediction_type == "v_prediction"):  # a model of the hub is known only now
            raise Failure(str(found), found.fix_label + ".", found.key)

    def __call__(self, batch: Batch, *place: int) -> Tensor:
        """A tensor of one number that gradients flow from.

        Everything random follows from the seed and `place`, which is unlike any other in the run: step, batch of it.
        """
        s, prediction_type = self.s, self.model.prediction_type
        assert s.seed is not None
        source = diffusion.generator(s.seed, *place)
        torch.manual_seed(diffusion.mixed_seed(s.seed, *place))  # for dropouts
        x0, device = batch.latents, batch.latents.device
        noise, t = self.draw(x0, source)
        own, alpha_bar, t = put(self.alpha_bars[t], device), put(self.mixing[t], device), put(t, device)

        noisy = diffusion.mix(x0, self.perturbed(noise, source), alpha_bar)  # q(x_t | x_0)
        told = self.conditioning(batch.captions)
        if batch.inpainting is not None:
            noisy = torch.cat((noisy, batch.inpainting), dim=1)
        with self.precision.autocast():
            prediction = self.model.predict(noisy, t, told, batch.sizes)
        wanted = diffusion.target(x0, noise, alpha_bar, prediction_type)
        distances = self.distance(prediction, wanted, t, alpha_bar)
        if batch.loss_masks is not None:
            distances = distances * batch.loss_masks
        losses = diffusion.per_sample(distances) * batch.loss_weights
        return self.weighed(losses, own).mean()

    def draw(self, x0: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """The noise, on x0's device, and the timesteps. What only some options need is drawn after what all do."""
        s = self.s
        offset = s.noise_offset if s.noise_offset_type == "Original" else 0.0
        varies = offset and (s.noise_offset_random_strength or s.adaptive_noise_scale)
        noise = put(diffusion.draw_noise(x0.shape, 0.0 if varies else offset, source), x0.device)
        end = min(s.max_timestep, len(self.alpha_bars))
        t = diffusion.draw_timesteps(len(x0), end, source, min(s.min_timestep, end - 1))
        if varies:
            strength = offset * diffusion.draw_share(source) if s.noise_offset_random_strength else offset
            adapted = diffusion.adaptive_offset(x0, strength, s.adaptive_noise_scale)
            noise = diffusion.add_offset(noise, adapted, source)
        if s.noise_offset_type == "Multires" and s.multires_noise_iterations:
            noise = diffusion.add_multires(noise, s.multires_noise_iterations, s.multires_noise_discount, source)
        return noise, t

    def perturbed(self, noise: Tensor, source: torch.Generator) -> Tensor:
        """The noise that is mixed in; another than what is asked for with "IP noise gamma"."""
        s = self.s
        if not s.ip_noise_gamma:
            return noise
        share = diffusion.draw_share(source) if s.ip_noise_gamma_random_strength else 1.0
        return diffusion.perturb(noise, share * s.ip_noise_gamma, source)

    def distance(self, prediction: Tensor, wanted: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """How far every element is off, by "Loss type"."""
        s, c = self.s, None
        if s.loss_type in ("huber", "smooth_l1"):
            c = diffusion.huber_c(t, alpha_bar, len(self.alpha_bars), s.huber_schedule, s.huber_c, s.huber_scale)
        return diffusion.distance(prediction, wanted, s.loss_type, c)

    def weighed(self, losses: Tensor, alpha_bar: Tensor) -> Tensor:
        """The loss of each sample times what its timestep counts."""
        s, prediction_type = self.s, self.model.prediction_type
        if s.min_snr_gamma:
            losses = losses * diffusion.min_snr_weight(alpha_bar, s.min_snr_gamma, prediction_type)
        if s.scale_v_pred_loss_like_noise_pred:
            losses = losses * diffusion.noise_like_weight(alpha_bar)
        if s.v_pred_like_loss:
            losses = losses * diffusion.velocity_like_weight(alpha_bar, s.v_pred_like_loss)
        if s.debiased_estimation_loss:
            losses = losses * diffusion.debiased_weight(alpha_bar, prediction_type)
        return losses


# Before the loop.


def with_seed(s: Settings, state: checkpoint.State | None, report: Reporter, world: World) -> Settings:
    """The settings with a seed: the user's, that of the state to go on from, or a new one, which a note names."""
    kept = None if state is None else int(state.about["seed"])
    if s.seed is None and kept is None:
        kept = world.hear(secrets.randbelow(2**32))
        report.note(f"Seed: {kept}", key="seed")
    if s.seed is None:
        return s.changed(seed=kept)
    if kept is not None and kept != s.seed:
        report.note(f"The state was saved with seed {kept}; the run goes on with seed {s.seed}.", "warning", "seed")
    return s


def pictures(s: Settings, report: Reporter, world: World) -> Dataset:
    """The pictures that can be read; those that cannot are named. `Failure` when none is left to train on."""
    dataset = scan(s, report)
    found = [*dataset.pictures, *dataset.reg_pictures]
    if world.is_main:
        dataset = verify(dataset, report)
    kept = {picture.path for picture in (*dataset.pictures, *dataset.reg_pictures)}
    broken = [place for place, picture in enumerate(found) if picture.path not in kept]
    broken, seen = json.loads(world.read(json.dumps([broken, _digest(found)])))
    if seen != _digest(found):
        reason = "This machine sees other pictures or captions than the main one."
        raise Failure(reason, "Give all machines the same Image folder and settings.", dataset.key)
    if not world.is_main:
        dataset = dataset.without([Skipped(found[place].path, "cannot be read") for place in broken])
    if not dataset.pictures:
        advice = "Choose an Image folder that contains folders named like 10_cat with your pictures."
        raise Failure("There is no picture to train on.", advice, dataset.key)
    return dataset


def _digest(pictures: list[Picture]) -> str:
    """The same on two machines that see the same pictures and captions, wherever these are."""
    seen = [
        (p.path.name, p.size, p.caption, p.subset, p.repeats, p.is_reg, p.dataset, p.mask is None) for p in pictures
    ]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def resumed(
    state: checkpoint.State, s: Settings, model: Model, learner: Learner, plan: Plan, report: Reporter
) -> Progress:
    """Go back to where a state was saved."""
    checkpoint.check_state(state, s, model, learner, plan)
    checkpoint.load_state(state, s, learner)
    report.note(f"Goes on after step {state.step}, from {state.folder.name}.", key="resume")
    return checkpoint.progress_of(state, plan, report)


def make_room(
    s: Settings, model: Model, dataset: Dataset, conditioning: Conditioning, painter: Painter, report: Reporter
) -> None:
    """Leave on the device only what each step needs."""
    if s.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        for encoder in model.text_encoders if conditioning.trained else ():
            # transformers 5 renames it; older ones know the old name only.
            switch = getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)
            switch({"use_reentrant": False})
            encoder.train()
    if model.device.type != "cpu" and caches_latents(s, dataset) and not s.highvram:
        model.vae.to("cpu")
    varied = any(varies_captions(subset.under(s)) for subset in dataset.subsets)
    if not conditioning.trained and not varied and model.text_encoders:
        conditioning.learn_by_heart(texts(s, dataset), asked_for(s), report)
    compile_unet(model.unet, s, report)


def texts(s: Settings, dataset: Dataset) -> list[str]:
    """Every caption that the text encoders will be asked for, unless captions are varied."""
    shown = [(picture.caption, picture.under(s)) for picture in dataset.entries()]
    drops = any(own.caption_dropout_rate or own.caption_dropout_every_n_epochs for _, own in shown)
    return [*(settled(caption, own) for caption, own in shown), *[""] * drops]


# In the loop.


class Group(NamedTuple):
    """The batches of one step: how many in all processes together, those of this one, and the pictures of all."""

    size: int
    batches: list[Batch]
    pictures: list[Picture]


def groups(batches: Batches, progress: Progress, s: Settings) -> Iterator[Group]:
    """What is left of the epoch, a step at a time; the last step of an epoch may have fewer batches."""
    epoch, first, whole = progress.current_epoch, progress.batch, batches_a_step(s)
    ours = batches.epoch(epoch, skip=first)
    for start in range(first, batches.per_epoch, whole):
        places = range(start, min(start + whole, batches.per_epoch))
        shown = [picture for place in places for picture in batches.pictures(epoch, place)]
        yield Group(len(places), list(islice(ours, len(batches.share(places)))), shown)


def is_over_for_text(progress: Progress, plan: Plan) -> bool:
    """Whether "Stop TE (% of total steps)" has come."""
    return plan.stop_text_encoder_at is not None and progress.step >= plan.stop_text_encoder_at


def rest_text_encoder(learner: Learner, conditioning: Conditioning, model: Model, report: Reporter) -> None:
    """From now on only the U-Net learns, and captions are encoded once."""
    learner.rest_text_encoder()
    conditioning.rest()
    for encoder in model.text_encoders:
        encoder.eval()
    report.note("The text encoder is not trained any further.", key="stop_text_encoder_training")


class Desk:
    """Between two steps: tells people, draws samples, saves, and does what it is asked to."""

    def __init__(
        self, s: Settings, report: Reporter, plan: Plan, progress: Progress, losses: Losses, curves: Curves,
        painter: Painter, saver: Saver, world: World,
    ) -> None:  # fmt: skip
        self.s, self.report, self.plan, self.progress = s, report, plan, progress
        self.losses, self.curves, self.painter, self.saver, self.world = losses, curves, painter, saver, world

    def after_step(self) -> None:
        """A step is done; `progress` says which."""
        s, step = self.s, self.progress.step
        if self.losses.due or step == self.plan.steps:
            self.tell()
        if due(step, s.save_every_n_steps) and step < self.plan.steps:
            self.tell()
            self.saver.scheduled(self.progress, STEPS)
        if self.saver.autosave_is_due:
            self.tell()
            self.saver.autosave(self.progress)
        self.painter.after_step(self.progress)
        self.report.phase("training", step, self.plan.steps)
        if step < self.plan.steps:
            while command := self.world.agree(self.report.command()):
                self.obey(command)

    def after_epoch(self) -> None:
        """An epoch is done. After the last one the finished file follows, so it is not saved twice."""
        self.tell()
        epoch, step = self.progress.epoch, self.progress.step
        self.report(EpochEnd(epoch=epoch, step=step, loss=self.losses.average))
        self.curves.epoch(epoch, self.losses.average)
        if due(epoch, self.s.save_every_n_epochs) and step < self.plan.steps:
            self.saver.scheduled(self.progress, EPOCHS)
        self.painter.after_epoch(self.progress)
        self.report.phase("training", step, self.plan.steps)
        self.world.wait()

    def tell(self) -> None:
        """Read the losses back and show them. Raises `Failure` when one is no number: nothing is saved from then on."""
        for event in self.losses.read():
            self.report(event)
            self.curves.step(event)
        self.progress.losses = list(self.losses.recent)

    def obey(self, command: str) -> None:
        """Do what the page or a signal asked for."""
        self.tell()
        if command == "stop":
            self.saver.save(self.progress, of_step(self.progress.step), with_state=True)
            self.saver.forget_autosaves()
            raise Stopped(f"Stopped after step {self.progress.step} of {self.plan.steps}; everything is saved.")
        if command == "save":
            self.saver.save(self.progress, of_step(self.progress.step))
        elif command == "sample":
            self.sample_now()
        elif command == "pause":
            self.wait()
        self.report.phase("training", self.progress.step, self.plan.steps)

    def sample_now(self) -> None:
        """Draw the sample prompts because somebody asked."""
        if self.world.is_main and not self.painter.refreshed():
            self.report.note("There is nothing to draw: Sample prompts is empty.", key="sample_prompts")
        self.painter.draw(self.progress)

    def wait(self) -> None:
        """Keep everything in memory until "resume"; other commands are obeyed meanwhile."""
        while True:
            self.report.phase("paused", self.progress.step, self.plan.steps)
            command = self.world.agree(self.report.command())
            if command == "resume":
                return
            if command is not None and command != "pause":
                self.obey(command)
            time.sleep(0.1)
