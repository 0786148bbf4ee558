"""What differs between runs is said in the config's own words."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from pgsrm.config.compose import compose_words
from pgsrm.record import RunFolder
from pgsrm.record.config_file import config_text, read_config
from pgsrm.record.differences import differing, in_common, labels, words


def frozen(*overrides: str) -> dict[str, Any]:
    """The config of a run as its folder has it."""
    config, choices = compose_words(list(overrides), "the test")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {**{str(key): value for key, value in plain.items()}, "choices": choices}


def said(*runs: tuple[str, ...]) -> list[str]:
    """What is said of runs with these overrides."""
    return [words(parts) for parts in differing([frozen(*overrides) for overrides in runs])]


def test_a_varied_value_is_its_key_and_value() -> None:
    assert said(("reward.alpha=1",), ("reward.alpha=8",)) == ["reward.alpha=1", "reward.alpha=8"]
    assert said(("ppo.actor_lr=3e-5",), ("ppo.actor_lr=0.001",)) == ["ppo.actor_lr=3e-5", "ppo.actor_lr=0.001"]
    assert said(("task.data=/a/words.csv",), ("task.data=/b/other.csv",)) == [
        "task.data=words.csv",
        "task.data=other.csv",
    ]
    # The same file name in two folders takes the folder.
    assert said(("task.data=/x/a/words.csv",), ("task.data=/x/b/words.csv",)) == [
        "task.data=a/words.csv",
        "task.data=b/words.csv",
    ]
    ensemble, other = "reward.path=[/x/a,/x/b]", "reward.path=[/x/a,/x/c]"
    assert said(("reward=learned", ensemble), ("reward=learned", other)) == ["reward.path=[a,b]", "reward.path=[a,c]"]
    same = "reward.path=[/y/a,/y/b]"  # names alone do not tell these apart
    assert said(("reward=learned", ensemble), ("reward=learned", same)) != ["reward.path=[a,b]"] * 2


def test_a_choice_within_a_choice_is_named_where_it_was_made() -> None:
    """Wrong version: `critic.critic=null` of a run with another critic."""
    task = "task=sentiment_control"
    gold = "critic=gold critic@critic.critic=lexicon"
    assert said((task, "reward=sparse"), (task, "reward=critic", "critic=gold")) == [
        "reward=sparse critic=nano",
        f"reward=critic {gold}",
    ]
    critics = said((task, "reward=critic", "critic=nano"), (task, "reward=critic", "critic=gold"))
    assert critics == ["critic=nano", gold]


def test_a_choice_explains_the_values_below_it() -> None:
    """Else `ppo=sound` and `ppo=textbook` would differ in eleven values."""
    assert said(("ppo=sound",), ("ppo=textbook",)) == ["ppo=sound", "ppo=textbook"]
    assert said(("task=color",), ("task=antonym",)) == ["task=color", "task=antonym"]
    assert said(("reward=pgsrm",), ("reward=binary",)) == ["reward=pgsrm", "reward=binary"]
    assert said(("model=nano",), ("model=gpt2_small",)) == ["model=nano", "model=gpt2_small"]  # and its learning rates
    assert said(("ablation=none",), ("ablation=d5_dropout",)) == ["ablation=none", "ablation=d5_dropout"]
    assert said(("embedder=static",), ("embedder=openai",)) == [
        "embedder=static",
        "embedder=openai",
    ]  # the reward's too
    # The paper's batch and target of a task are the task's.
    paper = ("experiment=paper", "task=antonym"), ("experiment=paper", "task=category")
    assert said(*paper) == ["task=antonym", "task=category"]


def test_a_mixed_folder_keeps_every_word() -> None:
    """The key alpha was dropped for a hash where tasks, rewards and models differed as well."""
    runs = [
        ("task=color", "reward=pgsrm"),
        ("task=color", "reward=binary"),
        ("task=antonym", "reward=pgsrm", "reward.alpha=1", "seed=1"),
        ("task=antonym", "reward=pgsrm", "reward.alpha=8", "ppo=textbook"),
    ]
    assert said(*runs) == [
        "task=color reward=pgsrm ppo=sound reward.alpha=4 seed=0",
        "task=color reward=binary ppo=sound seed=0",
        "task=antonym reward=pgsrm ppo=sound reward.alpha=1 seed=1",
        "task=antonym reward=pgsrm ppo=textbook reward.alpha=8 seed=0",
    ]


def test_values_of_different_tasks_are_compared_where_no_task_sets_them() -> None:
    """Two single runs: alpha is not the task's, and so is the held-out share."""
    runs = ("task=color", "reward.alpha=1", "task.holdout=0.1"), ("task=antonym", "reward.alpha=8")
    assert said(*runs) == [
        "task=color task.holdout=0.1 reward.alpha=1",
        "task=antonym task.holdout=0.2 reward.alpha=8",
    ]


