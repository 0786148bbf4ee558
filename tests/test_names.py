"""What runs are called: by what was varied, in the config's words; and found by what they are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from pgsrm.config.naming import Folders, label, model_of, run_name, words_of
from pgsrm.record import RunFolder

IDENTITY = "1a2b3c4d" + "0" * 56


def parsed(*words: str) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(words))


def test_a_sweep_is_named_by_what_differs() -> None:
    common = ["task=antonym", "ppo.episodes=500", "paths.outputs=/tmp/x", "tracking=none", "seed=0"]
    runs = [parsed(*common, f"reward.alpha={alpha}") for alpha in ("1", "8")]
    assert words_of(runs) == [["alpha=1"], ["alpha=8"]]
    assert words_of(runs[:1]) == [["episodes=500", "alpha=1"]]  # a single run: what was set
    runs = [parsed("task=a", f"task.data='{data}'") for data in ("data/my words.csv", "~/b.csv")]
    assert words_of(runs) == [["data=my_words.csv"], ["data=b.csv"]]
    runs = [parsed("embedder=static"), parsed("embedder=sentence_transformer", "ppo.actor_lr=2e-5")]
    assert words_of(runs) == [["embedder=static"], ["embedder=sentence_transformer", "actor_lr=2e-5"]]
    runs = [parsed(f"seed={seed}", "threads=2", "checkpoint.minutes=1", f"reward={reward}")
            for seed in (0, 1) for reward in ("pgsrm", "binary")]  # fmt: skip
    assert words_of(runs) == [[], [], [], []]
    runs = [parsed("embedder.path=a", "task.text=x", "evaluation.every=2"), parsed("embedder.path=b", "parent.path=c")]
    assert words_of(runs)[0] == ["embedder.path=a", "text=x"]  # two keys of one last word are written out


def test_no_secret_is_in_a_name() -> None:
    (words,) = words_of([parsed("reward.embedder.api_key=sk-1234", "task.max_new_tokens=3", "parent.password=x")])
    assert words == ["max_new_tokens=3"]


def test_names_are_safe_in_a_shell_and_bounded() -> None:
    parts = ("antonym", "pgsrm", "nano", "sound")
    assert run_name(parts, ["alpha=8"], 0, IDENTITY) == "antonym-pgsrm-nano-sound-alpha=8-s0-1a2b3c4d"
    (words,) = words_of([parsed(*(f"reward.k{n}='a b;$(x) é{n}'" for n in range(30)))])
    name = run_name(["my task", *parts[1:]], words, 3, IDENTITY)
    assert len(name.encode()) < 200 and name.startswith("my_task-pgsrm-nano-sound-k0=a_b_x_é0-")
    assert not set(name) & set(" ;$()'\"/?*&|<>#")


def test_a_model_of_ones_own_is_named_instead_of_the_chosen_one() -> None:
    assert model_of(parsed("model=gpt2_small", "model.path=models/tiny_llama/")) == "tiny_llama"
    assert model_of(parsed("model=gpt2_small")) is None and model_of(parsed("model.path=null")) is None


def test_a_narrow_column_shows_first_what_differs() -> None:
    choices = {"task": "antonym", "reward": "pgsrm", "model": "nano", "ppo": "sound"}
    assert label(choices, ["alpha=8"], 1) == "alpha=8 antonym pgsrm s1, nano sound"


def test_a_run_is_found_whatever_its_folder_is_called(tmp_path: Path) -> None:
    """As those of an earlier version, or of a sweep over other keys."""
    old = RunFolder(tmp_path / "color-pgsrm-nano-sound-s0-1a2b3c4d")
    old.create()
    old.write_status(state="finished", identity=IDENTITY)
    name = "color-pgsrm-nano-sound-alpha=8-s0-1a2b3c4d"
    assert Folders().find(tmp_path, name, IDENTITY).path == old.path
    other = IDENTITY[:-1] + "1"  # the same beginning
    assert Folders().find(tmp_path, name, other).name == name
    assert Folders().find(tmp_path / "none", name, IDENTITY).path == tmp_path / "none" / name


def test_a_sweeps_names_on_the_command_line(call_cli: Callable[..., Any], small: Sequence[str]) -> None:
    result = call_cli("-m", *small, "task=antonym", "reward.alpha=1,8", "dry_run=true")
    names = [line.split()[1].rpartition("-")[0] for line in result.out.splitlines()[1:-1]]
    assert names == [f"antonym-pgsrm-gpt2-sound-alpha={alpha}-s0" for alpha in (1, 8)], result.err
