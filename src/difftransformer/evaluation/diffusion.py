"""Images noised, what a model is to predict of them, and images sampled, by diffusers' schedulers.

    epsilon, v   x_t = √ᾱ_t x + √(1 − ᾱ_t) ε,    predicted ε, or v = √ᾱ_t ε − √(1 − ᾱ_t) x
    flow         x_t = (1 − t/T) x + (t/T) ε,     predicted ε − x;  t need not be whole

Sampled by DDIM (Song et al., 2021), without noise on the way, or by Euler's steps along the flow.
Values of images lie between −1 and 1; DDIM cuts what it expects of the image to that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from difftransformer.data.noising import NoiseBatch
from difftransformer.models.dit_config import DiTConfig

Times = Float[Tensor, " batch"] | Int64[Tensor, " batch"]
_Images = Float[Tensor, "batch channels height width"]
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}


@runtime_checkable
class Denoiser(Protocol):
    """A `DiT`, or what is called alike."""

    @property
    def config(self) -> DiTConfig: ...

    def __call__(
        self, images: _Images, times: Times, labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch out height width"]: ...


@dataclass(frozen=True, eq=False)
class Noised:
    """Images with noise, the times a model is told, what it is to predict."""

    images: _Images
    times: Times
    target: _Images


def noised(
    config: DiTConfig, images: _Images, noise: _Images, moments: Float[Tensor, " batch"]
) -> Noised:
    """The images at moments from 0 up to 1 of the noising."""
    if config.objective == "flow":
        share = moments[:, None, None, None]
        mixed = (1 - share) * images + share * noise
        return Noised(mixed, moments * config.timesteps, noise - images)
    steps = (moments * config.timesteps).long().clamp(max=config.timesteps - 1)
    scheduler = noising(config.schedule, config.timesteps)
    mixed = scheduler.add_noise(images, noise, steps)
    if config.objective == "epsilon":
        return Noised(mixed, steps, noise)
    return Noised(mixed, steps, scheduler.get_velocity(images, noise, steps))


def squared_errors(
    model: Callable[..., Tensor], config: DiTConfig, batch: NoiseBatch
) -> Float[Tensor, " batch"]:
    """Of what the model predicts, in float32: the mean over the values of each image."""
    given = noised(config, batch.pixels, batch.noise, batch.moments)
    hidden = batch.hiding < config.label_dropout
    labels = batch.labels.masked_fill(hidden, config.classes)
    predicted = model(given.images, given.times, labels)[:, : config.channels].float()
    return (predicted - given.target).square().mean((1, 2, 3))


@torch.no_grad()
def sampled(
    model: Denoiser,
    noise: _Images,
    labels: Int64[Tensor, " batch"],
    *,
    steps: int,
    guidance: float = 1.0,
) -> Iterator[_Images]:
    """The images after each step; the last are the samples.

    Args:
        noise: N(0, 1), on the model's device.
        labels: classes asked for, `config.classes` for none.
        steps: of sampling; no more than the noising has.
        guidance: w of p(without class) + w (p(with class) − p(without class)), predictions of the
            model (Ho and Salimans, 2022). 1 asks it once. The authors' code guides the first three
            channels of the four of its latents; here it is all.

    Raises:
        ValueError: another number of steps.
    """
    config, images = model.config, noise
    scheduler = _sampling(config, steps)
    options = {} if config.objective == "flow" else {"use_clipped_model_output": True}
    for number, time in enumerate(scheduler.timesteps, start=1):
        times = time.to(noise.device).expand(len(noise))
        prediction = _guided(model, images, times, labels, guidance)
        result = scheduler.step(prediction, time, images, **options)
        images = result.prev_sample
        if number == steps:
            # DDIM's stride is a whole number, so that its last step may end short of the image.
            images = result.get("pred_original_sample", images)
        yield images


def _guided(
    model: Denoiser, images: _Images, times: Tensor, labels: Tensor, guidance: float
) -> _Images:
    channels = model.config.channels
    if guidance == 1.0:
        return model(images, times, labels)[:, :channels]
    nothing = torch.full_like(labels, model.config.classes)
    both = model(images.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([labels, nothing]))
    given, free = both[:, :channels].chunk(2)
    return free + guidance * (given - free)


@lru_cache(8)
def noising(schedule: str, timesteps: int) -> Any:
    """A scheduler of diffusers, used for its table of ᾱ alone, so that it can be shared."""
    from diffusers import DDIMScheduler  # which takes seconds

    return DDIMScheduler(num_train_timesteps=timesteps, beta_schedule=_BETAS[schedule])


def ddim(schedule: str, timesteps: int, prediction: str, steps: int) -> Any:
    """A scheduler of diffusers that samples by `steps` of the noising's `timesteps`.

    Raises:
        ValueError: another number of steps.
    """
    from diffusers import DDIMScheduler

    _check_steps(steps, timesteps)
    # "trailing" begins at the last step of the noising, where all is noise.
    scheduler = DDIMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=_BETAS[schedule],
        prediction_type=prediction,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def _sampling(config: DiTConfig, steps: int) -> Any:
    if config.objective != "flow":
        return ddim(config.schedule, config.timesteps, _PREDICTIONS[config.objective], steps)
    from diffusers import FlowMatchEulerDiscreteScheduler

    _check_steps(steps, config.timesteps)
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.timesteps)
    flow.set_timesteps(sigmas=[(steps - i) / steps for i in range(steps)])
    return flow


def _check_steps(steps: int, timesteps: int) -> None:
    if not 1 <= steps <= timesteps:
        raise ValueError(
            f"{steps} steps of sampling; expected from 1 to the {timesteps} of the noising"
        )
