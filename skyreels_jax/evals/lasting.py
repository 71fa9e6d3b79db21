"""What holds at every moment of a film of any length, and what a stretch of it shows.

The world's laws repeat for ever, and some attributes only say how they begin. Straight motion turns
at the walls: once it has (frame 32 at the fast speed), a subject sent to the left goes right as
often as left. A zoom turns every 32 frames. Which way it goes at a late moment is a matter of the
clock alone, and a film has no clock: a model that is 2 % slow is half a path off after 30 seconds,
with nothing wrong at any moment. So "left" and "right" are one law here, as are "up" and "down",
and "zoom_in" and "zoom_out"; and no law knows when it began. Everything else holds at any moment.
This is the rule for every second alike, the first one too, so that they can be compared.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, UInt8

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import signed_distance
from skyreels_jax.data.toy_film.world import NO_SPEED, Scene
from skyreels_jax.evals.camera import judge_lasting_camera
from skyreels_jax.evals.judge import UNSEEN, check_size, shot_type, world_size
from skyreels_jax.evals.motion import judge_lasting_motion
from skyreels_jax.evals.palette import place_and_light
from skyreels_jax.evals.subject import Subject, find_subject

STRETCH = 33  # frames that tell all attributes: a whole period of the slowest bounce
_RIM = 1.0  # pixels
_BECOMES = {
    "direction": {
        "left": "horizontal",
        "right": "horizontal",
        "up": "vertical",
        "down": "vertical",
    },
    "camera_motion": {"zoom_in": "zoom", "zoom_out": "zoom"},
}
LASTING = {
    name: tuple(dict.fromkeys(_BECOMES.get(name, {}).get(value, value) for value in legal))
    for name, legal in world.ATTRIBUTES.items()
}


def lasting(scene: Scene) -> dict[str, str]:
    """Returns what every moment of a film of `scene` shows, by attribute."""
    values = world.attributes(scene)
    return {name: _BECOMES.get(name, {}).get(value, value) for name, value in values.items()}


def right(scene: Scene, shown: dict[str, str]) -> dict[str, bool]:
    """Returns for each attribute whether `shown` is what `scene` wants; no speed of a still one."""
    wanted = lasting(scene)
    return {name: shown[name] == value for name, value in wanted.items() if value != NO_SPEED}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """What a stretch of a film shows.

    shown: value (of `LASTING`) or UNSEEN by attribute.
    presence, flicker, consistency: as in `Verdict`.
    inside: which pixels are the subject's without its rim: by its outline, whatever their colour.
    """

    shown: dict[str, str]
    presence: float
    flicker: float
    consistency: float
    inside: Bool[np.ndarray, "T 64 64"]


def judge_stretch(frames: UInt8[np.ndarray, "T H W 3"]) -> Stretch:
    """Judges frames from anywhere in a film, best STRETCH of them or more, 5 at least, whose sides
    are equal multiples of 64. Raises `UserError` on other sizes.
    """
    check_size(*frames.shape[:3])
    frames = world_size(frames)
    environment, lighting = place_and_light(frames)
    subject = find_subject(frames, environment, lighting)
    cover = np.zeros(frames.shape[:3]) if subject is None else subject.cover
    camera, clock, residual = judge_lasting_camera(frames, cover)
    flicker = float(np.abs(np.diff(frames.mean((1, 2)), n=2, axis=0)).mean())
    shown = dict.fromkeys(world.ATTRIBUTES, UNSEEN)
    shown |= {"environment": environment, "lighting": lighting, "camera_motion": camera}
    if subject is None:
        return Stretch(
            shown=shown, presence=0.0, flicker=flicker, consistency=0.0, inside=cover > 1
        )
    direction, speed, _ = judge_lasting_motion(subject.centre)
    zoomed = "zoom_in" if camera == "zoom" else camera
    shown |= {
        "colour": subject.colour,
        "shape": subject.shape,
        "shot_type": shot_type(subject, zoomed, clock + np.arange(len(frames))),
        "direction": direction,
        "speed": speed,
    }
    presence = float(subject.seen.mean())
    return Stretch(
        shown=shown,
        presence=presence,
        flicker=flicker,
        consistency=presence * subject.overlap * float(np.exp(-residual / 16)),
        inside=_inside(subject),
    )


def _inside(subject: Subject) -> np.ndarray:
    grid = np.arange(world.SIZE) + 0.5
    dx = grid[None, None, :] - subject.centre[:, 0, None, None]
    dy = grid[None, :, None] - subject.centre[:, 1, None, None]
    return signed_distance(subject.shape, dx, dy, subject.radius[:, None, None]) < -_RIM
