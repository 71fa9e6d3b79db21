"""Films whose scene turns into another: the subject, place and light stay, how things move changes.

They teach what a prompt that changes while a film goes on asks for (`objectives`: the frames before
the turn are given, the caption is that of the frames after it). Laws that hold after a turn go on
from where the film is: the subject turns round on the spot, the camera pans from the view it has.
What has no such place (a zoom that ends, a path to another height) is reached in `EASE` frames.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.render import draw
from skyreels_jax.data.toy_film.world import SIZE, Paths, Scene

EASE = 8  # frames
CHANGES = ("direction", "speed", "camera_motion")
_FAR = 6.0  # pixels by which the middle of a path may be off the frame's (`Scene.jitter`)
_STREAM = 77  # of random numbers, beside those of scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """`before` holds until frame number `frame`, the first of `after`."""

    before: Scene
    after: Scene
    frame: int


def sample_turn(seed: int, num_frames: int, *, share: float) -> Turn | None:
    """Returns how training film `seed` turns, None for all but a `share` of the films.

    It turns at the first frame of a latent frame, not the first, nor the last two where there are
    five or more. Both scenes are of "train".
    """
    rng = np.random.default_rng([_STREAM, seed])
    if rng.random() >= share:
        return None
    last = (num_frames - 1) // 4
    frame = 4 * int(rng.integers(1, last + 1 - min(2, last // 2))) - 3
    before = world.sample_scene(seed)
    while True:
        values = {name: world.ATTRIBUTES[name] for name in CHANGES}
        values = {name: legal[rng.integers(len(legal))] for name, legal in values.items()}
        if values["direction"] == "still":
            values["speed"] = world.NO_SPEED
        after = dataclasses.replace(before, **values)
        if after != before and world.split_of(after) == "train":
            return Turn(before=before, after=after, frame=frame)


def turned(turn: Turn, frames: Int[np.ndarray, " T"]) -> Paths:
    """Returns where everything is at the given frame numbers."""
    first, at = world.paths(turn.before, frames), np.array([turn.frame])
    here = world.paths(turn.before, at)
    after, moves, zooms = _met(turn.after, here)
    since = frames - turn.frame
    zoomed = since + zooms
    scale = world.zoom_scale(after.camera_motion, zoomed)
    panned = world.pan_shift(after.camera_motion, since)
    share = np.clip((since + 1) / EASE, 0.0, 1.0)
    share = share * share * (3 - 2 * share)
    return Paths(
        centre=_mixed(first.centre, world.centres(after, since + moves), share[:, None]),
        radius=np.exp(_mixed(np.log(first.radius), np.log(world.radii(after, zoomed)), share)),
        scale=np.exp(_mixed(np.log(first.scale), np.log(scale), share)),
        shift=np.where(since < 0, first.shift, here.shift + panned),
    )


def render_turn(turn: Turn, num_frames: int, *, size: int = SIZE) -> UInt8[np.ndarray, "T S S 3"]:
    """Renders the first `num_frames` frames at `size` x `size` pixels."""
    return draw(turn.before, turned(turn, np.arange(num_frames)), size=size)


def _met(after: Scene, here: Paths) -> tuple[Scene, int, int]:
    """Returns `after` on a path past where the subject is, the frame number at which it is there
    and the one at which the zoom is where it is."""
    (x, y), direction = here.centre[0], after.direction
    jitter, moves = np.clip([x - world.CENTRE, y - world.CENTRE], -_FAR, _FAR), 0
    if direction in ("left", "right", "up", "down"):
        axis = 0 if direction in ("left", "right") else 1
        sign = 1 if direction in ("right", "down") else -1
        jitter[axis] = 0.0
        travel = sign * (here.centre[0, axis] - world.CENTRE)
        moves = 16 + round(travel / world.PIXELS_PER_FRAME[after.speed])
    elif direction == "bounce":
        jitter[1] = 0.0
        height = np.clip(2 * (y - world.CENTRE) / world.BOUNCE_HEIGHT, -1.0, 1.0)
        moves = round(np.arccos(height) / (2 * np.pi) * world.BOUNCE_PERIOD[after.speed])
    zoomed = world.ZOOM_FRAMES * np.log(here.scale[0]) / np.log(world.ZOOM_FACTOR)
    zooms = round(zoomed if after.camera_motion == "zoom_in" else world.ZOOM_FRAMES - zoomed)
    x, y = jitter.tolist()
    return dataclasses.replace(after, jitter=(x, y)), moves, zooms


def _mixed(a: Float[np.ndarray, "*any"], b: Float[np.ndarray, "*any"], share: np.ndarray):
    return (1 - share) * a + share * b
