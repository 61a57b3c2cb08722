"""Print what makes a shell complete the commands of helios-jax and their flags.

  eval "$(helios-jax completion bash)"       # in ~/.bashrc
  eval "$(helios-jax completion zsh)"        # in ~/.zshrc
  helios-jax completion fish > ~/.config/fish/completions/helios-jax.fish

It takes a second or two, for every command is asked for its flags: keep what it prints in a file
where that is too long for a shell's start.
"""

import sys
from collections.abc import Mapping, Sequence

from helios_jax.commands.cli import complain, wants_help
from helios_jax.commands.flag_lists import all_flag_names


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script of the shell that is named."""
    program, *words = list(sys.argv if argv is None else argv)
    if not words or wants_help([program, *words]):
        print((__doc__ or "").strip())
        return 0
    if words[0] not in SCRIPTS:
        complain(f"{words[0]!r} is no shell that is known: {', '.join(SCRIPTS)}", program)
        return 2
    print(SCRIPTS[words[0]](all_flag_names()))
    return 0


def bash(words: Mapping[str, Sequence[str]]) -> str:
    """Completion for bash."""
    cases = [f'    {name}) words="{" ".join(found)}" ;;' for name, found in words.items()]
    lines = [
        "_helios_jax() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" words=""',
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$current"))',
        "    return",
        "  fi",
        '  case "${COMP_WORDS[1]}" in',
        *cases,
        "  esac",
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _helios_jax helios-jax",
    ]
    return "\n".join(lines)


def zsh(words: Mapping[str, Sequence[str]]) -> str:
    """Completion for zsh, which reads bash's."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash(words)}"


def fish(words: Mapping[str, Sequence[str]]) -> str:
    """Completion for fish."""
    lines = [f'complete -c helios-jax -n __fish_use_subcommand -f -a "{" ".join(words)}"']
    for name, found in words.items():
        seen = f'complete -c helios-jax -n "__fish_seen_subcommand_from {name}"'
        for word in found:
            flag = word.startswith("--")
            lines.append(f"{seen} -l {word[2:]}" if flag else f"{seen} -a {word}")
    return "\n".join(lines)


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
"""What is printed for each shell."""
