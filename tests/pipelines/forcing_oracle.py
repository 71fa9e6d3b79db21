"""diffusers' solver as its forcing pipelines ought to use it."""

from diffusers import UniPCMultistepScheduler


class Scheduler(UniPCMultistepScheduler):
    """Keeps the sample it starts from.

    The forcing pipelines pass `latents[:, :, idx]`, a view, and write the result into it. What the
    scheduler remembers of its first step is then the result of that step, and the second step
    corrects from there. With a copy the solver is the one that is tested alone.
    """

    def step(self, model_output, timestep, sample, **options):
        return super().step(model_output, timestep, sample.clone(), **options)
