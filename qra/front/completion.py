"""Shell completion scripts for ``qra``, generated from the source so that they know every option."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qra.front import shipped
from qra.front.help import COMMANDS
from qra.front.options import RUNS, commands, run_options
from qra.front.signatures import first_sentence
from qra.front.tool_arguments import PARSERS, commands_of


def _names(*folders: str) -> str:
    """Return the names of the configs in some folders, separated by spaces."""
    return " ".join(name for name in shipped.configs() if name.partition("/")[0] in folders)


def _nested() -> Mapping[str, Sequence[str]]:
    """Return the commands that have subcommands, with these."""
    below = {name: list(commands_of(make())) for name, make in PARSERS.items()}
    return {name: words for name, words in below.items() if words}


def bash() -> str:
    """Return the script for bash. Where it offers nothing, for example after an option for a file, it offers files."""
    folders_of = shipped.FOLDERS.items()
    values = "\n".join(f"    *.{key}|--{key}) words='{_names(*folders)}' ;;" for key, folders in folders_of)
    options = "\n".join(f"    '{name}') words='{' '.join(words)}' ;;" for name, words in commands().items())
    nested = "\n".join(f"    '{name} {name}') words='{' '.join(below)}' ;;" for name, below in _nested().items())
    folders = " ".join(dict.fromkeys(name.partition("/")[0] for name in shipped.configs()))
    return f"""\
_qra() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=''
  local command="${{COMP_WORDS[1]}}"
  case "$command" in {"|".join(_nested())}) [ "$COMP_CWORD" -gt 2 ] && command="$command ${{COMP_WORDS[2]}}" ;; esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='{" ".join(COMMANDS)} --help --version'
  else case "$word" in
    -*) case "$command" in
{options}
    esac ;;
    *) case "$command $before" in
{nested}
    'study '*' list'|'study '*' status'|'study '*' run') words='{_names("study")}' ;;
    'completion '*) words='bash zsh fish' ;;
    'configs '*) words='{folders}' ;;
    *) case "$before" in
{values}
    esac ;;
    esac ;;
  esac; fi
  COMPREPLY=( $(compgen -W "$words" -- "$word") )
}}
complete -o default -F _qra qra"""


def zsh() -> str:
    """Return the script for zsh, which runs bash's completion."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash()}"


def fish() -> str:
    """Return the script for fish."""
    lines = ["complete -c qra -e", "complete -c qra -n __fish_use_subcommand -f -l help", *(
        f"complete -c qra -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}" for name, text in COMMANDS.items()
    ), "complete -c qra -n __fish_use_subcommand -f -l version"]  # fmt: skip
    for name, options in commands().items():
        texts = {o.name: first_sentence(o.text) for o in run_options(name)} if name in RUNS else {}
        seen = " ; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        if above := [outer for outer, below in _nested().items() if name in below]:  # also a subcommand of another
            seen += f" ; and not __fish_seen_subcommand_from {' '.join(above)}"
        for option in options:
            line = f"complete -c qra -n {_quoted(seen)} -l {option.removeprefix('--')}"
            if names := _names(*shipped.FOLDERS.get(option.removeprefix("--").rpartition(".")[2], ())):
                line += f" -r -F -a {_quoted(names)}"
            elif option not in ("--help", "--print_config"):
                line += " -r"
            lines.append(line + (f" -d {_quoted(texts[option][:80])}" if texts.get(option) else ""))
    for name, below in _nested().items():
        within = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(below)}"
        lines += [f"complete -c qra -n '{within}' -f -a {word}" for word in below]
    lines.append(f"complete -c qra -n '__fish_seen_subcommand_from list status run' -a {_quoted(_names('study'))}")
    lines.append("complete -c qra -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SCRIPTS: Mapping[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
