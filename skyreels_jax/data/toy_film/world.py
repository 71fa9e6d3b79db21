"""The laws of the ToyFilm world: scenes, how subject and camera move, which are held out.

Coordinates are pixels of the 64 x 64 frame, x to the right and y down, pixel centres at
half-integers; time counts frames (12 a second), and other frame rates see the times in between.
Every law is a function of time alone and repeats for ever, so films of any length are legal and
their statistics do not depend on when one looks.
"""

import dataclasses
import hashlib
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from skyreels_jax.core.errors import UserError

SIZE = 64
FPS = 12

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
SHAPES = ("ring", "square", "triangle")
SHOT_TYPES = ("long_shot", "medium_shot", "close_up")
DIRECTIONS = ("left", "right", "up", "down", "still", "bounce")
SPEEDS = ("slow", "fast")
NO_SPEED = "none"  # the speed of a still subject
CAMERA_MOTIONS = ("static", "pan_left", "pan_right", "zoom_in", "zoom_out")
ENVIRONMENTS = ("meadow", "desert", "city", "snow")
LIGHTINGS = ("day", "dusk", "night")

ATTRIBUTES = {
    "colour": COLOURS,
    "shape": SHAPES,
    "shot_type": SHOT_TYPES,
    "direction": DIRECTIONS,
    "speed": SPEEDS,
    "camera_motion": CAMERA_MOTIONS,
    "environment": ENVIRONMENTS,
    "lighting": LIGHTINGS,
}

RADIUS = {"long_shot": 7.5, "medium_shot": 11.0, "close_up": 16.0}
PIXELS_PER_FRAME = {"slow": 0.4, "fast": 1.0, NO_SPEED: 0.0}
WALLS = (16.0, 48.0)  # the subject's centre turns back here
BOUNCE_HEIGHT = 20.0  # peak to peak
BOUNCE_PERIOD = {"slow": 32, "fast": 16}
PAN_RATE = 1.0  # pixels a frame
ZOOM_FACTOR = 1.6  # over ZOOM_FRAMES, then back
ZOOM_FRAMES = 32.0
PANORAMA_WIDTH = 128  # the background repeats after this many pixels
# Films begin in this part of it. Were the first view anywhere, the mean film of a pan would be a
# blur whichever way it goes, so that noise, not the caption, would settle the way (docs/log.md).
FIRST_VIEWS = 24.0
CENTRE = SIZE / 2

SPLITS = ("train", "held_out", "held_out_combinations")
# Pairs that no training tuple contains; each of the values is still common in training.
HELD_OUT_PAIRS = {
    ("colour", "shape"): (("red", "triangle"), ("cyan", "square"), ("magenta", "ring")),
    ("environment", "camera_motion"): (("snow", "zoom_in"), ("desert", "pan_left")),
    ("direction", "shot_type"): (("up", "close_up"), ("bounce", "long_shot")),
}
HELD_OUT_SHARE = 0.1  # of the attribute tuples without a held-out pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One film of the world: eight named attributes and the few numbers that captions do not tell.

    Attributes:
        jitter: (x, y) in pixels, added to the subject's path (|.| <= 6).
        offset: horizontal position in the panorama of the left edge of frame 0, in [0, 128) pixels.
    Raises `UserError` for an attribute value that is not legal.
    """

    colour: str
    shape: str
    shot_type: str
    direction: str
    speed: str
    camera_motion: str
    environment: str
    lighting: str
    jitter: tuple[float, float] = (0.0, 0.0)
    offset: float = 0.0

    def __post_init__(self):
        for name, legal in ATTRIBUTES.items():
            value = getattr(self, name)
            if name == "speed":
                legal = (NO_SPEED,) if self.direction == "still" else legal
            if value not in legal:
                raise UserError(f"{name} {value!r} is not one of {', '.join(legal)}")

    @property
    def moves(self) -> bool:
        """Returns whether the subject is told to move: all but a still one are."""
        return self.speed != NO_SPEED


def attributes(scene: Scene) -> dict[str, str]:
    """Returns the eight attributes of `scene` by name."""
    return {name: getattr(scene, name) for name in ATTRIBUTES}


def triangle_wave(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Folds the real line into [low, high]: identity between the two, mirrored at both ends."""
    span = high - low
    return low + span - np.abs(np.mod(x - low, 2 * span) - span)


