"""The report's first screen, and rewards per token."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from analysis_runs import ramp, write_run
from omegaconf import OmegaConf
from test_analysis_report import make_report, sample
from test_differences import frozen

from pgsrm.analysis.commands import (
    _of_no_machine,
    missing,
    more_seeds,
    own_choices,
    run_command,
    without_tracking,
)
from pgsrm.analysis.comparison import comparisons
from pgsrm.analysis.overview import before_and_after, overview
from pgsrm.analysis.results import COLUMNS
from pgsrm.analysis.runs import Run
from pgsrm.analysis.samples import pieces
from pgsrm.analysis.variants import Variant, load_variants
from pgsrm.config.compose import plan_words


def real_runs(root: Path, *runs: tuple[str, ...]) -> list[Variant]:
    """Variants of runs whose configs are composed with these overrides."""
    for number, overrides in enumerate(runs):
        config = frozen(*overrides)
        choices = config["choices"]
        folder = write_run(root / str(number), choices["task"], choices["reward"], config["seed"], exact=(0.2, 0.6))
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    return load_variants([root], COLUMNS)[0]


def test_the_command_for_more_seeds_is_the_one_that_was_typed(tmp_path: Path) -> None:
    typed = ("task.holdout=0.25", "ppo.episodes=3000")
    rewards = ("pgsrm", "binary")
    variants = real_runs(
        tmp_path, *((f"task={t}", f"reward={r}", *typed) for t in ("color", "antonym") for r in rewards)
    )
    assert more_seeds(variants) == [
        "python -m pgsrm.run -m task=color,antonym task.holdout=0.25 reward=pgsrm,binary ppo.episodes=3000 seed=0,1,2"
    ]


def test_the_glossary_names_every_exponent_at_hand(tmp_path: Path) -> None:
    """Wrong version: that of the first run, for all of a sweep over it."""
    one = real_runs(tmp_path / "one", ("reward=pgsrm",))
    assert "raised to the power α = 4. " in dict(overview(one).glossary)["reward=pgsrm"]
    several = real_runs(tmp_path / "several", *(("reward=pgsrm", f"reward.alpha={alpha}") for alpha in (1, 8)))
    assert "raised to the powers α = 1, 8. " in dict(overview(several).glossary)["reward=pgsrm"]


def test_runs_that_are_no_product_have_a_command_each(tmp_path: Path) -> None:
    variants = real_runs(
        tmp_path,
        ("task=color", "reward=pgsrm", "reward.alpha=8", "seed=1"),
        ("task=antonym", "reward=binary", "seed=1"),
    )
    assert set(more_seeds(variants)) == {
        "python -m pgsrm.run -m task=color reward=pgsrm reward.alpha=8 seed=0,1,2",
        "python -m pgsrm.run -m task=antonym reward=binary seed=0,1,2",
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.lora={}",),  # of a key whose default is null
        ("model.lora={rank: 4, targets: [c_attn, 'a b']}",),
        (r"task.skip=[hot, 'it\'s']",),
        ("ppo.clip_range=0.2", "ppo.top_k=5", "model.path=null"),
        ("reward=text_metric", "++reward.epsilon=0.25"),
        ("evaluation.measures={m: {_target_: pgsrm.reward.LengthReward, words: 3, note: null, on: true}}",),
        ("critic=gold",),
        (
            "reward=sum",
            "+reward@reward.parts.near=text_metric",
            "+reward@reward.parts.critic=pgsrm",
            "reward.parts.near.scale=2",
        ),
        ("critic=lexicon", "embedder@evaluation.embedder=static"),
        ("task=sentiment_control", "reward=critic", "critic=lexicon", "+task.critic.values.neutral=0.1"),
        (
            "task=sentiment_control",
            "reward=critic",
            "critic=lexicon",
            "+task.critic.values.neutral=0.1",
            "reward.values={positive: 1.0, other: 0.5}",
        ),
        ("task=sentiment_control", "+task.measures.long={_target_: pgsrm.reward.LengthReward, words: 3}"),
        ("task=detox", "evaluation.measures={long: {_target_: pgsrm.reward.LengthReward, words: 3}}"),
        ("task=sentiment_control", "reward=critic", "critic=lexicon", "task.critic.values.positive=0.3"),
        ("task=sentiment_control", "reward=critic", "critic=nano", "critic.path=mine"),
        ("reward=pgsrm", "embedder=openai", "embedder.model=mine"),
        ("reward=pgsrm", "embedder=openai", "reward.embedder={_target_: pgsrm.embedder.StaticEmbedder, path: x}"),
        ("task=detox", "reward=sum", "task.extrinsic.model=mine"),
    ],
)
def test_a_command_composes_to_the_runs_config(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Wrong version: mappings and lists are left out."""
    (variant,) = real_runs(tmp_path, overrides)
    for command, begin in ((run_command(variant.runs[0]), 3), (more_seeds([variant])[0].replace("=0,1,2", "=0"), 4)):
        assert frozen(*shlex.split(command)[begin:]) == frozen(*overrides)


