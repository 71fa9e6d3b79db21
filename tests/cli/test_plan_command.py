"""`skyreels-jax plan`: the TPU compiler's own answers, without a TPU; what is refused."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from skyreels_jax.cli.main import main
from skyreels_jax.cli.planning import programs
from skyreels_jax.cli.planning.chips import CHIPS
from skyreels_jax.cli.planning.collectives import Collective, collectives
from skyreels_jax.cli.planning.estimate import Estimate, estimate
from skyreels_jax.cli.planning.plan import Plan, share
from skyreels_jax.cli.planning.plan import plan as planned
from skyreels_jax.cli.planning.programs import abstract_training
from skyreels_jax.cli.train import read_config, resolved
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "film" / "pretrain_256p.py")
SMALL = (
    *("--set", "model.transformer.num_attention_heads=2", "--set", "model.transformer.ffn_dim=512"),
    *("--set", "model.transformer.num_layers=9", "--set", "model.transformer.text_dim=64"),
    *("--set", "mesh.fsdp=2", "--set", "mesh.context=2"),
    *("--set", "stages=({'steps': 1, 'batch': 2, 'frames': 33, 'resolution': '256p'},)"),
)
BATCH = "stages=({'steps': 1, 'batch': 4, 'frames': 33, 'resolution': '256p'},)"
COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
compiles = pytest.mark.skipif(not COMPILER.exists(), reason="`make test` installs the TPU compiler")
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused (p0: bf16[4,8]) -> bf16[8,8] {
  %p0 = bf16[4,8] parameter(0)
  ROOT %ag.1 = bf16[8,8] all-gather(%p0), channel_id=7, replica_groups={{0,1}}, dimensions={0}
}

%beside (p1: bf16[4,8]) -> bf16[8,8] {
  %p1 = bf16[4,8] parameter(0)
  ROOT %ag.2 = bf16[8,8] all-gather(%p1), channel_id=7, replica_groups={{0,1}}, dimensions={0}
}

%all-reduce-scatter.3 (p2: f32[8,8]) -> f32[2,8] {
  %p2 = f32[8,8] parameter(0)
  ROOT %ar = f32[8,8] all-reduce(%p2), channel_id=9, replica_groups=mesh['a'=4,'b'=2] {'a'}
}

%body (p3: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p3 = (s32[], bf16[4,8]) parameter(0)
  %x = bf16[4,8] get-tuple-element(%p3), index=1
  %g = bf16[8,8] fusion(%x), kind=kCustom, calls=%fused
  %h = bf16[8,8] fusion(%x), kind=kCustom, calls=%beside
  %t = bf16[4,8] all-to-all(%x), channel_id=1, replica_groups=[4,2]<=[8], dimensions={0}
  %u = bf16[4,8] all-to-all(%t), channel_id=1, replica_groups=[4,2]<=[8], dimensions={1}
}

%condition (p4: (s32[], bf16[4,8])) -> pred[] {
  %p4 = (s32[], bf16[4,8]) parameter(0)
  %c = s32[] constant(40)
}

ENTRY %main (a: bf16[4,8]) -> f32[2,8] {
  %w = (s32[], bf16[4,8]) while(%a), condition=%condition, body=%body
  ROOT %s = f32[2,8] fusion(%w), kind=kCustom, calls=%all-reduce-scatter.3
}
"""


MESH = {"data": 1, "fsdp": 4, "tensor": 1, "context": 2}


def test_collectives_of_a_program_with_a_loop():
    pairs = {"group": 2, "axes": ("context",)}
    assert collectives(PROGRAM, MESH) == [
        Collective(kind="all-gather", size=128, count=40, **pairs),
        Collective(kind="all-to-all", size=64, count=80, **pairs),
        Collective(kind="reduce-scatter", group=4, axes=("fsdp",), size=256, count=1),
    ]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("tensor", "context")),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("fsdp",)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("fsdp", "tensor")),
        ("replica_groups=[4,2]<=[2,2,2]T(1,2,0)", ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}", ("fsdp", "context")),
        ("replica_groups={}", ("fsdp", "tensor", "context")),
        ("source_target_pairs={{0,2},{2,0},{1,3},{3,1}}", ("tensor",)),
    ],
)
def test_along_which_axes_devices_exchange(groups, axes):
    kind = "collective-permute" if groups.startswith("source") else "all-reduce"
    text = f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  %r = f32[8] {kind}(%a), {groups}, use=true\n}}"
    mesh = {"data": 1, "fsdp": 2, "tensor": 2, "context": 2}
    (found,) = collectives(text, mesh)
    assert found.axes == axes and found.size == 32


