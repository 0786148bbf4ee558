"""`pgsrm completion`: what makes a shell complete commands, config groups with their choices, and keys with their values.

Hydra brings completion of its own. It is for a script that Hydra's decorator starts, and composes a config at each tab, which
takes a second. Here choices are read from the folders and keys from the typed settings.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgsrm.__main__ import COMMANDS

# Commands whose words are those of a run: group=choice, key=value.
COMPOSING = ("run", "parent", "embedder", "reward", "critic", "evaluation", "algorithm", "reward_model")
BASH = r"""
# Completion of pgsrm in bash: eval "$(pgsrm completion bash)"
_pgsrm() {
    # as the bash of macOS, 3.2, has it too
    local line="${COMP_LINE:0:COMP_POINT}" word candidates IFS=$'\n'
    word="${line##*[[:space:]]}"
    candidates=($("$1" completion --line "$line" 2>/dev/null))
    if [[ "${candidates[0]}" == *[=.] || "${#candidates[@]}" == 1 && "${candidates[0]}" == *[=./] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    # bash completes from the last of these characters on
    local kept="${word%"${word##*[=:]}"}"
    COMPREPLY=("${candidates[@]#"$kept"}")
}
complete -o default -F _pgsrm pgsrm
"""
ZSH = r"""
# Completion of pgsrm in zsh: eval "$(pgsrm completion zsh)"
_pgsrm() {
    local -a candidates going_on
    candidates=("${(@f)$("${words[1]}" completion --line "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    candidates=("${(@)candidates:#}")
    if (( ${#candidates} == 0 )); then
        compset -P '*='
        _files
        return
    fi
    going_on=("${(@M)candidates:#*[=./]}")
    candidates=("${(@)candidates:#*[=./]}")
    compadd -Q -S '' -a going_on
    compadd -Q -a candidates
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _pgsrm pgsrm
"""
FISH = r"""
# Completion of pgsrm in fish: pgsrm completion fish | source
function __pgsrm_candidates
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l candidates ($words[1] completion --line (string join ' ' -- $words "$word") 2>/dev/null)
    if set -q candidates[1]
        string join \n -- $candidates
        return
    end
    set -l key (string match -r '^[^=]*=' -- "$word")
    set -l value (string replace -r '^[^=]*=' '' -- "$word")
    for path in (__fish_complete_path "$value")
        printf '%s\n' "$key$path"
    end
end
complete -c pgsrm -f -a '(__pgsrm_candidates)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def complete(line: str) -> list[str]:
    """What the last word of a command line may be, `pgsrm` being its first word; the word is empty after a blank.

    Nothing where only the shell can help, as with file names.
    """
    words = line.split()
    word = "" if not words or line[-1:].isspace() else words.pop()
    if not words[1:]:
        return [name for name in COMMANDS if name.startswith(word)]
    if words[1] not in COMPOSING:
        return []
    if word.startswith("-"):
        options = ("-m", "--config-dir", "--cfg", "--help") if words[1] == "run" else ("--config-dir", "--help")
        return [option for option in options if option.startswith(word)]
    others = [each for each in words[2:] if not each.startswith(("-m", "--multirun"))]
    return sorted({each for each in _overrides(word, others) if each.startswith(word)})


def _overrides(word: str, words: Sequence[str]) -> Iterator[str]:
    from pgsrm.config.command_line import group_choices

    choices = group_choices(words)
    key, equals, values = word.partition("=")
    if equals:
        before, comma, _ = values.rpartition(",")
        for value in choices.get(key.partition("@")[0]) or _values(key, words):
            yield f"{key}={before}{comma}{value}"
        return
    section, dot, _ = key.rpartition(".")
    if dot:
        for name, holds_more in _keys(section, words, choices):
            yield f"{section}.{name}" + ("." if holds_more else "=")
        return
    yield from (f"{group}=" for group in choices)
    yield from (name + ("." if holds_more else "=") for name, holds_more in _keys("", words, choices))


def _plain(words: Sequence[str]) -> dict[str, Any]:
    """Of the words, what decides which keys a section has."""
    chosen = [word.partition("=")[2] for word in words if word.startswith("algorithm=")]
    return {"algorithm": {"name": chosen[-1]}} if chosen else {}


def _values(key: str, words: Sequence[str]) -> list[str]:
    """The values that a key of the settings allows, where it says them."""
    from pgsrm.config.schema import Settings, annotation_at, options_of

    annotation = annotation_at(Settings, key, _plain(words))
    return ["true", "false"] if annotation is bool else options_of(annotation)


def _keys(section: str, words: Sequence[str], choices: dict[str, list[str]]) -> Iterator[tuple[str, bool]]:
    """The keys of a section, and whether each is a section itself: by the settings, or by the files of a group."""
    from pgsrm.config.schema import Settings, annotation_at, struct_of

    struct = struct_of(annotation_at(Settings, section, _plain(words)), _plain(words).get(section))
    if struct is not None:
        for name in struct.__struct_fields__:
            below = annotation_at(struct, name, {})
            is_group = not section and name in choices  # of which it is also a section: reward.alpha
            yield name, is_group or struct_of(below, {}) is not None
        return
    group = section.replace(".", "/")
    named = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    for choice in named[-1].split(",") if named else choices.get(group, ()):
        yield from _keys_in_file(group, choice, words)


def _keys_in_file(group: str, choice: str, words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The keys of the file of a choice, and of those that it builds on."""
    import yaml

    from pgsrm.config.command_line import config_folders

    for folder in config_folders(words):
        file = Path(folder) / group / f"{choice}.yaml"
        if not file.is_file():
            continue
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for name, value in content.items():
            if name == "defaults":
                for base in value:
                    if isinstance(base, str) and base != "_self_":
                        yield from _keys_in_file(group, base, words)
            elif not str(name).startswith("_"):
                yield str(name), isinstance(value, dict)


def main() -> None:
    """The command line."""
    from pgsrm.util.errors import UserError

    parser = argparse.ArgumentParser(
        prog="pgsrm completion",
        description='Completion in a shell. In bash and zsh: eval "$(pgsrm completion SHELL)", in ~/.bashrc or ~/.zshrc. '
        "In fish: pgsrm completion fish | source, in ~/.config/fish/config.fish.",
    )
    parser.add_argument(
        "shell",
        nargs="?",
        choices=SCRIPTS,
        default="bash",
        metavar="SHELL",
        help=f"{', '.join(SCRIPTS)} (default: bash)",
    )
    parser.add_argument("--line", help="print what the last word of this command line may be instead")
    options = parser.parse_args()
    if options.line is None:
        print(SCRIPTS[options.shell].strip())
        return
    try:
        for candidate in complete(options.line):
            print(candidate)
    except UserError as error:  # a --config-dir that is not there
        parser.exit(2, f"pgsrm: {error}\n")


if __name__ == "__main__":
    main()