def centres(scene: Scene, frames: Num[np.ndarray, " T"]) -> Float[np.ndarray, "T 2"]:
    """Returns the subject's (x, y) at the given frame numbers; independent of the camera.

    Straight motion is centred on the frame at frame 16, so that 33 frames at the fast speed just
    fit between the walls; beyond, it turns back at them.
    """
    path = np.tile(np.add(scene.jitter, CENTRE), (len(frames), 1))
    if scene.direction == "bounce":
        phase = 2 * np.pi * frames / BOUNCE_PERIOD[scene.speed]
        path[:, 1] += 0.5 * BOUNCE_HEIGHT * np.cos(phase)
    elif scene.direction != "still":
        axis = 0 if scene.direction in ("left", "right") else 1
        sign = 1 if scene.direction in ("right", "down") else -1
        travel = sign * PIXELS_PER_FRAME[scene.speed] * (frames - 16)
        path[:, axis] = triangle_wave(path[:, axis] + travel, *WALLS)
    return path


def zoom_scale(camera_motion: str, frames: Num[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Returns the background's magnification at the given frame numbers, 1 without a zoom."""
    if camera_motion not in ("zoom_in", "zoom_out"):
        return np.ones(len(frames))
    start = 0 if camera_motion == "zoom_in" else ZOOM_FRAMES
    return ZOOM_FACTOR ** (triangle_wave(frames + start, 0.0, ZOOM_FRAMES) / ZOOM_FRAMES)


def pan_shift(camera_motion: str, frames: Num[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Returns how far the view has moved to the right along the panorama, in pixels."""
    sign = {"pan_right": 1.0, "pan_left": -1.0}.get(camera_motion, 0.0)
    return sign * PAN_RATE * frames


class Paths(NamedTuple):
    """Where things are, frame by frame.

    centre: of the subject, (x, y). radius: of the subject. scale: magnification of the background.
    shift: how far the view has moved to the right since frame 0. All but `scale` in pixels.
    """

    centre: Float[np.ndarray, "T 2"]
    radius: Float[np.ndarray, " T"]
    scale: Float[np.ndarray, " T"]
    shift: Float[np.ndarray, " T"]


def paths(scene: Scene, frames: Num[np.ndarray, " T"]) -> Paths:
    """Returns where everything is at the given frame numbers."""
    camera = scene.camera_motion
    return Paths(
        centre=centres(scene, frames),
        radius=radii(scene, frames),
        scale=zoom_scale(camera, frames),
        shift=pan_shift(camera, frames),
    )


def radii(scene: Scene, frames: Num[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Returns the subject's radius: the nominal one times the root of zoom / its middle value."""
    scale = zoom_scale(scene.camera_motion, frames)
    if scene.camera_motion in ("zoom_in", "zoom_out"):
        scale = scale / math.sqrt(ZOOM_FACTOR)
    return RADIUS[scene.shot_type] * np.sqrt(scale)


def split_of(scene: Scene) -> str:
    """Returns the only split in which scenes with these attributes occur."""
    for names, pairs in HELD_OUT_PAIRS.items():
        if tuple(getattr(scene, name) for name in names) in pairs:
            return "held_out_combinations"
    text = "/".join(attributes(scene).values())
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return "held_out" if draw < HELD_OUT_SHARE else "train"


def sample_scene(seed: int, split: str = "train") -> Scene:
    """Draws a scene of `split`, attributes uniform; (seed, split) determine it for ever.

    "train": everything a model may see. "held_out": attribute tuples never rendered for training.
    "held_out_combinations": tuples that contain a pair of values never seen together in training.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    while True:
        values = {name: legal[rng.integers(len(legal))] for name, legal in ATTRIBUTES.items()}
        if values["direction"] == "still":
            values["speed"] = NO_SPEED
        scene = Scene(**values)
        if split_of(scene) == split:
            break
    x, y = rng.uniform(-6, 6, 2).tolist()
    along = {"fast": 0.0, "slow": 5 / 6}  # how far the start of the path may move along it
    if scene.direction in ("left", "right"):
        x *= along[scene.speed]
    elif scene.direction in ("up", "down"):
        y *= along[scene.speed]
    elif scene.direction == "bounce":
        y = 0.0
    return dataclasses.replace(scene, jitter=(x, y), offset=rng.uniform(0, FIRST_VIEWS))
