"""The configuration: every option of every group composes and passes the schema; every field is explained."""

import ast
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from pgsrm.config import schema
from pgsrm.config.libyaml import reading_by_libyaml
from pgsrm.config.schema import Settings, read_settings
from pgsrm.models.settings import ModelSettings
from pgsrm.ppo.settings import PPOSettings
from pgsrm.util.paths import PACKAGE, conf_folder

GROUPS = ("task", "parent", "embedder", "reward", "ppo", "model", "tracking", "cluster", "resources", "critic")
GROUPS += ("experiment", "fidelity", "ablation", "baseline", "algorithm")
TASKS = ("color", "antonym", "category", "copy", "sentiment")
# What a user has to give, since no default could be right.
NEEDED = {
    "numberbatch": ["embedder.path=vectors.txt"],
    "paper": ["embedder.path=vectors.txt"],
    "hf": ["model.path=org/name"],
    "trl": ["reward.function._target_=builtins.len"],
    "verifiers": ["reward.rubric._target_=argparse.Namespace"],
    "distill": ["algorithm.teacher=org/name"],
    "learned": ["reward.path=org/name"],
}

Compose = Callable[..., DictConfig]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


@pytest.fixture
def composed() -> Iterator[Compose]:
    """`composed(*overrides)`: the config as the command line composes it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"), reading_by_libyaml():
        yield lambda *overrides: compose("config", overrides=list(overrides))


def needed(group: str, option: str) -> list[str]:
    own = group in ("embedder", "experiment", "algorithm") or option in ("hf", "learned", "trl", "verifiers")
    return NEEDED.get(option, []) if own else []


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_option_composes_and_is_valid(composed: Compose, group: str, option: str) -> None:
    assert isinstance(read_settings(composed(f"{group}={option}", *needed(group, option))), Settings)


def test_all_groups_are_covered_here() -> None:
    """Wrong version: a new group that no test composes. `hydra` holds launchers, tested with them."""
    folders = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    assert folders - {"hydra"} == set(GROUPS)
    assert all(options(group) for group in GROUPS)


@pytest.mark.parametrize("launcher", sorted(p.stem for p in (conf_folder() / "hydra/launcher").glob("*.yaml")))
def test_every_launcher_composes(launcher: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert "_target_" in config.hydra.launcher


@pytest.mark.parametrize(("ppo", "task"), itertools.product(options("ppo"), TASKS))
def test_every_ppo_with_every_task(composed: Compose, ppo: str, task: str) -> None:
    settings = read_settings(composed(f"ppo={ppo}", f"task={task}"))
    if ppo in ("paper", "released"):
        short = task in ("color", "antonym", "category")
        assert settings.ppo.batch_size == (50 if short else 10)  # Tables 1 and 2
        assert settings.ppo.kl_target == (0.8 if short else None)


@pytest.mark.parametrize("task", TASKS)
def test_experiment_paper_has_the_papers_values(composed: Compose, task: str) -> None:
    """PGSRM, Tables 1 and 2: nothing of nano's own is left, wherever the experiment stands on the command line."""
    for overrides in (["experiment=paper", f"task={task}"], [f"task={task}", "experiment=paper"]):
        settings = read_settings(composed(*overrides, "embedder.path=vectors.txt"))
        ppo = settings.ppo
        assert (ppo.episodes, ppo.actor_lr, ppo.critic_lr) == (100_000, 1e-5, 1e-4)
        assert (ppo.entropy_coef, ppo.value_coef, ppo.kl_coef, ppo.max_grad_norm) == (0.01, 0.5, 5e-5, 1.0)
        assert ppo.clip_range is None
        assert settings.model.path in ("gpt2", "gpt2-large")


def test_nano_brings_its_own_learning_rates_and_a_user_may_still_set_them(composed: Compose) -> None:
    paper, nano = composed("ppo=paper", "model=gpt2_small"), composed("ppo=paper", "model=nano")
    assert nano.ppo.critic_lr != paper.ppo.critic_lr == 1e-4
    assert composed("ppo=paper", "ppo.critic_lr=2e-5").ppo.critic_lr == 2e-5


def test_released_differs_from_paper_in_its_named_switches_alone(composed: Compose) -> None:
    paper, released = (OmegaConf.to_container(composed(f"ppo={name}").ppo) for name in ("paper", "released"))
    different = {key: released[key] for key in paper if paper[key] != released[key]}  # type: ignore[index,call-overload]
    assert different == {"train_eos": False, "padding": "right", "dropout": True, "top_k": 50}


def test_every_ppo_key_is_shown_by_cfg_job() -> None:
    """Wrong version: a key with a default in the struct alone, which `--cfg job` hides and `key=value` refuses."""
    assert set(OmegaConf.load(conf_folder() / "ppo/paper.yaml")) == set(PPOSettings.__struct_fields__)
    for option in ("gpt2_small", "gpt2_large", "paper"):
        assert set(OmegaConf.load(conf_folder() / f"model/{option}.yaml")) == set(ModelSettings.__struct_fields__)
    for task in TASKS:
        keys = set(OmegaConf.load(conf_folder() / f"task/{task}.yaml"))
        assert keys == set(schema.TaskSettings.__struct_fields__)


def structs() -> list[tuple[Path, ast.ClassDef]]:
    """Every msgspec.Struct of the package's sources."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("Struct" in ast.unparse(base) for base in node.bases):
                found.append((path, node))
    return found


def test_every_field_has_its_help_text_above_it() -> None:
    structures = structs()
    assert {node.name for _, node in structures} >= {"PPOSettings", "ModelSettings", "TaskSettings"}
    lacking = []
    for path, node in structures:
        lines = path.read_text(encoding="utf-8").splitlines()
        for field in node.body:
            is_section = isinstance(field, ast.AnnAssign) and "Settings" in ast.unparse(field.annotation)
            if isinstance(field, ast.AnnAssign) and not is_section:
                above = lines[field.lineno - 2].strip()
                if not above.startswith("# "):
                    lacking.append(f"{path.name}: {node.name}.{ast.unparse(field.target)}")
    assert lacking == []


def test_every_yaml_says_what_it_is() -> None:
    """A comment in the first lines: what the option is, or (for an experiment) the command that runs it."""
    for path in conf_folder().rglob("*.yaml"):
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        assert any(line.startswith("# ") and not line.startswith("# @package") for line in head), path
    for path in (conf_folder() / "experiment").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").removeprefix("# @package _global_\n")
        assert lines.startswith("# python -m pgsrm.run "), path


def test_settings_take_their_types_strictly(composed: Compose) -> None:
    """Wrong versions: `true` passes for 1, "0.5" for 0.5, and the run starts with something else than was meant."""
    from pgsrm.util.errors import UserError

    for override in ("ppo.batch_size=true", "ppo.actor_lr='1e-5'", "ppo.whiten_advantages=1", "ppo.train_eos=yes_"):
        with pytest.raises(UserError, match=override.partition("=")[0]):
            read_settings(composed(override))


def test_a_settings_object_cannot_be_changed(composed: Compose) -> None:
    settings: Any = read_settings(composed())
    with pytest.raises(AttributeError):
        settings.ppo.batch_size = 3
    assert msgspec.structs.replace(settings.ppo, batch_size=3).batch_size == 3


def test_a_missing_value_is_named(composed: Compose) -> None:
    from pgsrm.util.errors import UserError

    with pytest.raises(UserError, match=r"embedder\.path=\?\?\?: has no value; set embedder\.path="):
        read_settings(composed("embedder=numberbatch"))
