"""What shells complete."""

import shutil
import subprocess

import pytest

from helios_jax.commands import COMMANDS, main


def script(shell: str, capsys) -> str:
    assert main(["helios-jax", "completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_flags(capsys):
    asked = '\nCOMP_WORDS=(helios-jax "$@"); COMP_CWORD=$#; _helios_jax; echo "${COMPREPLY[@]}"'
    text = script("bash", capsys)
    for words, expected in ((["tr"], "train"), (["sample", "--guidance_s"], "--guidance_scale")):
        done = subprocess.run(
            ["bash", "-c", text + asked, "bash", *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_completed(shell, capsys):
    text = script(shell, capsys)
    assert all(name in text for name in COMMANDS)
    assert "guidance_scale" in text


def test_an_unknown_shell_is_named(capsys):
    assert main(["helios-jax", "completion", "tcsh"]) == 2
    assert "'tcsh' is no shell that is known: bash, zsh, fish" in capsys.readouterr().err
