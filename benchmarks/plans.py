"""Plans of full-size training and sampling on every TPU, the table of docs/scaling.md; needs none.

python benchmarks/plans.py [--only 14b --only v5p ...] [--out out/plans] [--all] [--json]

Asks `skyreels-jax plan` for every candidate mesh of a program on a topology, one after the other,
and prints the one with the least estimated time of those that fit (--all: every one), or by how
much the one that comes nearest does not. Each takes the TPU compiler half a minute to five on two
cores, and up to 10 GB of memory; what is done lies in --out, those that do not fit as well, and is
not done again (another --out for other code). Where a plan fails the others are made, the exit code
is 1, and the same command tries it once more.
--only: programs with this word in their name; all words must be.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from topology import compiler_variables

from skyreels_jax.core.files import write_json

ROOT = pathlib.Path(__file__).parents[1]
GIB = 2**30
CONFIGS = {"540p": "pretrain_540p", "720p": "sft_720p"}


class Candidate(NamedTuple):
    """A program on a topology: `sets` is what is changed in its config."""

    size: str
    resolution: str
    step: str
    topology: str
    sets: tuple[str, ...]

    @property
    def program(self) -> str:
        return f"{self.size} {self.resolution} {self.step} {self.topology}"

    @property
    def file(self) -> str:
        words = [*self.program.split(), *self.sets]
        return "-".join(words).replace(":", "_").replace("mesh.", "").replace("=", "") + ".json"


def mesh(
    fsdp: int,
    context: int = 1,
    *,
    tensor: int = 1,
    accumulate: int = 1,
    remat: str = "",
    ring: bool = False,
) -> tuple[str, ...]:
    """Returns the changes of a config that make this mesh."""
    sets = [f"mesh.fsdp={fsdp}", f"mesh.context={context}"]
    sets += [f"mesh.tensor={tensor}"] if tensor > 1 else []
    sets += [f"accumulate={accumulate}"] if accumulate > 1 else []
    sets += [f"remat={remat}"] if remat else []
    return (*sets, "mesh.attention=ring") if ring else tuple(sets)


# By size and resolution: of a batch of 128 clips (540p) or 32 (720p), on each topology.
TRAIN = {
    ("14b", "540p"): {
        "v5e:16x16": (
            mesh(64, 4, accumulate=2),
            mesh(32, 8, accumulate=4),
            mesh(32, 8, accumulate=4, remat="block"),
            mesh(32, 8, accumulate=4, remat="offload"),
        ),
        "v5p:4x4x8": (
            mesh(128),
            mesh(64, 2, accumulate=2),
            mesh(16, 8, accumulate=8),
            mesh(16, 4, tensor=2, accumulate=8),
        ),
        "v6e:16x16": (mesh(64, 4, accumulate=2), mesh(32, 8, accumulate=4)),
        "tpu7x:4x4x4": (mesh(128), mesh(64, 2, accumulate=2)),
    },
    ("14b", "720p"): {
        "v5e:16x16": (mesh(32, 8, remat="block"), mesh(32, 8, remat="offload")),
        "v5p:4x4x8": (mesh(32, 4), mesh(16, 8), mesh(16, 8, remat="block")),
        "v6e:16x16": (
            mesh(32, 8),
            mesh(32, 8, remat="block"),
            mesh(32, 8, remat="offload"),
            mesh(16, 8, tensor=2, accumulate=2, ring=True),
        ),
        "tpu7x:4x4x4": (mesh(32, 4),),
    },
    ("1.3b", "540p"): {
        "v5e:8x8": (mesh(64, accumulate=2), mesh(32, 2, accumulate=4)),
        "v5p:2x4x4": (mesh(32, accumulate=4),),
        "v6e:8x8": (mesh(64, accumulate=2),),
        "tpu7x:2x2x4": (mesh(32, accumulate=4),),
    },
    ("1.3b", "720p"): {
        # Twelve heads are not for eight devices: a ring is.
        "v5e:8x8": (mesh(32, 2), mesh(16, 4, accumulate=2), mesh(8, 8, accumulate=4, ring=True)),
        "v5p:2x4x4": (mesh(32),),
        "v6e:8x8": (mesh(32, 2),),
        "tpu7x:2x2x4": (mesh(32),),
    },
}
# One film, with and without its text, or two on v5e: there weights need four devices.
SAMPLE = {
    "14b": {
        "v5e:4x4": (mesh(4, 4),),
        "v5p:2x2x2": (mesh(2, 4),),
        "v6e:2x4": (mesh(2, 4),),
        "tpu7x:2x2x1": (mesh(2, 4),),
    },
    "1.3b": {
        "v5e:2x2": (mesh(2, 2),),
        "v5p:2x2x1": (mesh(2, 2), mesh(2, tensor=2)),
        "v6e:2x2": (mesh(2, 2),),
        "tpu7x:2x2x1": (mesh(2, 4),),
    },
}


def candidates(words: Sequence[str]) -> Iterator[Candidate]:
    """Yields all whose program has these words in its name."""
    rows = [(*key, "train", TRAIN[key]) for key in TRAIN]
    rows += [(size, name, "sample", SAMPLE[size]) for size in SAMPLE for name in CONFIGS]
    for size, resolution, step, by_topology in rows:
        for topology, meshes in by_topology.items():
            for sets in meshes:
                one = Candidate(size, resolution, step, topology, sets)
                if all(word in one.program for word in words):
                    yield one


def planned(one: Candidate, out: pathlib.Path) -> dict[str, Any] | None:
    """Returns the plan of a candidate, from `out` if it is there; None where the command failed,
    which has said why.
    """
    path = out / one.file
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    config = ROOT / "configs" / "film" / f"{CONFIGS[one.resolution]}.py"
    flags = ["--config", f"{config}:{one.size}", "--topology", one.topology, "--step", one.step]
    flags += [word for change in one.sets for word in ("--set", change)]
    env = os.environ | compiler_variables()
    command = [sys.executable, "-m", "skyreels_jax", "plan", "--json", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=False)
    if done.returncode not in (0, 1) or not done.stdout:  # 1: it does not fit, or an error
        print(f"failed ({done.returncode}): {' '.join(command)}", file=sys.stderr)
        return None
    made = json.loads(done.stdout.splitlines()[-1]) | {"sets": one.sets}
    write_json(path, made)
    return made


def best(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the fastest of those that fit, or the one that comes nearest to it."""
    fitting = [plan for plan in plans if plan["fits"]]
    if fitting:
        return min(fitting, key=lambda plan: plan["estimated"]["seconds"])
    return min(plans, key=lambda plan: plan["peak"])