def test_only_sums_of_gradients_hide_behind_products():
    config, bucket = DiTConfig(num_layers=2), Bucket(frames=33, height=256, width=448)
    options = {"chip": CHIPS["v5p"], "devices": 8, "clips": 8, "text": 512, "train": True}
    made = {}
    for axes in (("data", "fsdp"), ("fsdp",), ("tensor",), ("fsdp", "context")):
        one = Collective(kind="all-reduce", group=8, axes=axes, size=10**8, count=1)
        made[axes] = estimate(config, bucket, [one], **options)
    sums, others = [made.pop(("data", "fsdp")), made.pop(("fsdp",))], list(made.values())
    assert all(each.exposed == 0 < each.hidden for each in sums)
    assert all(each.hidden == 0 and each.exposed == sums[0].hidden for each in others)
    assert others[0].seconds == pytest.approx(sums[0].seconds + others[0].exposed)


def test_what_is_offloaded_goes_to_the_host_and_back():
    config, bucket = DiTConfig(num_layers=2), Bucket(frames=33, height=256, width=448)
    options = {"chip": CHIPS["v5e"], "devices": 4, "clips": 8, "text": 512}
    block, offload = (
        estimate(config, bucket, [], remat=remat, train=True, **options)
        for remat in ("block", "offload")
    )
    held = 8 * bucket.tokens * config.width * 2 * 2 / 4  # bfloat16, two layers, of a device
    assert block.exposed == 0 and offload.exposed == pytest.approx(2 * held / 16e9)
    assert offload.seconds == pytest.approx(block.seconds + offload.exposed)
    assert offload.assumptions[:-1] == block.assumptions
    assert "offloading reaches 16 GB/s" in offload.assumptions[-1]


def test_a_plan_in_words():
    """Made up: 2e15 operations of the model in a second, of 4 chips of 1e15 a second."""
    estimated = Estimate(
        **{"products": 0.5, "attention": 0.3, "memory": 0.1, "exposed": 0.1, "hidden": 0.2},
        **{"needed": 2e15, "seconds": 1.0, "mfu": 0.5, "assumptions": ("links are links",)},
    )
    made = Plan(
        mesh=MeshConfig(fsdp=2, context=2),
        bucket=Bucket(frames=33, height=256, width=448),
        work="2 clips",
        devices=4,
        parameters=1_420_000_000,
        state={"parameters": 3 * 2**30, "optimizer, EMA": 9 * 2**30},
        peak=15 * 2**30,
        limit=16 * 2**30,
        advice=(),
        temporary=2 * 2**30,
        host=2**29,
        exchanged={"all-to-all": {"count": 1080, "bytes": 2**31}},
        estimated=estimated,
        compile_seconds=61.2,
    )
    lines = made.text("v5e:2x2").splitlines()
    assert lines[0] == "v5e:2x2: 4 devices as data 1, fsdp 2, tensor 1, context 2 (ulysses)"
    for words in (
        "1.42 billion parameters",
        "optimizer, EMA 9.00 GiB a device",
        "peak 15.00 of 16 GiB",
        "on the host 0.50 GiB a device",
        "all-to-all 1,080 times 2.00 GiB",
        "exposed 0.1 s",
        "operations 2 PFLOP, of all devices",
        "a step 1 s, an MFU of 50.0%",
        "links are links",
        "compiled in 61 s",
    ):
        assert words in [" ".join(line.split()) for line in lines], words
    full = dataclasses.replace(made, estimated=None, peak=17 * 2**30, advice=("remat block",))
    said = full.text("v5e:2x2")
    assert said.endswith("does not fit, by 1.0 GiB; what would help: remat block")
    assert "operations" not in said


def test_the_bytes_of_a_state_are_those_of_its_optimizer():
    held = {}
    for name in ("adam", "muon"):
        sets = (f"optimizer.name={name}", "ema_decay=0.99", *SMALL[1::2])
        recipe, config = resolved(read_config(f"{CONFIG}:1.3b"), sets)
        placement = Placement(
            mesh=make_mesh(config.mesh, jax.devices()[:4]), rules=recipe.rules(config)
        )
        held[name] = abstract_training(recipe, config, placement).state
    parameters = share(held["adam"].params)
    assert share(held["adam"].ema) == parameters
    assert share(held["adam"].opt_state) == pytest.approx(2 * parameters, rel=1e-3)
    assert share(held["muon"].opt_state) < 1.2 * parameters


def test_seconds_on_a_ring():
    one = {"group": 4, "axes": ("fsdp",), "size": 1000, "count": 3}
    assert Collective(kind="all-gather", **one).seconds(1e3) == pytest.approx(3 * 0.375)
    assert Collective(kind="all-reduce", **one).seconds(1e3) == pytest.approx(3 * 0.75)


