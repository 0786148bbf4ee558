"""Each experiment composes, is what it says, and runs in tiny form."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from pgsrm.config.command_line import one_experiment, refuse_sweep
from pgsrm.config.libyaml import reading_by_libyaml
from pgsrm.config.plan import plan
from pgsrm.config.schema import read_settings
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

EXPERIMENTS = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
SWEEPS = (
    "ablation",
    "alpha",
    "baselines",
    "comparison",
    "critic_cost",
    "critic_quality",
    "embedder_sensitivity",
    "fidelity",
    "parent_sensitivity",
    "relc_detox",
    "relc_self",
    "relc_sentiment",
    "relc_summary",
    "scaling",
    "share",
)
FACTORS = sorted({path.stem for path in (conf_folder() / "fidelity").glob("*.yaml")} - {"released", "sound"})
TASKS = ("color", "antonym", "category", "copy", "sentiment")
# What a user has to give, since no default could be right.
NEEDED = {"paper": ["embedder.path=vectors.txt"]}

Compose = Callable[..., DictConfig]


@pytest.fixture
def composed() -> Iterator[Compose]:
    """`composed(*overrides)`: the config as the command line composes it, with its `hydra` node."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"), reading_by_libyaml():
        yield lambda *overrides: compose("config", overrides=list(overrides), return_hydra_config=True)


def without_hydra(config: DictConfig) -> DictConfig:
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config


def every_value(config: DictConfig, *given: str) -> list[list[str]]:
    """Overrides of runs that have each value of an experiment's sweep: its first run, and those that differ in one value."""
    keys = {override.partition("=")[0] for override in given}
    params = dict(config.hydra.sweeper.get("params") or {})
    swept = [
        [f"{key}={value}" for value in str(values).split(",")] for key, values in params.items() if key not in keys
    ]
    first = [values[0] for values in swept]
    others = [[*first[:place], value, *first[place + 1 :]] for place, each in enumerate(swept) for value in each[1:]]
    return [[*given, *combination] for combination in (first, *others)]


def ppo_of(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config.ppo, resolve=True)
    return dict(plain)


# What they are


def test_these_are_the_experiments() -> None:
    assert sorted([*SWEEPS, "paper", "quickstart"]) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_first_line_is_its_command_and_the_page_has_it(name: str) -> None:
    lines = (conf_folder() / f"experiment/{name}.yaml").read_text().splitlines()
    command = next(line.removeprefix("# ") for line in lines if not line.startswith("# @package"))
    assert command.startswith(f"python -m pgsrm.run -m experiment={name}")
    if name in SWEEPS:  # the command is whole as it is
        assert command == f"python -m pgsrm.run -m experiment={name}"
    page = (ROOT / "docs/experiments.md").read_text()
    assert command in page


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_its_sweep_is_valid(composed: Compose, name: str) -> None:
    overrides = [f"experiment={name}", *NEEDED.get(name, [])]
    first = composed(*overrides)
    assert (first.hydra.sweeper.get("params") is not None) == (name in SWEEPS)
    for combination in every_value(first, *overrides):
        read_settings(without_hydra(composed(*combination)))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_five_seeds(composed: Compose, name: str) -> None:
    assert composed(f"experiment={name}").hydra.sweeper.params.seed == "0,1,2,3,4"


# An experiment as a sweep


def test_a_sweep_without_m_says_so_unless_every_key_has_one_value(composed: Compose) -> None:
    with pytest.raises(UserError, match=r"experiment=alpha: is a sweep over seed, reward\.alpha; add -m, or give each"):
        refuse_sweep(composed("experiment=alpha"))
    with pytest.raises(UserError, match=r"is a sweep over reward\.alpha; add -m"):
        refuse_sweep(composed("experiment=alpha", "seed=0"))
    refuse_sweep(composed("experiment=alpha", "seed=0", "reward.alpha=2"))
    refuse_sweep(composed("experiment=quickstart"))


def test_experiments_come_one_at_a_time() -> None:
    for word in ("experiment=alpha,fidelity", "experiment=choice(alpha,fidelity)", "experiment=glob(*)"):
        with pytest.raises(UserError, match="several experiments; give each a command of its own"):
            one_experiment([word])
    one_experiment(["experiment=alpha", "task=color,antonym"])


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["experiment=alpha"], "experiment=alpha: is a sweep over seed, reward.alpha; add -m"),
        (["-m", "experiment=alpha,fidelity"], "experiment=alpha,fidelity: several experiments"),
        (["-m", "experiment=alpha", "--cfg", "job"], "-m, --cfg, --info: one of them at a time"),
        (["-m", "experiment=alpha", "ppo.batch_size=0"], "ppo.batch_size=0: expected `int` >= 1"),
        (["-m", "experiment=alpha", "reward.alpha=1,0"], "reward.alpha=0: expected `float` >= 1"),
        (["-m", "experiment=alpha", "reward=binary"], "reward.alpha"),  # binary has none
        (["-m", "experiment=fidelity", "fidelity=d2_value,d99"], "fidelity=d99: unknown fidelity"),
    ],
)
def test_bad_input(call_cli: Callable[..., Any], tmp_path: Path, overrides: list[str], what: str) -> None:
    result = call_cli(*overrides, f"paths.outputs={tmp_path / 'outputs'}", "tracking=none")
    assert result.code == 2
    assert what in result.error_line
    assert not (tmp_path / "outputs/runs").exists()


