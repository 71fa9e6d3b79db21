"""The judge: what a ToyFilm shows, from its pixels alone.

It measures and never looks at a caption. Its own accuracy on films of known truth is tested.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.panorama import SUPERSAMPLE, panorama
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.world import CENTRE, SIZE, Scene
from skyreels_jax.evals.camera import judge_camera
from skyreels_jax.evals.motion import judge_motion
from skyreels_jax.evals.palette import place_and_light
from skyreels_jax.evals.subject import Subject, find_subject

PICTURED = ("colour", "shape", "shot_type", "environment", "lighting")  # what a still shows
_SHORTEST = 5  # frames
UNSEEN = "unseen"  # the value of every subject attribute when no subject is found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a film shows, and how well it is made.

    Attributes:
        colour, ..., lighting: one of the world's values, or UNSEEN.
        presence: share of the frames that show the subject.
        flicker: mean absolute second difference in time of the frame's mean colour, in levels.
        outline: in [0, 1], the mean over all frames of the subject's overlap with the ideal outline
            of its shape, 0 where it is not seen. A rendered film has about 0.97.
        consistency: in [0, 1], the product of outline and of how well the background keeps together
            once the camera's motion is undone: exp(-residual / 16 levels). A rendered film has
            about 0.95.
        quality: PSNR in dB against the nearest film of the world: the renderer's, with the judged
            attributes and the fitted position of subject and panorama.
        track_error: root mean square distance (pixels) from the nearest law of motion.
    """

    colour: str
    shape: str
    shot_type: str
    direction: str
    speed: str
    camera_motion: str
    environment: str
    lighting: str
    presence: float
    flicker: float
    outline: float
    consistency: float
    quality: float
    track_error: float


def judge(frames: UInt8[np.ndarray, "T H W 3"], *, start: int = 0) -> Verdict:
    """Judges a film of at least 5 frames whose sides are equal multiples of 64.

    `start`: the frame number of frames[0], for a window of a longer film. Raises `UserError` on
    other sizes.
    """
    check_size(*frames.shape[:3])
    frames = world_size(frames)
    environment, lighting = place_and_light(frames)
    subject = find_subject(frames, environment, lighting)
    cover = np.zeros(frames.shape[:3]) if subject is None else subject.cover
    camera, _, residual = judge_camera(frames, cover, start=start)
    mean = frames.mean((1, 2))
    measures = {
        "environment": environment,
        "lighting": lighting,
        "camera_motion": camera,
        "flicker": float(np.abs(np.diff(mean, n=2, axis=0)).mean()),
    }
    if subject is None:
        nothing = dict.fromkeys(("colour", "shape", "shot_type", "direction", "speed"), UNSEEN)
        zero = dict.fromkeys(("presence", "outline", "consistency", "quality"), 0.0)
        return Verdict(**nothing, **measures, **zero, track_error=float("nan"))
    times = np.arange(start, start + len(frames))
    direction, speed, track_error = judge_motion(subject.centre, times)
    scene = Scene(
        colour=subject.colour,
        shape=subject.shape,
        shot_type=shot_type(subject, camera, times),
        direction=direction,
        speed=speed,
        camera_motion=camera,
        environment=environment,
        lighting=lighting,
    )
    presence = float(subject.seen.mean())
    outline = presence * subject.overlap
    return Verdict(
        **world.attributes(scene) | measures,
        presence=presence,
        outline=outline,
        consistency=outline * float(np.exp(-residual / 16)),
        quality=_quality(frames, scene, subject, start),
        track_error=track_error,
    )