@pytest.mark.parametrize(
    ("sets", "step", "first"),
    [
        (("remat=none",), "train", "accumulate 2"),
        (("remat=attention", "accumulate=2"), "train", "remat block"),
        (("remat=block", "accumulate=2"), "train", "remat offload"),
        (("remat=offload", "accumulate=2"), "train", "more devices in fsdp or context"),
        ((), "sample", "more devices in context or tensor"),
    ],
)
def test_what_does_not_fit_says_by_how_much_and_what_would_help(sets, step, first, monkeypatch):
    """As the TPU compiler says it."""

    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ... Used 17.20G of 15.75G hbm. ...")

    monkeypatch.setattr(programs, "train_program", full)
    monkeypatch.setattr(programs, "sample_program", full)
    recipe, config = resolved(read_config(f"{CONFIG}:1.3b"), (*SMALL[1::2], BATCH, *sets))
    how = {"step": step, "stage": 0}
    made = planned(recipe, config, CHIPS["v5e"], jax.devices()[:4], **how)
    assert not made.fits and made.values()["fits"] is False
    said = made.text("v5e:2x2").splitlines()[-1]
    assert said.startswith(f"does not fit, by 1.4 GiB; what would help: {first}")


def test_temporaries_that_do_not_fit_by_themselves_come_upon_the_state(monkeypatch):
    """As the TPU compiler says it of the largest programs."""

    def full(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (41.24G) exceeds available HBM (31.25G)."
        )

    monkeypatch.setattr(programs, "train_program", full)
    recipe, config = resolved(read_config(f"{CONFIG}:1.3b"), (*SMALL[1::2], BATCH))
    made = planned(recipe, config, CHIPS["v6e"], jax.devices()[:4], step="train", stage=0)
    held = sum(made.state.values())
    assert held and made.peak == held + int(41.24 * 2**30) and made.limit == int(31.25 * 2**30)
    assert "does not fit, by" in made.text("v6e:2x2").splitlines()[-1]


def command(config, *flags):
    words = [sys.executable, "-m", "skyreels_jax", "plan", "--config", config, "--json", *flags]
    env = os.environ | {"XLA_FLAGS": "", "TPU_LIBRARY_PATH": str(COMPILER)}
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=1200)


def plan(config, *flags):
    done = command(config, *flags)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@compiles
@pytest.mark.parametrize("step", [pytest.param("train", marks=pytest.mark.slow), "sample"])
def test_a_miniature_plan(step):
    made = plan(f"{CONFIG}:1.3b", "--topology", "v5e:2x2", "--step", step, *SMALL)
    assert made["fits"] and 0 < made["peak"] < made["limit"] == 16 * 2**30
    assert made["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1, "context": 2} | {
        "attention": "ulysses"
    }
    exchanged = made["exchanged"]
    # Four all-to-alls a layer forward, of queries, keys, values and what comes of them.
    layers, passes = 9, 1 if step == "sample" else 2
    assert exchanged["all-to-all"]["count"] >= 4 * layers * passes
    assert exchanged["all-gather"]["count"] >= layers
    assert ("reduce-scatter" in exchanged or "all-reduce" in exchanged) or step == "sample"
    assert 0 < made["estimated"]["mfu"] < 1


@compiles
@pytest.mark.slow
def test_a_plan_of_decoding():
    made = plan(f"{CONFIG}:1.3b", "--topology", "v5e:2x2", "--step", "decode", *SMALL)
    assert made["fits"] and made["work"].startswith("one of the 9 latent frames")
    # What lies beside a picture's edge comes from the neighbour, convolution by convolution.
    assert made["exchanged"]["collective-permute"]["count"] >= 20
    assert made["parameters"] > 1e8 and 0 < made["estimated"]["seconds"] < 1


@compiles
def test_14b_fits_on_v5p():
    config = CONFIG.replace("256p", "540p") + ":14b"
    made = plan(config, "--topology", "v5p:4x4x8", "--set", "accumulate=8")
    assert made["fits"] and made["peak"] < 40 * 2**30


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--topology", "v9:4x4"), "no TPU is called 'v9'"),
        (("--topology", "v5e"), "legal are v5e:16x16"),
        (("--topology", "v6e:100x100"), "v6e has 2 axes and up to 256 chips"),
        (("--topology", "v5e:4x4x2"), "v5e has 2 axes"),
        (("--topology", "v5p:4x4"), "v5p has 3 axes and up to 8,960 chips"),
        (("--topology", "v5e:4x4", "--stage", "3"), "the config has stages 0 to 0"),
        (("--topology", "v5e:4x4", "--set", "kind='vae'"), "kind"),
        (("--topology", "v5e:4x4", "--set", "lora={'rank': 2, 'alpha': 2}"), "leave lora out"),
    ],
)
def test_what_is_refused(capsys, flags, said):
    assert main(["plan", "--config", f"{CONFIG}:1.3b", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@compiles
def test_what_the_compiler_refuses_is_one_line_as_well():
    done = command(f"{CONFIG}:1.3b", "--topology", "v5p:9x9x9")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "--topology v5p:9x9x9 does not exist" in done.stderr and "legal are v5e:" in done.stderr
