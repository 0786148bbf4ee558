"""Paths that a user names, at every key; commands that can be pasted back."""

import os
import shlex
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from sqlalchemy import make_url

from pgsrm.analysis.commands import _hydra, _words
from pgsrm.config.compose import PATHS, _read_paths, compose_words
from pgsrm.config.plan import resolve
from pgsrm.record.mlflow_store import connect, sqlite_file, sqlite_uri, tracking_uri
from pgsrm.util.errors import UserError
from pgsrm.util.paths import cache_folder, local_path
from pgsrm.util.shell import override

ODD = ["a b", "a?b", "a%b", "a%20b", "a%3Fb", "a#b", "a'b", "a=b", "a,b", "a;b&c", "café", "~x", "[a]", "${a}", "a\\"]


def word(key: str, value: str) -> str:
    """As `override`, for what no shell has read."""
    (read,) = shlex.split(override(key, value))
    return read


# One function


def test_a_home_folder_is_written_out_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/data/x.csv", "k") == tmp_path / "data/x.csv"
    for name in ("x.csv", "../x", "/a/~b", "$HOME/x", "a/~/b"):
        assert local_path(name, "k") == Path(name)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nobody-of-that-name/x", r"k=~nobody-of-that-name/x: ~nobody-of-that-name stands for a home folder"),
        ("x" * 300, r"k=x+: can't be read \(File name too long\)"),
        ("a\0b", r"k='a\\x00b': can't be the name of a file"),
        ("a\udcff", r"k='a\\udcff': the name is not UTF-8"),
    ],
)
def test_what_can_be_no_path_is_one_line_with_its_key(value: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        local_path(value, "k")


def test_a_user_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that gives its processes a number and no entry in /etc/passwd."""
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match=r"model\.path=~/m: ~ stands for a home folder; this user has none"):
        local_path("~/m", "model.path")
    assert cache_folder() == tmp_path / f"pgsrm-{os.getuid()}"
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    monkeypatch.setenv("HOME", "/nonexistent")  # what some images set
    assert cache_folder() == tmp_path / f"pgsrm-{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert cache_folder() == tmp_path / "home/.cache/pgsrm"
    monkeypatch.setattr("os.access", lambda *_: False)  # a home folder that can't be written
    assert cache_folder() == tmp_path / f"pgsrm-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine/pgsrm"


# Every key


def test_every_key_is_read_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["embedder@evaluation.embedder=sentence_transformer", "embedder=sentence_transformer", "algorithm=distill"]
    words.append("reward.embedder={path: null, cache: null}")  # one of the reward's own, instead of the run's
    files = (
        "model: x, path: x, ledger: x, cache: x"  # of any reward: the run's, the task's own, a part of a sum, a measure
    )
    words += [f"task.extrinsic={{{files}}}", f"+reward.extrinsic={{{files}}}"]
    words += ["+reward.model=x", "+reward.path=x", "+reward.ledger=x", "+reward.cache=x"]
    words.append("+task.critic={words: x, instruction: x, short: x, nano: {path: x, instruction: x}}")
    keys = "path: x, instruction: x, ledger: x, cache: x"  # of any critic, the run's or one of the reward's own
    words += [
        "critic=gold",
        f"++critic={{{keys}, critic: {{{keys}}}}}",
        f"+reward.critic={{{keys}, critic: {{{keys}}}}}",
    ]
    config, _ = compose_words([*words, *(word(key, f"~/a=b {key}") for key in PATHS)], "test")
    assert {key: OmegaConf.select(config, key) for key in PATHS} == {key: f"{tmp_path}/a=b {key}" for key in PATHS}
    for key in PATHS:
        wrong = OmegaConf.create({})
        OmegaConf.update(wrong, key, "~nobody-of-that-name")
        with pytest.raises(UserError, match=rf"^{key}=~nobody-of-that-name: "):
            _read_paths(wrong, {})


def test_outputs_in_the_home_folder_and_no_folder_called_tilde(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: a sweep makes a folder called `~` here, for Hydra's multirun.yaml and for its runs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    words = [each for each in small if not each.startswith("paths.outputs")]
    result = call_cli("-m", *words, word("paths.outputs", "~/a b?"), "seed=0,1", "dry_run=true")
    assert result.code == 0, result.err
    assert [path.name for path in (tmp_path / "home/a b?").iterdir()] == ["multirun.yaml"]
    assert not [path for path in tmp_path.iterdir() if "~" in path.name]


# Databases


def test_an_address_names_the_file_that_it_was_built_for() -> None:
    for name in ODD:
        file = Path("/tmp") / name / "mlflow.db"
        uri = sqlite_uri(file)
        assert make_url(uri).database == str(file) and sqlite_file(uri) == file
        assert tracking_uri({"uri": uri, "experiment": "pgsrm"}) == uri


@pytest.mark.parametrize("name", ["a?b", "a%20b#'"])
def test_a_database_lies_where_its_folder_is_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    """Wrong versions: another file, a folder beside it whose name is the address's spelling."""
    connect(tracking_uri({"uri": None, "experiment": "pgsrm"}, tmp_path / name)).create_experiment("x")
    assert (tmp_path / name / "mlflow.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_address_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def read(uri: str) -> str:
        return tracking_uri({"uri": uri, "experiment": "x"})

    assert read("sqlite:///~/m.db") == f"sqlite:///{tmp_path}/m.db"
    assert read("sqlite:///m.db?timeout=30") == f"sqlite:///{tmp_path}/m.db?timeout=30"
    assert read("postgresql://a:b%20c@h/d?x=1") == "postgresql://a:b%20c@h/d?x=1"
    assert sqlite_file("http://host:5000/sqlite") is None
    assert sqlite_file(sqlite_uri(tmp_path / "a%20b/m.db")) == tmp_path / "a%20b/m.db"


# Commands to paste


@pytest.mark.parametrize(
    "value", [*ODD, "~/x", "x y=z", "null", "1", "1e3", "it's", 'say "x"', "\\'", "a\\\\'", "", "é!(x)"]
)
def test_an_override_to_paste_is_read_back_as_it_was(value: str) -> None:
    read = OverridesParser.create().parse_override(word("task.data", value))
    config = OmegaConf.create({"data": read.value()})
    assert read.key_or_group == "task.data" and config.data == value


def test_an_override_that_needs_no_quotes_has_none() -> None:
    assert override("task.data", "data/my-file_1.csv") == "task.data=data/my-file_1.csv"
    assert override("seed", 3) == "seed=3"
    assert override("task.data", "my data.csv") == "\"task.data='my data.csv'\""


def test_several_values_in_a_printed_command_can_be_pasted() -> None:
    """Wrong version: `task.data=/a b/x=1.csv,y.csv` as it stands, which neither the shell nor Hydra reads back."""
    values = ["/my data/x=1.csv", "it's.csv", "b#.csv"]
    (printed,) = _words({"task.data": [_hydra(value) for value in values]})
    (word,) = shlex.split(printed)
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert [value.text for value in parsed.sweep_iterator()] == values
    columns: dict[str, list[Any]] = {
        "reward": ["pgsrm", "binary"],
        "ppo.actor_lr": [1e-4, 0.5],
        "task.paper": [None, None],
    }
    assert _words({key: [_hydra(value) for value in column] for key, column in columns.items()}) == [
        "task.paper=null,null",
        "reward=pgsrm,binary",
        "ppo.actor_lr=0.0001,0.5",
    ]


def test_parts_of_a_sum_and_measures_name_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: a measure's folder is looked for in the folder in which the run is resumed, and ~ is a folder's name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("home.txt", "here.txt", "sentiment"):
        (tmp_path / name).write_text("positive good\n")
    classifier = "{_target_: pgsrm.reward.ClassifierReward, model: FILE}"
    lexicon = "{_target_: pgsrm.critic.LexiconCritic, path: here.txt}"
    mine, here = (classifier.replace("FILE", file) for file in ("'~/home.txt'", "here.txt"))
    words = ["task=sentiment_control", "reward=sum", f"+reward.parts.mine={mine}", f"+task.measures.mine={here}"]
    words += [f"+reward.parts.critic={{_target_: pgsrm.reward.CriticReward, arm: critic_only, critic: {lexicon}}}"]
    config = resolve(*compose_words(words, "test"))
    assert config["reward"]["parts"]["mine"]["model"] == str(tmp_path / "home.txt")
    assert config["reward"]["parts"]["critic"]["critic"]["path"] == str(tmp_path / "here.txt")
    assert config["evaluation"]["measures"]["mine"]["model"] == str(tmp_path / "here.txt")
    assert config["reward"]["parts"]["extrinsic"]["model"] == "sentiment"  # shipped, whatever lies here


def test_a_list_of_reward_models_names_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    words = ["task=antonym", "reward=learned", "reward.path=['~/home',here,org/hub]"]
    config = resolve(*compose_words(words, "test"))
    assert config["reward"]["path"] == [f"{tmp_path}/home", f"{tmp_path}/here", "org/hub"]
