"""Captions of ToyFilm scenes: the SkyCaptioner JSON, and the sentence that films are made from.

`structured` and `scene_from_structured` are inverse to each other on the eight attributes.
`sentence` fuses one scene into free English as the official caption fusion does: shot first, then
what happens, place and light, and the camera sentence appended last.
"""

import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.world import NO_SPEED, Scene

# The first wording is the plain one; the tokenizer knows the words of all.
COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "azure"),
    "magenta": ("magenta", "pink"),
}
SHAPE_WORDS = {
    "ring": ("ring", "hoop"),
    "square": ("square", "box"),
    "triangle": ("triangle", "pyramid"),
}
SHOT_WORDS = {
    "long_shot": ("long shot", "wide shot"),
    "medium_shot": ("medium shot", "mid shot"),
    "close_up": ("close-up", "close shot"),
}
ENVIRONMENT_WORDS = {
    "meadow": ("a meadow", "a grassy meadow", "a green meadow with trees"),
    "desert": ("a desert", "a sandy desert", "a desert with mesas"),
    "city": ("a city", "a city skyline", "a city with towers"),
    "snow": ("a snowy landscape", "a field of snow", "snow below the mountains"),
}
LIGHTING_WORDS = {
    "day": ("during the day", "in daylight", "at midday"),
    "dusk": ("at dusk", "at sunset", "in the evening light"),
    "night": ("at night", "after dark", "under moonlight"),
}
SPEED_WORDS = {"slow": ("slowly", "gently"), "fast": ("quickly", "rapidly")}
ACTION_WORDS = {
    "left": ("moves {speed} to the left", "slides {speed} to the left", "glides left {speed}"),
    "right": ("moves {speed} to the right", "slides {speed} to the right", "glides right {speed}"),
    "up": ("moves {speed} upward", "rises {speed}", "floats upward {speed}"),
    "down": ("moves {speed} downward", "sinks {speed}", "falls {speed} downward"),
    "still": ("stays still", "does not move", "rests motionless"),
    "bounce": ("bounces {speed}", "bounces up and down {speed}", "hops {speed} up and down"),
}
CAMERA_WORDS = {
    "static": ("the camera is static", "the camera is fixed"),
    "pan_left": ("the camera pans left", "the camera pans to the left"),
    "pan_right": ("the camera pans right", "the camera pans to the right"),
    "zoom_in": ("the camera zooms in", "the camera gradually zooms in"),
    "zoom_out": ("the camera zooms out", "the camera gradually zooms out"),
}
TEMPLATES = (
    "a {shot} of a {colour} {shape} that {action} in {environment} {lighting}.",
    "{shot}: in {environment} {lighting}, a {colour} {shape} {action}.",
    "a {colour} {shape} {action} in {environment} {lighting}, {shot}.",
    "{lighting}, a {colour} {shape} {action} in {environment}, seen in a {shot}.",
)
MAX_WORDS = 40


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=(?:emerald|azure)\b)", r"\1n ", text)


def sentence(scene: Scene, seed: int = 0) -> str:
    """Returns an English caption (at most 40 words) that names all eight attributes of `scene`.

    `seed` chooses template and synonyms; the same (attributes, seed) gives the same sentence. Every
    second static film does without a camera sentence, so that saying nothing means a static camera.
    """
    rng = random.Random(f"{seed}/{'/'.join(world.attributes(scene).values())}")

    def pick(wordings):  # the plain wording half of the time
        return wordings[0] if rng.random() < 0.5 else rng.choice(wordings)

    action = pick(ACTION_WORDS[scene.direction])
    if scene.speed != NO_SPEED:
        action = action.format(speed=pick(SPEED_WORDS[scene.speed]))
    text = rng.choice(TEMPLATES).format(
        shot=pick(SHOT_WORDS[scene.shot_type]),
        colour=pick(COLOUR_WORDS[scene.colour]),
        shape=pick(SHAPE_WORDS[scene.shape]),
        action=action,
        environment=pick(ENVIRONMENT_WORDS[scene.environment]),
        lighting=pick(LIGHTING_WORDS[scene.lighting]),
    )
    camera = _capitalised(pick(CAMERA_WORDS[scene.camera_motion])) + "."
    text = _articles(_capitalised(text))
    return text if scene.camera_motion == "static" and rng.random() < 0.5 else f"{text} {camera}"


def sentences(scenes: Iterable[Scene], *, seed: int = 0) -> list[str]:
    """Returns the `sentence` of every scene, scene i worded by `seed + i`."""
    return [sentence(scene, seed + i) for i, scene in enumerate(scenes)]


