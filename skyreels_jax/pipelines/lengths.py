"""Lengths of films: their windows in latent frames, all checked before any model is loaded.

A film longer than `base_num_frames` is made window after window. A window starts with the last
`overlap_history` frames before it, given and clean, and makes the frames after them; the last one
is as short as what is left (SkyReels-V2, arXiv 2504.13074, section on diffusion forcing; official
`generate_video_df.py`). The first latent frame stands for one frame of the film, every other one
for `temporal` of them.

A causal model that keeps finished blocks as keys and values (`carry="cache"`) makes a window of
each block: it takes nothing from the one before, for attention sees the cache.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

from skyreels_jax.core.errors import UserError
from skyreels_jax.diffusion.grids import Schedule
from skyreels_jax.diffusion.plan import Plan

ROUNDING = 1e-6  # frames by which seconds times rate may be off
CARRIES = ("cache", "pixels", "latents")  # what may go from window to window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """One run of the sampler.

    index: 0 for the first. start: which latent frame of the film is its first.
    plan: which of its latent frames are given, and when the others make their steps.
    shown: how many of its first latent frames repeat what was shown before it.
    first_frame, frames: where the frames that it adds begin, of all that are made, and how many.
    last: whether the film ends with it.
    """

    index: int
    start: int
    plan: Plan
    shown: int
    first_frame: int
    frames: int
    last: bool

    @property
    def middle(self) -> float:
        """The middle of what it adds, in frames from the first that is made."""
        return self.first_frame + self.frames / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmPlan:
    """The windows of one film; checked when made. Lengths are in frames, under official names.

    num_frames: of the film; None: it never ends.
    base_num_frames: of a whole window; None: the film is one window, however long. With a cache:
      how many frames attention sees, the block that is made and `sink_frames` among them.
    overlap_history: how many frames a window takes from the one before (with a cache: the film
      from the video that it continues).
    carry: what goes from window to window, one of `CARRIES`.
    sink_frames: how many latent frames at the start of the film a cache never drops.
    image, end_image: whether the first frame is given, and one to lead to behind the last.
    video_frames: how many the video has that the film continues, None without one. `num_frames`
      then counts those `overlap_history` frames of it that the film starts from, as in the official
      code and diffusers.
    The rest is `diffusion.plan.Plan`'s, for every window.
    Raises `UserError` for what does not go together; it names the nearest legal values.
    """

    num_frames: int | None
    base_num_frames: int | None = None
    overlap_history: int = 1
    image: bool = False
    end_image: bool = False
    video_frames: int | None = None
    temporal: int = 4
    inference_steps: int
    shift: float
    schedule: Schedule = "diffusers"
    ar_step: int = 0
    causal_block_size: int = 1
    addnoise_condition: float = 0.0
    carry: str = "pixels"
    sink_frames: int = 0

    def __post_init__(self):
        if self.carry not in CARRIES:
            raise UserError(f"carry {self.carry!r} is not one of {', '.join(CARRIES)}")
        for name in ("base_num_frames", "overlap_history"):
            self._check_whole_latents(name, getattr(self, name))
        self._check_given()
        if self.num_frames is None:
            self._check_endless()
        if self.cached:
            self._check_cache()
        elif self.sink_frames:
            raise UserError(
                f"sink_frames {self.sink_frames} are frames that a cache never drops; "
                f"with carry {self.carry!r} legal: 0"
            )
        elif self.num_frames is None or self.num_frames > self._most_in_one:
            self._check_windows()
        if self.num_frames is not None and not self._is_legal(self._exact(self.num_frames)):
            raise self._refusal(self.num_frames)
        _ = self.window(0)  # whose plan checks the rest

    @property
    def latent_frames(self) -> int | None:
        """Latent frames of the film, given ones included; None: no end."""
        return None if self.num_frames is None else self._latents(self.num_frames)

    @property
    def cached(self) -> bool:
        """Whether windows are blocks, which see those before as keys and values."""
        return self.carry == "cache"

    @property
    def rolling(self) -> int:
        """How many of the last finished latent frames a cache holds, besides the sinks."""
        return self._latents(self.base_num_frames) - self.causal_block_size - self.sink_frames

    @property
    def overlap(self) -> int:
        """Latent frames that a window takes from the one before."""
        return 0 if self.cached else self._latents(self.overlap_history)

    @property
    def prefix(self) -> int:
        """Latent frames given at the start: the first image, or the end of a video."""
        return int(self.image) if self.video_frames is None else self._shown

    @property
    def count(self) -> int | None:
        """How many windows there are; None: no end."""
        if self.num_frames is None:
            return None
        if self.num_frames <= self._most_in_one:
            return 1
        more = self.latent_frames - self._latents(self._most_in_one)
        return 1 + math.ceil(more / self._step)

    @property
    def new_frames(self) -> int | None:
        """How many frames are shown that no video showed before; None: no end."""
        return None if self.num_frames is None else self.num_frames - self._frames(self._shown)

    def window(self, index: int) -> Window:
        """Returns window number `index`; `IndexError` behind the last."""
        if index < 0 or (self.count is not None and index >= self.count):
            raise IndexError(f"window {index} of {self.count}")
        last = self.count is not None and index == self.count - 1
        start = self._end(index - 1) - self.overlap if index else 0
        end = self.latent_frames if last else self._end(index)
        shown = self.overlap if index else self._shown
        first = self._frames(start + shown)
        suffix = int(self.end_image and last)
        return Window(
            index=index,
            start=start,
            plan=Plan(
                latent_frames=end - start + suffix,
                inference_steps=self.inference_steps,
                shift=self.shift,
                schedule=self.schedule,
                ar_step=self.ar_step,
                causal_block_size=self.causal_block_size,
                prefix=self.overlap if index else self.prefix,
                suffix=suffix,
                addnoise_condition=self.addnoise_condition,
            ),
            shown=shown,
            first_frame=first - self._frames(self._shown),
            frames=self._frames(end) - first,
            last=last,
        )

    def windows(self, start: int = 0) -> Iterator[Window]:
        """Yields the windows from number `start` on."""
        index = start
        while self.count is None or index < self.count:
            yield self.window(index)
            index += 1

    def lasting(self, seconds: float | int, fps: float | int) -> "FilmPlan":
        """Returns this film, as long as it takes to make `seconds` of new frames."""
        frames = math.ceil(seconds * fps - ROUNDING) + self._frames(self._shown)
        latents = max(1, 1 + math.ceil((frames - 1) / self.temporal))
        while not self._is_legal(latents):
            latents += 1
        return dataclasses.replace(self, num_frames=self._frames(latents))

    def _exact(self, frames: int) -> float:
        return 1 + (frames - 1) / self.temporal

    def _latents(self, frames: int) -> int:
        return (frames - 1) // self.temporal + 1

    def _frames(self, latents: int) -> int:
        return self.temporal * (latents - 1) + 1 if latents else 0

    @property
    def _shown(self) -> int:
        """Latent frames of the first window that the video showed."""
        return 0 if self.video_frames is None else self._latents(self.overlap_history)

    @property
    def _most_in_one(self) -> float | int:
        """Frames of the first window of a film that has others."""
        if self.cached:  # blocks that are given whole, and the first to be made
            size = self.causal_block_size
            return self._frames((self.prefix // size + 1) * size)
        return math.inf if self.base_num_frames is None else self.base_num_frames

    @property
    def _step(self) -> int:
        """Latent frames that a whole window adds."""
        if self.cached:
            return self.causal_block_size
        return self._latents(self.base_num_frames) - self.overlap

    def _end(self, index: int) -> int:
        """Returns the latent frame behind window `index`, which is not the last."""
        return self._latents(self._most_in_one) + index * self._step

    def _last_window(self, latents: int) -> int:
        """Returns the latent frames of the last window of a film of so many."""
        if self._frames(latents) <= self._most_in_one:
            return latents
        return self.overlap + 1 + (latents - self.overlap - 1) % max(self._step, 1)

    def _is_legal(self, latents: float | int) -> bool:
        """Whether a film of so many latent frames has something to make, in whole blocks."""
        if latents != int(latents) or latents <= self.prefix:
            return False
        return self._last_window(int(latents)) % self.causal_block_size == 0

    def _refusal(self, num_frames: int) -> UserError:
        latents = self._exact(num_frames)
        near = self._near(latents, self._is_legal)
        if latents != int(latents):
            reason = f"is not {self.temporal}k+1"
        elif latents <= self.prefix:
            reason = f"leaves nothing to make after {self._frames(self.prefix)} given"
        else:
            last, size = self._last_window(int(latents)), self.causal_block_size
            reason = (
                f"leaves {last} latent frame{'s' * (last > 1)} for the last window, "
                f"not a multiple of causal_block_size {size}"
            )
        return UserError(f"num_frames {num_frames} {reason}; nearest legal: {near}")

    def _check_whole_latents(self, name: str, frames: int | None) -> None:
        if frames is not None and (frames < 1 or (frames - 1) % self.temporal):
            near = self._near(self._exact(frames), lambda n: True)
            raise UserError(f"{name} {frames} is not {self.temporal}k+1; nearest legal: {near}")

    def _check_given(self) -> None:
        if self.video_frames is None:
            return
        if self.image:
            raise UserError(
                "a film starts from an image or continues a video; give image or video_path"
            )
        if self.video_frames < self.overlap_history:
            most = self._frames(self._latents(self.video_frames))
            raise UserError(
                f"the video has {self.video_frames} frames, fewer than overlap_history "
                f"{self.overlap_history}; nearest legal: {most}"
            )

    def _check_endless(self) -> None:
        if self.base_num_frames is None:
            raise UserError("a film without end is made in windows: give base_num_frames")
        if self.end_image:
            raise UserError(
                "a film without end has no last frame to lead to; "
                "give num_frames or seconds with end_image"
            )

    def _check_cache(self) -> None:
        size, sinks = self.causal_block_size, self.sink_frames
        if self.end_image:
            raise UserError("blocks from a cache see nothing that comes later; legal: no end_image")
        if self.ar_step:
            raise UserError(
                f"ar_step {self.ar_step} staggers the blocks of a window, and with carry 'cache' "
                "a window is one block; legal: 0, or carry pixels or latents"
            )
        if sinks < 0 or sinks % size:
            below = max(sinks // size * size, 0)
            raise UserError(
                f"sink_frames {sinks} are not whole blocks of {size} latent frames; "
                f"nearest legal: {below} or {below + size}"
            )
        if self.base_num_frames is None:
            raise UserError("base_num_frames says how many frames a cache shows: give it")
        base = self._latents(self.base_num_frames)
        if base % size or base < sinks + 2 * size:
            least = f"{size} for the block, {size} before it" + f", {sinks} sinks" * (sinks > 0)
            near = self._near(base, lambda n: n % size == 0 and n >= sinks + 2 * size)
            raise UserError(
                f"base_num_frames {self.base_num_frames} is {base} latent frames; a cache shows "
                f"whole blocks of {size}, at least {least}; nearest legal: {near}"
            )

    def _check_windows(self) -> None:
        base, size = self._latents(self.base_num_frames), self.causal_block_size
        if base % size:
            near = self._near(base, lambda n: n % size == 0)
            raise UserError(
                f"base_num_frames {self.base_num_frames} is {base} latent frames, not a multiple "
                f"of causal_block_size {size}; nearest legal: {near}"
            )
        if base == 1:
            raise UserError(
                "base_num_frames 1 leaves nothing to make in a window; "
                f"nearest legal: {self._frames(1 + size)}"
            )
        if self.overlap >= base:
            raise UserError(
                f"overlap_history {self.overlap_history} must be less than base_num_frames "
                f"{self.base_num_frames}; nearest legal: {self._frames(base - 1)}"
            )

    def _near(self, latents: float | int, legal: Callable[[int], bool]) -> str:
        """Returns the nearest legal numbers of frames around `latents`."""
        reach = self._latents(self.base_num_frames or 1) + self.prefix
        reach += 2 * self.causal_block_size + self.sink_frames + 1
        below = range(math.ceil(latents) - 1, 0, -1)
        above = range(max(math.floor(latents) + 1, 1), math.floor(max(latents, 0)) + reach + 2)
        found = [next((n for n in side if legal(n)), None) for side in (below, above)]
        return " or ".join(str(self._frames(n)) for n in found if n is not None)