def row(program: str, plan: dict[str, Any]) -> str:
    """Returns a row of the table."""
    shape = {name: size for name, size in plan["mesh"].items() if name != "attention" and size > 1}
    words = [f"{name} {size}" for name, size in shape.items()]
    words += [f"({plan['mesh']['attention']})"] if plan["mesh"]["context"] > 1 else []
    words += [change for change in plan["sets"] if not change.startswith("mesh.")]
    memory = f"{plan['peak'] / GIB:.1f} of {plan['limit'] / GIB:.0f}"
    cells = [program, plan["work"], ", ".join(words).replace(", (", " ("), memory]
    if not plan["fits"]:
        over = (plan["peak"] - plan["limit"]) / GIB
        return f"| {' | '.join(cells)} | does not fit, by {over:.1f} GiB | | |"
    time = plan["estimated"]
    parts = ", ".join(
        f"{name} {time[name]:.3g}"
        for name in ("products", "attention", "memory", "exposed")
        if time[name] > 0.005 * time["seconds"]
    )
    cells += [f"{time['seconds']:.3g} s ({parts})", f"{time['mfu']:.0%}"]
    return f"| {' | '.join(cells)} | {plan['compile_seconds']:.0f} s |"


def main() -> None:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/plans"))
    parser.add_argument("--all", action="store_true", help="a row for every candidate")
    parser.add_argument("--json", action="store_true", help="one object: plans by program")
    args = parser.parse_args()
    asked, found, failed = list(candidates(args.only)), {}, 0
    if not asked:
        parser.error(f"no program has the words {' '.join(args.only)} in its name")
    for index, one in enumerate(asked, 1):
        print(f"{index} of {len(asked)}: {one.program} {' '.join(one.sets)}", file=sys.stderr)
        if (made := planned(one, args.out)) is None:
            failed += 1
        else:
            found.setdefault(one.program, []).append(made)
    if args.json:
        print(json.dumps(found))
    else:
        print("| program | a step | mesh | peak, GiB | a step, estimated | MFU | compiled in |")
        print("|---|---|---|---|---|---|---|")
        for program, plans in found.items():
            for plan in plans if args.all else [best(plans)]:
                print(row(program, plan))
    if failed:
        sys.exit(f"FAILED {failed} of {len(asked)} plans, see above")


if __name__ == "__main__":
    main()
