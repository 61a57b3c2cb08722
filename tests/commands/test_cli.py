"""What all commands share."""

import pytest

from helios_jax.commands import sample, train
from helios_jax.commands.cli import run_command
from helios_jax.models.tokenizer import toy_tokenizer

# ml_collections loads recipes so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")


def test_a_prompt_that_is_cut_is_one_line_in_the_commands_name(capsys):
    def encode(options):
        toy_tokenizer(300)(["a red ball rolls over green grass"], 5)

    assert run_command("", lambda options, argv: None, encode, ["helios-jax encode"]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("helios-jax encode: the prompt 'a red ball rolls over green grass'...")


@pytest.mark.parametrize(
    "content",
    ["root:x:0:0:/root:/bin/sh\n", "import nothing\n", "x = 1\n", "raise RuntimeError('no')\n",
     "def get_config(): return 5\n", "def get_config(:\n", "\0", "def get_config(): 1 / 0\n"],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_one_line(tmp_path, capsys, content):
    """A recipe is a program, which can fail in any way."""
    (tmp_path / "recipe.py").write_text(content)
    for command in (sample, train):
        arguments = ["helios-jax", "--prompt=a"] if command is sample else ["helios-jax"]
        assert command.main([*arguments, f"--config={tmp_path / 'recipe.py'}"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "config" in err


@pytest.mark.parametrize("thresholds", ["", ",", "1,2,3", "nan", "a"])
def test_thresholds_that_are_no_one_or_two_numbers_are_one_line(capsys, thresholds):
    arguments = ["--prompt=a", "--drift", f"--drift_thresholds={thresholds}"]
    assert sample.main(["helios-jax sample", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