def test_a_command_says_no_secret(tmp_path: Path) -> None:
    given = "evaluation.measures={m: {_target_: a.B, api_key: abc123, max_tokens: 5}}", "++reward.api_key=abc123"
    (variant,) = real_runs(tmp_path, given)
    assert "abc123" not in run_command(variant.runs[0]) and "max_tokens: 5" in run_command(variant.runs[0])


def test_the_command_of_a_run_with_choices_of_ones_own(
    small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong versions: it has the choices alone, or not a text that the command changed, and makes another run."""
    (tmp_path / "own.py").write_text(
        "class Mine:\n"
        "    def __init__(self, weight, note, embedder, checker, name):\n"
        "        self.embedder = embedder\n"
        "    def __call__(self, *, responses, **_):\n"
        "        return [0.0] * len(responses)\n"
    )
    for group, text in {
        "reward": "_target_: own.Mine\nweight: 2\nnote: [a]\nname: b\n"
        "embedder: ${embedder}\nchecker: ${task.checker}\n",
        "task": "defaults: [color, _self_]\ntemplate: 'Mix {c1} and {c2}: '\nmax_new_tokens: 3\n",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    place = f"--config-dir={tmp_path / 'conf'}"
    words = ["task=mine", "task.max_new_tokens=4", "reward=mine", "reward.weight=3", "model.lora={rank: 4}"]
    monkeypatch.syspath_prepend(tmp_path)
    planned = plan_words(place, *small, *words, "ppo.entropy_coef=0.01")
    run = Run(planned.folder.path, planned.config, {}, {})
    typed = shlex.split(run_command(run))[3:]
    assert {"task=mine", "task.max_new_tokens=4", "reward=mine", "reward.weight=3"} <= set(typed)
    assert "ppo.episodes=16" in typed and "ppo.entropy_coef=0.01" in typed
    assert not [word for word in typed if word.startswith(("reward.embedder", "reward.checker"))]
    assert missing(run).startswith("reward=mine and task=mine: not at hand, or not readable.")

    def identity(*words: str) -> str:
        return plan_words(*words, small[0], f"paths.outputs={tmp_path / 'again'}", "tracking=none").identity

    assert identity(place, *typed) == planned.identity
    texts = ["reward.name=x", "task.template='{c1}, {c2}: '", "reward.note=[b,c]"]
    planned = plan_words(place, *small, *words, *texts)
    run = Run(planned.folder.path, planned.config, {"config_dir": planned.config_dir}, {})
    typed = shlex.split(run_command(run))[3:]
    assert missing(run) == "" and set(texts) <= set(typed) and "--config-dir=./conf" in typed
    assert not [word for word in typed if word.startswith(("reward.embedder", "reward.checker", "task.checker"))]
    assert identity(place, *[word for word in typed if not word.startswith("--")]) == planned.identity
    variant = Variant("mine", "mine", (), (run,), ())
    (command,) = more_seeds([variant])
    again = [word.replace("seed=0,1,2", "seed=0") for word in shlex.split(command)[4:]]
    assert place in again and identity(*again) == planned.identity
    (tmp_path / "conf").rename(tmp_path / "elsewhere")
    assert missing(run) and "--config-dir" not in run_command(run)


@pytest.mark.parametrize("text", ["weight: ${oc.env:GONE}\n", "weight: [\n"], ids=["variable", "file"])
def test_a_choice_of_ones_own_that_cant_be_composed_any_more(
    small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Wrong version: the command silently lacks everything that is not a choice."""
    (tmp_path / "own_function.py").write_text(
        "def mine(*, responses, weight=1, **_):\n    return [weight] * len(responses)\n"
    )
    mine = tmp_path / "conf/reward/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("_target_: own_function.mine\n_partial_: true\nweight: 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    planned = plan_words(f"--config-dir={tmp_path / 'conf'}", *small, "task=color", "reward=mine", "reward.weight=3")
    run = Run(planned.folder.path, planned.config, {"config_dir": planned.config_dir}, {})
    assert missing(run) == ""
    mine.write_text(f"_target_: own_function.mine\n_partial_: true\n{text}")
    typed = shlex.split(run_command(run))
    assert {"reward.weight=3", "ppo.episodes=16"} <= set(typed) and not [w for w in typed if w.startswith("--")]
    assert missing(run).startswith("reward=mine: not at hand, or not readable.")


def test_tracking_of_ones_own_is_no_part_of_a_card(tmp_path: Path) -> None:
    (variant,) = real_runs(tmp_path, ("reward=pgsrm",))
    (tmp_path / "conf/tracking").mkdir(parents=True)
    (tmp_path / "conf/tracking/mine.yaml").touch()
    before = variant.runs[0]
    config = {**before.config, "choices": {**before.config["choices"], "tracking": "mine"}}
    run = Run(before.folder, config, {"config_dir": str(tmp_path / "conf")}, {})
    assert run_command(run) == run_command(before) and own_choices(without_tracking(run)) == []
    assert own_choices(run) == ["tracking=mine"]  # in the report's command it is


@pytest.mark.parametrize("text", ["/think", "/", "//", "/think of yes/no", "/" + "long " * 100, "a/b", "/{x}/y"])
def test_a_text_that_begins_with_a_slash_is_no_path(text: str) -> None:
    """Wrong version: the prompt of the command is ./think, and another run's."""
    assert _of_no_machine(text) == text


def test_a_path_is_named_from_here_or_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not here, as of a run that was copied. Wrong version: one with a space in it is shown whole."""
    monkeypatch.chdir(tmp_path)
    paths = {f"{tmp_path}/a b/c.csv": "./a b/c.csv", "/home/jo doe/my data.csv": "./my data.csv", "/home/x": "./x"}
    assert {path: _of_no_machine(path) for path in paths} == paths


def test_the_report_says_what_its_command_lacks(tmp_path: Path) -> None:
    """Of a reward that was given in Python, which has no file."""
    write_run(tmp_path / "runs", reward="shortness")
    (tmp_path / "more").mkdir()
    assert "reward=shortness: not at hand, or not readable. The command" in make_report(tmp_path).words
    write_run(tmp_path / "more/runs")
    assert "not at hand" not in make_report(tmp_path / "more").words


def test_three_seeds_need_no_command(tmp_path: Path) -> None:
    assert more_seeds(real_runs(tmp_path, *((f"seed={seed}",) for seed in range(3)))) == []


def test_one_seed_says_what_came_out_and_draws_no_conclusion(tmp_path: Path) -> None:
    """The wrong version opened with 35 question marks and "P 0.00"."""
    for reward in ("pgsrm", "binary"):
        rows = [sample(update, "hot", answer, answer == "cold") for update, answer in ((10, "big"), (100, "cold"))]
        write_run(tmp_path / "runs", "antonym", reward, exact=(0.2, 0.6), samples=rows)
    words = make_report(tmp_path).words
    first = words[: words.index("Curves")]
    assert "PGSRM and Binary on antonym generation" in first
    held_out = "right answers on held-out prompts, which training never sees, went from 10% to 30% under PGSRM"
    assert held_out in first and "0.10 → 0.70" in first and "20% → 60%" in first
    assert "The policy reads “The opposite of 'hot' is”; the reference is “cold”." in first
    assert "python -m pgsrm.run -m" in first and "seed=0,1,2" in first
    assert "✗ big update 10" in first and "✓ cold update 100" in first
    assert "better:" not in first  # of one seed each no difference is told
    assert "not enough runs checks" not in words and "P, antonym" not in words
    assert "of the paper can't be checked with these runs" in words


def test_three_seeds_tell_a_difference(tmp_path: Path) -> None:
    for reward, end in (("pgsrm", 0.8), ("binary", 0.4)):
        for seed in range(3):
            write_run(tmp_path, "antonym", reward, seed, exact=(0.2, end + seed / 100))
    (sentence,) = overview(load_variants([tmp_path], COLUMNS)[0]).sentences
    assert "The difference is beyond chance: PGSRM minus Binary is +20 percentage points" in sentence


def test_a_probability_takes_three_seeds_of_each_reward(tmp_path: Path) -> None:
    for seed in range(3):
        for reward in ("pgsrm", "binary"):
            write_run(tmp_path, "antonym", reward, seed, exact=(0.1, 0.5))
            if seed == 1:
                (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
                assert "P, all tasks" not in table.texts()[0]
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    assert "P, all tasks" in table.texts()[0] and "P, antonym" in table.texts()[0]


def test_the_same_prompts_are_paired_those_furthest_apart_first() -> None:
    rows = [sample(u, word, f"{word}{u}", False) for u, word in ((1, "a"), (2, "b"), (9, "b"), (5, "a"), (7, "once"))]
    template, pairs = before_and_after(rows)
    assert template == "The opposite of '…' is "
    assert [(pair.prompt, pair.first["response"], pair.last["response"]) for pair in pairs] == [
        ("b", "b2", "b9"),
        ("a", "a1", "a5"),
    ]


PER_TOKEN: dict[str, Any] = {
    "response": "a very bad",
    "token_rewards": [0.5, -1.0, 0.0, 0.25],
    "offsets": [[0, 1], [1, 6], [6, 10], [10, 10]],
    "annotations": {"spans": [[2, 6, "hedge", -1.0]]},
}


def test_a_response_is_cut_into_its_tokens() -> None:
    cut = pieces(PER_TOKEN)
    assert [(piece.text, piece.reward, piece.strength) for piece in cut] == [
        ("a", 0.5, 5),
        (" ", -1.0, 10),  # the span begins within the token
        ("very", -1.0, 10),
        (" bad", 0.0, 0),
        ("⏎", 0.25, 2),  # the end-of-sequence token has no characters
    ]
    assert [piece.last for piece in cut] == [True, False, True, True, True]  # a token's reward is shown once
    assert [(piece.span, piece.ended) for piece in cut] == [("", ""), ("", ""), ("bad", "hedge"), ("", ""), ("", "")]
    assert cut[2].title == "reward -1; hedge -1" and cut[0].title == "reward +0.5" and cut[1].title == "reward -1"
    assert pieces({"response": "a"}) == [] and pieces({**PER_TOKEN, "offsets": [[0, 1]], "annotations": {}}) == []
    assert {piece.reward for piece in pieces({**PER_TOKEN, "offsets": [[0, 1]]})} == {None}  # the span is still shown
    assert [p.text for p in pieces({"response": "x y", "token_rewards": [1.0], "offsets": [[2, 3]]})] == ["x ", "y"]


def test_spans_are_cut_out_also_without_rewards_per_token() -> None:
    spans = [[0, 4, "polite", 0.5], [2, 9, "odd", None], [9, 9, "empty", 1.0], [9, 99, "long", -1.0]]
    cut = pieces({"response": "good, so it is", "annotations": {"spans": spans}})
    assert [(piece.text, piece.span, piece.marks, piece.ended) for piece in cut] == [
        ("go", "good", "polite +0.5", ""),
        ("od", "good", "polite +0.5, odd", "polite"),
        (", so ", "plain", "odd", "odd"),
        ("it is", "bad", "long -1", "long"),
    ]
    assert all(piece.reward is None for piece in cut)


def test_a_token_that_wrote_later_bytes_of_a_character_is_no_end() -> None:
    row = {"response": "é!", "token_rewards": [0.5, 0.25, 0.0], "offsets": [[0, 1], [1, 1], [1, 2]]}
    assert [(piece.text, piece.reward) for piece in pieces(row)] == [("é", 0.5), ("", 0.25), ("!", 0.0)]


@pytest.mark.parametrize("broken", [{"offsets": [[0]]}, {"token_rewards": ["x"], "offsets": [[0, 1]]}])
def test_a_sample_of_another_schema_is_left_out(tmp_path: Path, broken: dict[str, Any]) -> None:
    write_run(tmp_path / "runs", "antonym", samples=[{**sample(10, "hot", "cold", True), **PER_TOKEN, **broken}])
    make_report(tmp_path)


def test_rewards_per_token_stand_in_the_report(tmp_path: Path) -> None:
    row = {**sample(10, "hot", "cold", False), **PER_TOKEN, "reward": -0.25}
    write_run(tmp_path / "runs", "antonym", rewards=ramp(0, 1), samples=[row])
    page = make_report(tmp_path)
    classes = [attrs["class"] for tag, attrs in page.elements if tag == "span" and "token " in str(attrs.get("class"))]
    assert classes == ["token plus", "token minus", "token minus span bad", "token zero", "token plus"]
    assert "reward -1; hedge -1" in page.all("span", "title")
    assert "very -1 hedge" in page.words and "-0.25 ✗" in page.words  # told without colour, and the total beside
