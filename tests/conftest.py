"""Every test runs offline on CPU: 8 virtual devices, full float32 matmuls, a compilation cache.

Programs are compiled without LLVM's optimisations: that takes half of a test's time, and more than
the little that they run for.
"""

import os
import pathlib

FLAGS = ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

_failed: list[str] = []
_broken: list[str] = []


def pytest_runtest_logreport(report):
    if report.failed:
        _failed.append(f"{report.nodeid} ({report.when})\n{report.longreprtext}")


def pytest_internalerror(excrepr):
    _broken.append(str(excrepr))


def pytest_unconfigure():
    """Says last what broke a worker: pytest then lists no failures, xdist only its own."""
    if _broken and "PYTEST_XDIST_WORKER" not in os.environ:
        for said in [*_failed, _broken[0]]:
            print("\n".join(["", *said.splitlines()[-30:]]))


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    """A text-to-video model of few, random weights on disk."""
    from skyreels_jax.testing.micro import write_micro_model

    return write_micro_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def forcing_folder(tmp_path_factory):
    """The same as a diffusion-forcing model."""
    from skyreels_jax.testing.micro import write_micro_model

    return write_micro_model(tmp_path_factory.mktemp("forcing"), forcing=True)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory):
    """The same with blocks of two latent frames that see no later ones."""
    from skyreels_jax.testing.micro import write_micro_model

    return write_micro_model(tmp_path_factory.mktemp("causal"), forcing=True, causal_block=2)


@pytest.fixture
def kept_programs(tmp_path):
    """Programs are kept in a folder of their own, and none comes from the suite's cache."""
    from skyreels_jax.core.programs import keep_programs

    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else the setting is not read again
    keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_programs(None)
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture
def encoded_once(monkeypatch):
    """Encodes the same frames once: x264 rarely makes another stream of them (docs/log.md)."""
    from skyreels_jax.pipelines import fragments

    encoded, known = fragments.encoded, {}

    def once(frames, fps):
        key = (frames.shape, frames.tobytes(), fps)
        if key not in known:
            known[key] = encoded(frames, fps)
        return known[key]

    monkeypatch.setattr(fragments, "encoded", once)
