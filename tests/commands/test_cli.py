"""What all commands share."""

from helios_jax.commands.cli import run_command
from helios_jax.models.tokenizer import toy_tokenizer


def test_a_prompt_that_is_cut_is_one_line_in_the_commands_name(capsys):
    def encode(options):
        toy_tokenizer(300)(["a red ball rolls over green grass"], 5)

    assert run_command("", lambda options, argv: None, encode, ["helios-jax encode"]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("helios-jax encode: the prompt 'a red ball rolls over green grass'...")