def pictured(still: UInt8[np.ndarray, "H W 3"]) -> dict[str, str]:
    """Returns what one frame shows: the attributes that are `PICTURED`, as `judge` names them.

    A still frame has no camera motion, so nothing is taken out of the size of the subject.
    Raises `UserError` on sizes that `judge` refuses.
    """
    frames = still[None]
    check_size(_SHORTEST, *frames.shape[1:3])
    frames = world_size(frames)
    environment, lighting = place_and_light(frames)
    subject = find_subject(frames, environment, lighting)
    seen = dict.fromkeys(("colour", "shape", "shot_type"), UNSEEN)
    if subject is not None:
        shot = shot_type(subject, "static", np.zeros(1, int))
        seen = {"colour": subject.colour, "shape": subject.shape, "shot_type": shot}
    return {**seen, "environment": environment, "lighting": lighting}


def check_size(num_frames: int, height: int, width: int) -> None:
    """Raises `UserError` for films that the judge cannot judge."""
    if num_frames < _SHORTEST or height != width or height % SIZE:
        raise UserError(
            f"the judge needs {_SHORTEST} frames or more with equal sides, a multiple of {SIZE}; "
            f"got {num_frames} frames of {height}x{width}"
        )


def world_size(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T 64 64 3"]:
    """Returns the frames at the size of the world."""
    fold = frames.shape[1] // SIZE
    small = frames.reshape(-1, SIZE, fold, SIZE, fold, 3).mean((2, 4))
    return frames if fold == 1 else np.round(small).astype(np.uint8)


def shot_type(subject: Subject, camera: str, times: np.ndarray) -> str:
    """Returns the shot of the radius nearest (by ratio) to the median one, zoom taken out."""
    scale = world.zoom_scale(camera, times)
    zoom = np.sqrt(scale / (world.ZOOM_FACTOR**0.5 if scale.max() > 1 else 1.0))
    radius = np.nanmedian(subject.radius / zoom)
    return min(world.RADIUS, key=lambda shot: abs(np.log(world.RADIUS[shot] / radius)))


def _quality(frames: np.ndarray, scene: Scene, subject: Subject, start: int) -> float:
    """Returns the PSNR against the renderer's film of `scene`, free numbers fitted to `frames`."""
    times = np.arange(start, start + len(frames))
    gap = subject.centre - world.centres(scene, times)
    jitter = tuple(float(v) for v in np.clip(np.nanmedian(gap, axis=0), -10, 10))
    scene = dataclasses.replace(scene, jitter=jitter, offset=_offset(frames, scene, subject, start))
    film = render(scene, len(frames), start=start).astype(np.float32)
    return float(10 * np.log10(255**2 / max(((film - frames) ** 2).mean(), 1e-2)))


def _offset(frames: np.ndarray, scene: Scene, subject: Subject, start: int) -> float:
    """Returns where in the panorama the film's middle frame lies, projected back to frame 0.

    Its squared error at every place there is, by correlation: sum of clear (p^2 - 2 p f), p the
    panorama and f the frame.
    """
    middle = len(frames) // 2
    now = np.array([start + middle])
    strip = panorama(scene.environment, scene.lighting)
    pixel = np.arange(0, SIZE, 2)  # every other row and column will do
    place = (pixel + 0.5 - CENTRE) / world.zoom_scale(scene.camera_motion, now) + CENTRE
    point = np.floor(SUPERSAMPLE * place).astype(int)
    rows = strip[point].astype(np.float64)
    clear = (subject.cover[middle, ::2, ::2] < 0.1)[..., None]
    seen = np.concatenate([-2.0 * frames[middle, ::2, ::2] * clear, clear], axis=-1)
    spread = np.zeros((*rows.shape[:2], 4))  # the frame where it meets the panorama at place 0
    np.add.at(spread, (slice(None), point % rows.shape[1]), seen)
    terms = np.concatenate([rows, (rows**2).sum(-1, keepdims=True)], axis=-1)
    spectrum = np.conj(np.fft.rfft(spread, axis=1)) * np.fft.rfft(terms, axis=1)
    errors = np.fft.irfft(spectrum.sum((0, 2)), n=rows.shape[1])
    shift = float(world.pan_shift(scene.camera_motion, now)[0])
    return (float(np.argmin(errors)) / SUPERSAMPLE - shift) % world.PANORAMA_WIDTH
