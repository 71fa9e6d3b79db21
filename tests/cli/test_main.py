"""The command's frame: instant help, suggestions, exit codes."""

import subprocess
import sys

import pytest

import skyreels_jax
from skyreels_jax.cli import main as cli


def run(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "skyreels_jax", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"skyreels-jax {skyreels_jax.__version__}")


def test_help_is_complete():
    done = run("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert name in done.stdout
    assert "examples:" in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse([name, "--help"])
    assert stop.value.code == 0
    assert f"skyreels-jax {name}" in capsys.readouterr().out


def test_help_is_instant_and_loads_nothing_heavy():
    code = (
        "import sys, time\nfrom skyreels_jax.cli.main import parse\n"
        "try: parse(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'numpy', 'transformers', 'torch', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time())"  # not the wall's: other jobs may run here
    )
    command = [sys.executable, "-c", code]
    tries = [subprocess.run(command, capture_output=True, check=True) for _ in range(3)]
    assert min(float(done.stdout.split()[-1]) for done in tries) < 0.3


def test_names_resolve_on_first_use():
    assert {"load", "Film", "VideoModel", "UserError"} <= set(dir(skyreels_jax))
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        _ = skyreels_jax.loda


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["genrate", "--prompt", "a"], "no command 'genrate'; did you mean 'generate'?"),
        (["generate", "--prompt", "a", "--num_frame", "33"], "did you mean '--num_frames'?"),
        (["generate", "--prompt", "a", "--num_frames", "many"], "invalid int value: 'many'"),
        (["generate"], "one of the arguments --prompt --prompts_file --from is required"),
        (["generate", "--prompt", "a", "--prompts_file", "b"], "not allowed with argument"),
        (["generate", "--prompt", "a", "--format", "avi"], "invalid choice"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(argv, message, capsys):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_no_command_shows_help(capsys):
    assert cli.main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_interrupt_exits_130(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    assert cli.main(["generate"]) == 130
    assert capsys.readouterr().err == "skyreels-jax: interrupted\n"