def structured(scene: Scene) -> dict[str, Any]:
    """Returns the caption of `scene` in the SkyCaptioner schema (facts 1.1), in plain wordings."""
    x, y = world.centres(scene, np.array([0]))[0]
    column = "left" if x < 28 else "right" if x > 36 else "center"
    row = "top" if y < 28 else "bottom" if y > 36 else "middle"
    action = ACTION_WORDS[scene.direction][0]
    if scene.speed != NO_SPEED:
        action = action.format(speed=SPEED_WORDS[scene.speed][0])
    subject = {
        "TYPES": {"type": "Shape", "sub_type": _capitalised(scene.shape)},
        "appearance": f"{scene.colour} {scene.shape}",
        "action": f"the {scene.shape} {action}",
        "expression": "",
        "position": f"{row} {column} of the frame at first",
        "is_main_subject": True,
    }
    camera = "" if scene.camera_motion == "static" else CAMERA_WORDS[scene.camera_motion][0]
    return {
        "subjects": [subject],
        "shot_type": scene.shot_type,
        "shot_angle": "eye_level",
        "shot_position": "front_view",
        "camera_motion": camera,
        "environment": ENVIRONMENT_WORDS[scene.environment][0],
        "lighting": LIGHTING_WORDS[scene.lighting][0],
    }


# What identifies a value in a field of a structured caption: regular expressions, lower case.
_CLUES = {
    "colour": {value: "|".join(words) for value, words in COLOUR_WORDS.items()},
    "shape": {value: "|".join(words) for value, words in SHAPE_WORDS.items()},
    "shot_type": {value: f"{value}|{'|'.join(words)}" for value, words in SHOT_WORDS.items()},
    "direction": {
        "bounce": "bounc(?:es?|ing)|hop(?:s|ping)?",
        "still": "still|motionless|does not move|rests",
        "left": "left(?:wards?)?",
        "right": "right(?:wards?)?",
        "up": "up(?:wards?)?(?! and down)|rises|rising",
        "down": "(?<!up and )down(?:wards?)?|sinks|sinking",
    },
    "speed": {"slow": "slow(?:ly)?|gently", "fast": "fast|quick(?:ly)?|rapidly"},
    "camera_motion": {
        "static": "static|fixed|still",
        "pan_left": "pan(?:s|ning)?[ _](?:to the )?left",
        "pan_right": "pan(?:s|ning)?[ _](?:to the )?right",
        "zoom_in": "zoom(?:s|ing)?[ _]in",
        "zoom_out": "zoom(?:s|ing)?[ _]out",
    },
    "environment": {
        "meadow": "meadow|grassy",
        "desert": "desert|sandy",
        "city": "city|skyline|towers",
        "snow": "snowy?|snowfield",
    },
    "lighting": {
        "day": "day|daylight|midday|daytime",
        "dusk": "dusk|sunset|evening",
        "night": "night|dark|moonlight",
    },
}


def _read(name: str, text: Any, default: str | None = None) -> str:
    """Returns the one value of attribute `name` that `text` speaks of."""
    text = text.lower() if isinstance(text, str) else ""
    if default is not None and not text.strip():
        return default
    found = [v for v, clue in _CLUES[name].items() if re.search(rf"\b(?:{clue})\b", text)]
    if len(found) != 1:
        what = f"names {' and '.join(found)}" if found else "is not understood"
        legal = ", ".join(world.ATTRIBUTES[name])
        raise UserError(f"structured caption: {name} {text!r} {what}; say one of {legal}")
    return found[0]


def scene_from_structured(caption: Mapping[str, Any]) -> Scene:
    """Returns the scene (with no jitter) that a structured caption describes.

    Reads the main subject's sub_type, appearance and action, shot_type, camera_motion ("" is
    static), environment and lighting; `shot_angle`, `shot_position`, `position` and `expression` do
    not exist in this world and may say anything. Raises `UserError` naming the legal values of the
    first field that does not name exactly one of them.
    """
    if not isinstance(caption, Mapping) or not isinstance(caption.get("subjects"), list):
        raise UserError('structured caption: needs {"subjects": [...], "shot_type": ..., ...}')
    subjects = [s for s in caption["subjects"] if isinstance(s, Mapping)]
    main = [s for s in subjects if s.get("is_main_subject", len(subjects) == 1)]
    if len(main) != 1:
        raise UserError(f"structured caption: needs exactly one main subject, has {len(main)}")
    types = main[0].get("TYPES")
    sub_type = types.get("sub_type") if isinstance(types, Mapping) else None
    action = main[0].get("action")
    direction = _read("direction", action)
    return Scene(
        colour=_read("colour", main[0].get("appearance")),
        shape=_read("shape", sub_type),
        shot_type=_read("shot_type", caption.get("shot_type")),
        direction=direction,
        speed=NO_SPEED if direction == "still" else _read("speed", action),
        camera_motion=_read("camera_motion", caption.get("camera_motion"), default="static"),
        environment=_read("environment", caption.get("environment")),
        lighting=_read("lighting", caption.get("lighting")),
    )


def vocabulary() -> list[str]:
    """Returns every word and punctuation mark that `sentence` can write, lower case, sorted."""
    tables = (COLOUR_WORDS, SHAPE_WORDS, SHOT_WORDS, ENVIRONMENT_WORDS, LIGHTING_WORDS)
    texts = [text for table in (*tables, SPEED_WORDS, CAMERA_WORDS) for text in table.values()]
    texts += [[re.sub(r"{\w+}", "", text) for text in TEMPLATES], ["an"]]
    texts += [
        [text.replace("{speed}", "") for text in wordings] for wordings in ACTION_WORDS.values()
    ]
    words = {w for wordings in texts for t in wordings for w in re.findall(r"[\w-]+|[^\w\s]", t)}
    return sorted(words)