def test_what_decides_no_result_is_no_difference() -> None:
    runs = ("tracking=none", "threads=1", "paths.outputs=/x"), ("tracking=mlflow", "threads=2", "paths.outputs=/y")
    assert said(*runs) == ["", ""]


def test_long_texts_are_cut_where_they_differ_and_files_found_by_the_program_come_last() -> None:
    shared = "a long text that two templates have in common, word by word: "
    first, second = said((f"task.template='{shared}{{c1}} and {{c2}}'",), (f"task.template='{shared}{{c1}}, {{c2}}'",))
    assert len(first) < 70 and first.endswith('{c1} and {c2}"') and second.endswith('{c1}, {c2}"')
    a, b = frozen(), frozen()
    b["parent"] = {**b["parent"], "references": "/parents/new.jsonl"}
    assert differing([a, b]) == [{"parent.references": "null"}, {"parent.references": "new.jsonl"}]
    b["reward"] = {**b["reward"], "alpha": 2}
    assert differing([a, b]) == [{"reward.alpha": "4"}, {"reward.alpha": "2"}]


def test_keys_of_a_later_version_are_no_difference_and_a_key_of_ones_own_is() -> None:
    old, new, own = frozen(), frozen(), frozen()
    for name in ("a", "b", "c", "d"):
        new["ppo"] = {**new["ppo"], name: 1}
    assert differing([old, new]) == [{}, {}]
    own["reward"] = {**own["reward"], "weight": 3}
    assert differing([old, own]) == [{}, {"reward.weight": "3"}]


def test_secrets_are_masked() -> None:
    a, b = frozen(), frozen()
    a["reward"] = {**a["reward"], "api_key": "sk-1", "url": "http://me:pw@host/a"}
    b["reward"] = {**b["reward"], "api_key": "sk-2", "url": "http://me:pw@host/b"}
    assert differing([a, b]) == [{"reward.url": "http://***@host/a"}, {"reward.url": "http://***@host/b"}]


def test_the_seed_comes_last_or_not_at_all() -> None:
    runs = [frozen(f"seed={seed}", f"reward.alpha={alpha}") for alpha in (1, 2) for seed in (0, 1)]
    assert [words(parts) for parts in differing(runs)][1] == "reward.alpha=1 seed=1"
    assert [words(parts, ", ") for parts in differing(runs, seed=False)] == ["reward.alpha=1"] * 2 + [
        "reward.alpha=2"
    ] * 2
    assert in_common(runs)["model"] == "nano" and "seed" not in in_common(runs) and in_common(runs[:1])["seed"] == "0"


