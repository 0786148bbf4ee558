"""What runs are called: by what was varied, in the config's words; and found by what they are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from analysis_runs import write_run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pgsrm.analysis.frames import describe
from pgsrm.analysis.runs import read_run
from pgsrm.config.compose import plan_words
from pgsrm.config.naming import Folders, label, model_of, run_name, without_asking, words_of
from pgsrm.record import RunFolder
from pgsrm.record.differences import differing
from pgsrm.record.model_name import model_name, path_name, reward_name
from pgsrm.record.params import run_params

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
    assert words_of([parsed("reward.path=[/tmp/a/judge,org/hub/,c]")]) == [["path=_judge_hub_c_"]]
    runs = [parsed("embedder=static"), parsed("embedder=sentence_transformer", "ppo.actor_lr=2e-5")]
    assert words_of(runs) == [["embedder=static"], ["embedder=sentence_transformer", "actor_lr=2e-5"]]
    runs = [parsed(f"ppo.actor_lr={rate}") for rate in ("1e-05", "3e-05", "2e-05")]  # as Hydra splits 1e-5,3e-5,2e-5
    assert words_of(runs) == [["actor_lr=1e-5"], ["actor_lr=3e-5"], ["actor_lr=2e-5"]]
    runs = [parsed(f"seed={seed}", "threads=2", "checkpoint.minutes=1", f"reward={reward}")
            for seed in (0, 1) for reward in ("pgsrm", "binary")]  # fmt: skip
    assert words_of(runs) == [[], [], [], []]
    runs = [parsed("embedder.path=a", "task.text=x", "evaluation.every=2"), parsed("embedder.path=b", "parent.path=c")]
    assert words_of(runs)[0] == ["embedder.path=a", "text=x"]  # two keys of one last word are written out


def test_values_that_begin_alike_are_told_apart() -> None:
    """Wrong version: cut to the same letters, they counted as one value, and two runs of a sweep had one name."""
    checkers = [parsed(f"+task.checker={{_target_: my.checks.{name}, _partial_: true}}") for name in ("exact", "first")]
    assert words_of(checkers) == [["checker=exact"], ["checker=first"]]
    begin = "Say in one word what the opposite of"
    templates = [parsed(f"task.template='{begin} {{word}} is {end}'") for end in ("now", "here")]
    assert words_of(templates) == [["template=word_is_now"], ["template=word_is_here"]]
    assert words_of(templates[:1]) == [["template=Say_in_one_word_what_the"]]


def test_no_secret_is_in_a_name() -> None:
    (words,) = words_of([parsed("reward.embedder.api_key=sk-1234", "task.max_new_tokens=3", "parent.password=x")])
    assert words == ["max_new_tokens=3"]


def test_what_decides_no_answer_is_in_no_name() -> None:
    """Wrong version: the name keeps `max_cost=1` when the limit is raised and the run resumes."""
    critic, embedder = "pgsrm.critic.RemoteCritic", "pgsrm.embedder.OpenAIEmbeddings"
    parts = {"mild": {"_target_": "pgsrm.reward.ModerationReward"}, "own": {"_target_": "mine.Reward"}}
    config = OmegaConf.create(
        {
            "critic": {"_target_": critic},
            "embedder": {"_target_": embedder},
            "reward": {"_target_": "pgsrm.reward.SumReward", "critic": "${critic}", "parts": parts},
            "task": {"extrinsic": parts["mild"]},
            "parent": {},
        }
    )
    ours = ["critic.max_cost=1", "critic.cache=/tmp/x", "embedder.retries=9", "parent.timeout=3"]
    ours += [
        "reward.critic.max_cost=2",
        "reward.parts.mild.max_calls=9",
        "task.extrinsic.timeout=3",
        "+reward.critic.backoff=1",
    ]
    own = ["reward.retries=2", "reward.parts.own.cache=/tmp/y", "+reward.parts.mild.label=civil"]
    assert without_asking(parsed(*ours), lambda: config) == []
    config.reward._target_ = "mine.Reward"  # a reward of a user's own may do otherwise by it
    assert words_of([without_asking(parsed(*own, *ours), lambda: config)]) == [["retries=2", "cache=y", "label=civil"]]
    assert len(without_asking(parsed("seed=1", "reward.alpha=2"), lambda: pytest.fail("composed for nothing"))) == 2


def test_a_server_is_named_by_its_host() -> None:
    urls = ("http://localhost:8000/v1", "https://me:secret@host.org/api/v1")
    assert words_of([parsed(f"critic.base_url={url}") for url in urls]) == [
        ["base_url=localhost_8000"],
        ["base_url=host.org"],
    ]


def test_what_is_no_server_is_named_as_a_path() -> None:
    """Wrong version: the whole of a list of URLs with the password in it, a bucket for a model in it, a traceback."""
    words = [
        "reward.path='s3://bucket/models/a'",
        "reward.path='[http://me:secret@a/v1,http://b/v2]'",
        "reward.model='http://[x'",
    ]
    named = [words_of([parsed(word), parsed("seed=1")])[0] for word in words]
    assert named == [["path=a"], ["path=_v1_v2_"], ["model=_x"]]


def test_how_a_server_is_asked_makes_no_other_setting() -> None:
    """Wrong version: two seeds of one identity, the second with a raised limit, are two curves of one seed each."""

    def config(seed: int, **asked: Any) -> dict[str, Any]:
        critic = {"_target_": "pgsrm.critic.RemoteCritic", "model": "m", "max_cost": None, "cache": None, **asked}
        reward = {"_target_": "pgsrm.reward.CriticReward", "critic": critic}
        return {"seed": seed, "critic": critic, "reward": reward, "parent": {"retries": 6, **asked}}

    assert differing([config(0), config(1, max_cost=2.0, cache="/tmp/x")]) == [{"seed": "0"}, {"seed": "1"}]
    assert differing([config(0), config(0, model="n")])[1]["critic.model"] == '"n"'.strip('"')
    own = [{"seed": 0, "critic": {"_target_": "mine.Critic", "cache": cache}} for cache in ("a", "b")]
    assert differing(own) == [{"critic.cache": "a"}, {"critic.cache": "b"}]


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


def test_a_run_says_which_model_it_trains(small: Sequence[str], tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Wrong version: by the choice of the group, which an override or a file of one's own may have left."""
    tiny, rest = small[0].partition("=")[2], small[1:]
    runs = [plan_words(*rest, *words) for words in (["model=hf", small[0]], ["model=gpt2_large", small[0]], [])]
    assert [run.folder.name.split("-")[2] for run in runs] == ["gpt2", "gpt2", "nano"]
    assert plan_words(*rest, "model=gpt2_large", "model.path=null").folder.name.split("-")[2] == "nano"
    assert [run.label.partition(", ")[2].split()[0] for run in runs] == ["gpt2", "gpt2", "nano"]
    configs = [run.config for run in runs]
    assert [model_name(config) for config in configs] == ["gpt2", "gpt2", "nano"]
    assert differing([configs[0], configs[2]])[0]["model"] == "gpt2" and run_params(configs[1])["model"] == "gpt2"
    assert describe(configs[0])["model"] == "gpt2" and describe(configs[0])["model.path"] == tiny
    assert "model.path" not in differing([configs[0], configs[2]])[0]  # the name says it
    (tmp_path / "experiment").mkdir()  # a file that sets the path is no override
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\nmodel:\n  path: {tiny}\n")
    mine = plan_words(*rest, f"--config-dir={tmp_path}", "experiment=mine")
    assert mine.folder.name.split("-")[2] == "gpt2"
    (tmp_path / "model").mkdir()  # a choice of one's own is called as its file is, until another path is given
    (tmp_path / "model/own.yaml").write_text(f"path: {tiny}\n")
    own = [f"--config-dir={tmp_path}", "model=own"]
    assert plan_words(*rest, *own).folder.name.split("-")[2] == "own"
    other = f"model.path={model_folders['llama']}"
    assert plan_words(*rest, *own, other).folder.name.split("-")[2] == "llama"