# Fidelity


def changes(composed: Compose) -> dict[str, dict[str, Any]]:
    """Factor -> the keys of `ppo` that it changes on top of `ppo=released`, with their values."""
    released = ppo_of(composed("ppo=released"))
    others = {factor: ppo_of(composed("ppo=released", f"fidelity={factor}")) for factor in FACTORS}
    return {
        factor: {key: other[key] for key in released if other[key] != released[key]} for factor, other in others.items()
    }


def test_the_base_changes_nothing(composed: Compose) -> None:
    plain, base = composed("ppo=released"), composed("ppo=released", "fidelity=released")
    assert OmegaConf.to_container(plain.ppo) == OmegaConf.to_container(base.ppo)


def test_every_factor_changes_its_own_keys_towards_sound(composed: Compose) -> None:
    """Wrong versions: two rows in one factor, a factor that changes nothing, a value that sound does not have."""
    sound = ppo_of(composed("ppo=sound"))
    found = changes(composed)
    for factor, change in found.items():
        assert change, factor
        assert change == {key: sound[key] for key in change}, factor
    for one, other in itertools.combinations(found.values(), 2):
        assert not one.keys() & other.keys()
    everything = {key for change in found.values() for key in change}
    released = ppo_of(composed("ppo=released"))
    assert everything == {key for key in sound if sound[key] != released[key]}


@pytest.mark.parametrize("task", TASKS)
def test_all_factors_together_are_sound(composed: Compose, task: str) -> None:
    together = composed("ppo=released", "fidelity=sound", f"task={task}")
    assert ppo_of(together) == ppo_of(composed("ppo=sound", f"task={task}"))


def test_the_experiment_has_every_factor(composed: Compose) -> None:
    params = composed("experiment=fidelity").hydra.sweeper.params
    assert sorted(params.fidelity.split(",")) == sorted([*FACTORS, "released", "sound"])
    rows = {row for factor in FACTORS for row in re.findall(r"^d(\d+)_", factor)}
    assert rows == {"2", "3", "4", "5", "9", "13", "14"}  # of docs/fidelity.md, those that a run of one task can switch


def test_an_ablation_takes_away_what_the_factor_of_its_name_brings(composed: Compose) -> None:
    """Wrong versions: a value that the released code doesn't have, a factor without its ablation."""
    sound, released = ppo_of(composed("ppo=sound")), ppo_of(composed("ppo=released"))
    for factor, change in changes(composed).items():
        expected = {**sound, **{key: released[key] for key in change}}
        assert ppo_of(composed("ppo=sound", f"ablation={factor}")) == expected, factor
    params = composed("experiment=ablation").hydra.sweeper.params
    assert sorted(params.ablation.split(",")) == sorted([*FACTORS, "none"])
    assert ppo_of(composed("ppo=sound", "ablation=none")) == sound


# In tiny form


def shortest(small: Sequence[str]) -> list[str]:
    return [*(each for each in small if not each.startswith("ppo.episodes")), "ppo.episodes=8"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_runs(composed: Compose, small: Sequence[str], resume: Callable[..., None], name: str) -> None:
    """The first run of its sweep, and the one with the last value of its last key, train the tiny model for two updates."""
    tiny_form = [*shortest(small), "seed=0", f"experiment={name}"]
    if name in ("paper", "embedder_sensitivity"):  # what a test machine may not have
        tiny_form += ["embedder=static", "embedder@evaluation.embedder=static"]
    if name.startswith(("relc", "critic")):  # hundreds of prompts, several answers to each
        tiny_form += ["evaluation.prompts=8", "evaluation.continuations=2"]
    short = {"relc_summary": "task.max_input_words=16", "relc_self": "critic.max_tokens=20"}
    if name == "baselines":  # a batch of the tiny form has four responses
        tiny_form.append("ppo.group_size=2")
    if name in short:  # the tiny model has room for 128 tokens
        tiny_form.append(short[name])
    combinations = every_value(composed(*tiny_form), *tiny_form)
    identities = set()
    for combination in (combinations[0], combinations[-1]):
        config = composed(*combination)
        choices = {group: option for group, option in config.hydra.runtime.choices.items() if option is not None}
        made = plan(without_hydra(config), choices)
        made.freeze()
        resume(made.folder)
        assert (made.folder.status() or {})["update"] == 2
        identities.add(made.identity)
    assert len(identities) == min(2, len(combinations))


def test_the_command_line_wins_over_the_experiments_sweep(run_cli: Callable[..., Any], small: Sequence[str]) -> None:
    words = [*shortest(small), "experiment=fidelity", "fidelity=d3_eos,sound", "reward=binary", "seed=0"]
    result = run_cli("-m", *words, "dry_run=true")
    assert result.code == 0, result.err
    names = sorted(line.split()[1].rpartition("-")[0] for line in result.out.splitlines() if line.startswith("  new"))
    assert names == [f"antonym-binary-gpt2-released-{each}-s0" for each in ("d3_eos", "sound")]


def test_the_command_is_the_whole_sweep(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    result = run_cli("-m", "experiment=alpha", "dry_run=true", "tracking=none", f"paths.outputs={tmp_path}")
    assert result.out.startswith("20 runs: 20 new"), result.err