def write(root: Path, name: str, config: dict[str, Any] | None) -> RunFolder:
    folder = RunFolder(root / name)
    folder.create()
    if config is not None:
        folder.config.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def test_labels_of_folders(tmp_path: Path) -> None:
    a = write(tmp_path, "color-pgsrm-nano-sound-s0-0123abcd", frozen("reward.alpha=1"))
    b = write(tmp_path, "color-pgsrm-nano-sound-s0-4567abcd", frozen("reward.alpha=8"))
    again = write(tmp_path, "color-pgsrm-nano-sound-s0-89ababcd", frozen("reward.alpha=8"))
    lost = write(tmp_path, "antonym-pgsrm-nano-sound-s0-cdefabcd", None)
    assert labels([a]) == ["color-pgsrm-nano-sound-s0"]
    assert labels([a, b]) == ["reward.alpha=1", "reward.alpha=8"]
    assert labels([a, b, again, lost]) == [
        "reward.alpha=1",
        "reward.alpha=8 (color-pgsrm-nano-sound-s0-4567abcd)",
        "reward.alpha=8 (color-pgsrm-nano-sound-s0-89ababcd)",
        "antonym-pgsrm-nano-sound-s0-cdefabcd",
    ]


def test_a_config_is_read_block_by_block_as_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in (
        yaml.safe_dump(frozen("task=antonym"), sort_keys=False),
        config_text(frozen("task=color")).decode(),
        '{"a": {"b": 1}, "c": [1, 2]}',
        "a: &x {b: 1}\nc: *x\n",
        "a:\n- 1\n- 2\nb: |\n  x: 1\n\n  y\n",
        "a: 'one\n\n  two'\nb: 2\n",
        'a: "one\ntwo: 3"\nb: 2\n',
    ):
        path.write_text(text)
        assert read_config(path) == yaml.safe_load(text), text
    path.write_text("a: [1\nb: 2\n")
    assert read_config(path) == {}
    assert read_config(tmp_path / "none.yaml") == {}


TEXTS = [
    "1e-5",
    "+.5E3",
    "1_0e2",
    "1e",
    "on",
    "null",
    "~",
    "",
    " x ",
    "0x1F",
    "2020-01-01",
    "1:30",
    "a: b",
    "#x",
    "- x",
]
TEXTS += [
    "=",
    "<<",
    "\u00e9\u4e2d\U0001f600",
    "two\nlines\n",
    "a\tb",
    "\x07",
    "\u200b",
    "\\${seed}",
    "'\"",
    "!x",
    "&x",
    "*x",
]
TEXTS += ["word " * 40]


def test_a_config_is_written_with_its_values(tmp_path: Path) -> None:
    same = {"w": [1, 2]}  # at two places: an anchor and its alias would not be read block by block
    config = {f"text{i}": {"value": text, text: i} for i, text in enumerate(TEXTS)}
    config |= {"numbers": [1e-5, 1e22, 0.1, -3, math.inf, True, None], "none": {}, "empty": [], "a": same, "b": same}
    text = config_text(config)
    assert OmegaConf.to_container(OmegaConf.create(text.decode())) == config
    (tmp_path / "config.yaml").write_bytes(text)
    assert read_config(tmp_path / "config.yaml") == config
    assert b"&" not in text.partition(b"numbers:")[2]
    half = {"path": "/tmp/\udcff"}  # a folder's name that is not UTF-8
    assert OmegaConf.create(config_text(half).decode()) == half
    usual = frozen("task=antonym", "model=smollm2")
    assert config_text(usual).decode() == OmegaConf.to_yaml(OmegaConf.create(usual))


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, pgsrm.record.differences; print({'torch', 'numpy', 'pandas', 'hydra'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_labels_get_shorter_before_they_are_cut(tmp_path: Path) -> None:
    runs = [
        write(tmp_path, f"run-{task}-{alpha}", frozen(f"task={task}", f"reward.alpha={alpha}"))
        for task in ("color", "antonym")
        for alpha in (1, 8)
    ]
    assert labels(runs)[-1] == "task=antonym reward.alpha=8"
    assert labels(runs, 27)[-1] == "task=antonym reward.alpha=8"
    assert labels(runs, 26)[-1] == "task=antonym alpha=8"
    assert labels(runs, 19)[-1] == "antonym alpha=8"