@pytest.mark.parametrize(
    ("choice", "target", "name"),
    [
        ("pgsrm", "pgsrm.reward.SemanticReward", "pgsrm"),
        ("sparse", "pgsrm.reward.CriticReward", "sparse"),
        ("binary", "pgsrm.reward.RougeReward", "RougeReward"),
        ("binary", "my_rewards.brevity", "brevity"),
        ("mine", "my_rewards.brevity", "mine"),  # a file of the user's own is called as it is
        (None, "my_rewards.brevity", "brevity"),
        ("pgsrm", "pgsrm.reward.OfAnEarlierVersion", "pgsrm"),
        ("pgsrm", None, "pgsrm"),
        (None, None, "custom"),
    ],
)
def test_a_reward_is_called_by_its_choice_unless_it_is_another(
    choice: str | None, target: str | None, name: str
) -> None:
    config = {"choices": {"reward": choice} if choice else {}, "reward": {"_target_": target} if target else {}}
    assert reward_name(config) == name


@pytest.mark.parametrize(
    "words",
    [
        ["reward._target_=short_answers.brevity", "+reward._partial_=true"],
        ["reward=binary", "reward._target_=short_answers.brevity", "+reward._partial_=true"],
        ["~reward", "+reward._target_=short_answers.brevity", "+reward._partial_=true"],
    ],
)
def test_a_reward_named_by_its_target_counts_as_no_other_reward(
    words: list[str], small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: a function of one's own was a row "Binary" or "PGSRM" of the tables, or left out of them."""
    (tmp_path / "short_answers.py").write_text("def brevity(*, responses, **_):\n    return [0.0 for _ in responses]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    planned = plan_words(*small, "task=antonym", *words)
    assert planned.folder.name.split("-")[:2] == ["antonym", "brevity"]
    assert planned.label.split(",")[0].split()[-2] == "brevity"
    assert describe(planned.config)["reward"] == run_params(planned.config)["reward"] == "brevity"
    folder = write_run(tmp_path / "runs")
    (folder / "config.yaml").write_text(yaml.safe_dump(planned.config))
    run, notes = read_run(folder, ["reward/mean"])
    assert notes == [] and run is not None and run.reward == "brevity"


def test_the_paper_s_model_is_the_task_s() -> None:
    table = {"gpt2": {"model": "gpt2"}, "gpt2-large": {"model": "gpt2-large"}}
    for path, paper in table.items():
        config = {"choices": {"model": "paper"}, "model": {"path": path}, "task": {"paper": paper}}
        assert model_name(config) == "paper"
    config = {"choices": {"model": "paper"}, "model": {"path": "org/mine"}, "task": {"paper": table["gpt2"]}}
    assert model_name(config) == "mine"
    assert model_name({"choices": {"model": "paper"}, "model": {"path": "gpt2"}, "task": {}}) == "paper"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("/data/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
        ("outputs/runs/color-pgsrm-nano-sound-s0-1a2b3c4d/model", "color-pgsrm-nano-sound-s0-1a2b3c4d"),
        ("outputs/runs/color-pgsrm-nano-sound-s0-1a2b3c4d/best", "best_color-pgsrm-nano-sound-s0-1a2b3c4d"),
        ("model", "model"),
        ("best", "best"),
        ("../my model/", "my_model"),
        ("/", "_"),
    ],
)
def test_a_model_is_called_by_the_part_of_its_path_that_says_something(path: str, name: str) -> None:
    assert path_name(path) == name
