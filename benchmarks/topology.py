"""TPUs that are not there: programs are compiled for them, and nothing runs.

The compiler is that of the extra "tpu", or the one that `make test` puts beside the environment.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping

COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"  # where `make test` puts it


def add_topology(made: argparse.ArgumentParser) -> None:
    made.add_argument("--topology", help="compile for this TPU, such as v5p:2x2x1, run nothing")


def compiler_variables() -> dict[str, str]:
    """Returns the environment in which libtpu is found."""
    return {"TPU_LIBRARY_PATH": str(COMPILER)} if COMPILER.exists() else {}


def refusal(error: Exception) -> str:
    """Returns why a machine cannot run something, briefly; raises what is another error."""
    codes = ("RESOURCE_EXHAUSTED", "UNIMPLEMENTED")  # as XLA begins what it says
    if not isinstance(error, NotImplementedError) and not str(error).startswith(codes):
        raise error
    return brief(error)


def brief(error: Exception) -> str:
    """Returns the first line of what an error says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def show_compiled(
    args: argparse.Namespace, programs: Mapping[str, tuple[Callable, tuple, float | None]]
) -> None:
    """Compiles for the first device of `args.topology`; prints bytes of memory, and the seconds of
    the operations at the peak of the chip, which is no time that was measured. Exits with 1 where
    every program was refused.

    programs: (function, abstract arguments, operations or None) by name.
    """
    cases = compiled_for(args.topology, programs)
    if args.json:
        print(json.dumps({"topology": args.topology, "cases": cases}))
    else:
        print(f"compiled for {args.topology}, nothing ran")
        for name, told in cases.items():
            said = (f"{k} {v}" if isinstance(v, str) else f"{k} {v:.3g}" for k, v in told.items())
            print(f"{name:24} " + ", ".join(said))
    if all("refused" in told for told in cases.values()):
        sys.exit("FAILED every program was refused")


def compiled_for(
    topology: str, programs: Mapping[str, tuple[Callable, tuple, float | None]]
) -> dict[str, dict]:
    """Returns what `show_compiled` prints, by name."""
    from skyreels_jax.cli.planning.chips import topology as find
    from skyreels_jax.core.errors import UserError

    os.environ |= compiler_variables()
    try:
        chip, devices = find(topology)
    except UserError as error:
        sys.exit(str(error))
    import jax

    where = jax.sharding.SingleDeviceSharding(devices[0])
    cases = {}
    for name, (function, arguments, flops) in programs.items():
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), arguments
        )
        try:
            told = jax.jit(function).lower(*arguments).compile().memory_analysis()
        except Exception as error:  # noqa: BLE001  others than refusals are raised again
            cases[name] = {"refused": refusal(error)}
            continue
        held = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
        cases[name] = {"held_gib": held / 2**30, "temporary_gib": told.temp_size_in_bytes / 2**30}
        if flops:
            cases[name]["seconds_at_peak"] = flops / chip.flops
    return cases
