"""How often clips are drawn: all alike, by rate, by subject type, images apart."""

import dataclasses

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.data.features.draws import described, draws
from skyreels_jax.data.features.sets import UNSTATED, Table
from skyreels_jax.data.selection import Balance

STILL, SHORT, LONG = (Bucket(frames=frames, height=32, width=48) for frames in (1, 33, 65))
BATCH = {STILL: 8, SHORT: 4, LONG: 2}
WORLD = {
    STILL: (["Human"] * 2 + ["Animal"] * 2, [24] * 4),
    SHORT: (["Human"] * 6 + ["Animal"] * 2, [16] * 4 + [24] * 4),
    LONG: (["Human"] * 4, [24] * 4),
}


def tables(*names):
    return {
        bucket: Table(
            files=(),
            ids=tuple(f"{bucket}/{number}" for number in range(len(kinds))),
            fps=np.array(WORLD[bucket][1]),
            subject_types=tuple(kinds),
        )
        for bucket, (kinds, _) in WORLD.items()
        if not names or bucket in names
    }


def clips(found):
    """Returns how many draws a step each clip has, by (bucket, index)."""
    return {
        (draw.bucket, int(index)): draw.share * draw.batch * weight / total / len(indices)
        for draw in found
        for total in [sum(weight for weight, _ in draw.groups)]
        for weight, indices in draw.groups
        for index in indices
    }


def by_kind(found, *, still):
    """Returns the share of each subject type among the draws of images, or of videos."""
    sums = {}
    for (bucket, index), rate in clips(found).items():
        if (bucket == STILL) == still:
            kind = WORLD[bucket][0][index]
            sums[kind] = sums.get(kind, 0) + rate
    return {kind: value / sum(sums.values()) for kind, value in sums.items()}


def test_all_videos_come_up_equally_often():
    found = draws(tables(), BATCH.get)
    assert [draw.bucket for draw in found] == [SHORT, LONG]
    # As many steps of either: eight clips, four at a time, and four, two at a time.
    assert [draw.share for draw in found] == pytest.approx([0.5, 0.5])
    assert len(clips(found)) == 12 and len({round(rate, 9) for rate in clips(found).values()}) == 1


def test_images_have_their_share_of_the_steps():
    found = draws(tables(), BATCH.get, images=0.2)
    assert {draw.bucket: pytest.approx(draw.share) for draw in found} == {
        STILL: 0.2,
        SHORT: 0.4,
        LONG: 0.4,
    }
    assert [draw.bucket for draw in draws(tables(), BATCH.get, images=1.0)] == [STILL]


def test_one_rate_alone():
    found = draws(tables(), BATCH.get, fps=24)
    assert {draw.bucket: draw.groups[0][1].tolist() for draw in found} == {
        SHORT: [4, 5, 6, 7],
        LONG: [0, 1, 2, 3],
    }
    assert [draw.share for draw in found] == pytest.approx([1 / 3, 2 / 3])
    (only,) = draws(tables(), BATCH.get, fps=16)
    assert only.bucket == SHORT and only.share == 1


@pytest.mark.parametrize("shares", [{}, {"Human": 0.25, "Animal": 0.75}])
def test_balance_holds_among_videos_and_among_images(shares):
    balance = Balance(attribute="subject_type", shares=shares)
    found = draws(tables(), BATCH.get, images=0.5, balance=balance)
    expected = shares or {"Human": 0.5, "Animal": 0.5}
    for still in (True, False):
        assert by_kind(found, still=still) == pytest.approx(expected)
    assert sum(draw.share for draw in found) == pytest.approx(1)


def test_a_share_of_0_leaves_clips_out():
    balance = Balance(attribute="subject_type", shares={"Human": 0.0, "Animal": 1.0})
    (only,) = draws(tables(), BATCH.get, balance=balance)
    assert only.bucket == SHORT and [index.tolist() for _, index in only.groups] == [[6, 7]]


@pytest.mark.parametrize(
    ("there", "options", "message"),
    [
        ((SHORT, LONG), {"images": 0.1}, "data.images = 0.1: 10% of the steps would be of images"),
        ((STILL,), {}, "data.images = 0: 100% of the steps would be of videos"),
        ((), {"fps": 30}, "videos: no clip has 30 frames a second; there are 4 of 16, 8 of 24"),
        ((), {"balance": Balance(attribute="shape")}, "videos: balance.attribute 'shape' does not"),
        (
            (),
            {"balance": Balance(attribute="subject_type", shares={"Human": 1.0})},
            "videos: balance.shares must name every subject_type; missing: Animal",
        ),
    ],
)
def test_what_cannot_be_drawn(there, options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        draws(tables(*there), BATCH.get, **options)


def test_clips_of_which_nothing_is_known_are_not_balanced():
    (short,) = tables(SHORT).values()
    unknown = dataclasses.replace(short, subject_types=(UNSTATED,) * len(short))
    with pytest.raises(UserError, match="videos: data.balance: no caption of these says a subject"):
        draws({SHORT: unknown}, BATCH.get, balance=Balance(attribute="subject_type"))


def test_what_the_order_hangs_on_is_described():
    def told(tables, **options):
        (only,) = draws(tables, BATCH.get, **options)
        return described(only, tables[only.bucket])

    short = tables(SHORT)
    before = told(short)
    assert before.startswith("batches of 4 of 8 clips (") and before == told(tables(SHORT))
    swapped = dataclasses.replace(short[SHORT], ids=short[SHORT].ids[::-1])
    balance = Balance(attribute="subject_type", shares={"Human": 0.25, "Animal": 0.75})
    others = told({SHORT: swapped}), told(short, fps=16), told(short, balance=balance)
    assert len({before, *others}) == 4
