"""Bad input: one clear line that names key, value and remedy, a non-zero exit, and nothing started."""

import json
import logging
import re
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from pgsrm.config.command_line import as_text
from pgsrm.config.known_keys import _ELSEWHERE, _MEANT, _WORDS, TAKEN_OVER, _known_keys, meant
from pgsrm.record import RunFolder
from pgsrm.record.differences import leaves

# override, and what its line must say: the key with its value, and what to do
BAD = [
    ("task=colour", "task=colour: unknown task; there are antonym, category, color,", "did you mean color?"),
    (
        "reward=pgsm",
        "reward=pgsm: unknown reward; there are binary, classifier, critic, learned, moderation, pgsrm, rouge, sparse, sum, "
        "text_metric",
        "did you mean pgsrm?",
    ),
    (
        "ppo=papper",
        "ppo=papper: unknown ppo; there are grpo, paper, per_token, relc, released, rloo,",
        "did you mean paper?",
    ),
    ("task=null", "task=null: not an option of task; there are antonym,", ""),
    ("trackers=wandb", "trackers=wandb: expected a list; write trackers=[wandb]", ""),
    ("ppo.batchsize=3", "ppo.batchsize=3: unknown key", "did you mean ppo.batch_size?"),
    ("taks=color", "taks=color: unknown key", "did you mean task?"),
    ("+ppo.batchsize=3", "ppo.batchsize: unknown key; there are actor_lr, ", "batch_size"),
    ("+reward.beta=3", "reward.beta: unknown key; pgsrm.reward.SemanticReward takes alpha, embedder,", ""),
    ("ppo.batch_size=0", "ppo.batch_size=0: expected `int` >= 1; set ppo.batch_size", ""),
    ("ppo.batch_size=2.5", "ppo.batch_size=2.5: expected `int`, got `float`; set ppo.batch_size", ""),
    ("ppo.actor_lr=-1", "ppo.actor_lr=-1: expected `float` > 0", ""),
    ("ppo.actor_lr=fast", "ppo.actor_lr=fast: expected `float`, got `str`", ""),
    (
        "ppo.baseline=mean",
        "ppo.baseline=mean: not an option; there are prompt_value, response_value, token_values,",
        "",
    ),
    ("ppo.epochs=2", "ppo.epochs=2", "set ppo.clip_range"),
    ("ppo.episodes=3", "ppo.episodes=3: less than one batch; set it to 4 or more", ""),
    ("reward.alpha=0.5", "reward.alpha=0.5: expected `float` >= 1", ""),
    ("reward.alpha=x", "reward.alpha=x: expected `float`, got `str`", ""),
    ("reward.similarity=l1", "reward.similarity=l1: not an option; there are cosine, euclidean", ""),
    ("reward.length_penalty=x", "reward.length_penalty=x: not an option; there are ratio, null", ""),
    ("reward._target_=pgsrm.reward.Nope", "reward._target_=pgsrm.reward.Nope: can't be imported", "PYTHONPATH"),
    ("reward._target_=nowhere.f", "reward._target_=nowhere.f: can't be imported (No module named 'nowhere')", "give"),
    ("task.checker._target_=nowhere.f", "task.checker._target_=nowhere.f: can't be imported", "PYTHONPATH"),
    ("embedder.path=nowhere.kv", "embedder.path=nowhere.kv: there is no such file; name", ""),
    ("seed=-1", "seed=-1: expected `int` >= 0", ""),
    ("threads=0", "threads=0: expected `int` >= 1", ""),
    ("evaluation.every=0", "evaluation.every=0: expected `int` >= 1", ""),
    ("checkpoint.minutes=0", "checkpoint.minutes=0: expected `float` > 0", ""),
    ("task.holdout=1", "task.holdout=1: expected `float` < 1", ""),
    ("task.data=nowhere.csv", "task.data=nowhere.csv: no such file", "give a CSV, JSONL or Parquet file"),
    ("task.template=hello", "task.template='hello': asks the same for every row; put a {column} in it", ""),
    (
        "parent.references=nowhere.csv",
        "parent.references=nowhere.csv: no such file",
        "give a CSV, JSONL or Parquet file",
    ),
    ("model.path=/nowhere", "model.path=/nowhere: no such folder; name a folder", ""),
    ("model.path=.", "model.path=.: the folder has no config.json; name", ""),
    (
        "model.path=nobody/nothing",
        "model.path=nobody/nothing: neither a folder nor a model that the hub gives",
        "check",
    ),
    ("model.device=gpu", "model.device=gpu: not a device; use auto, cpu, cuda", ""),
    (
        "tracking.uri=http://me:secret@host",
        "tracking.uri=http://***@host: not among the keys",
        "+tracking.uri=http://***",
    ),
    ("model.dtype=float16", "model.dtype=float16: not an option; there are float32, tfloat32, bfloat16", ""),
    ("paths.outputs=/dev/null/here", "paths.outputs=/dev/null/here: can't be written", "name a folder"),
    ("ppo.batch_size", "ppo.batch_size: can't be read", "write key=value"),
    ("task.data=my'file.csv", "task.data=my'file.csv: can't be read", "\"task.data='my\\'file.csv'\""),
    ("hydra.run.dir=/tmp/x", "hydra.run.dir=/tmp/x: a run writes into its own folder", "set paths.outputs"),
    ("hydra.launcher.slots=2", "hydra.launcher.slots=2: is for sweeps", "add -m"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir=x: is for sweeps", "add -m"),
    ("hydra.job.chdir=true", "hydra.job.chdir=true: a run stays in the working directory", "leave it out"),
    ("device=cuda", "device=cuda: unknown key", "did you mean model.device?"),
    (
        "model.lora.rank=4",
        "model.lora.rank=4: model.lora has no keys until it is set; set it as a whole, 'model.lora={rank: 4}'",
        "",
    ),
    (
        "reward.embedder.path=x",
        "reward.embedder.path=x: reward.embedder is taken from embedder; set embedder.path=x",
        "",
    ),
    ("ppo.kl_coef.x=4", "ppo.kl_coef.x=4: ppo.kl_coef is one value and has no keys; set ppo.kl_coef", ""),
    ("model.lora=4", "model.lora=4: expected `{rank: ..., alpha: ..., targets: ...} | null`, got `int`", ""),
    ("evaluation.every=null", "evaluation.every=null: expected `int`, got `null`", ""),
    ("resources.gpus=two", "resources.gpus=two: expected a number, or TYPE:NUMBER as in a100:1; set", ""),
    ("task=color,antonym", "task=color,antonym: several values make several runs; add -m", ""),
    ("seed=1,2", "seed=1,2: several values make several runs; add -m, or write 'seed=[1,2]' for one list", ""),
    ("hydra.verbos=true", "hydra.verbos=true: unknown key", "did you mean hydra.verbose?"),
]
IDS = [override for override, *_ in BAD]


def with_override(small: Sequence[str], override: str) -> list[str]:
    """The small run with one key set otherwise."""
    key = override.lstrip("+").partition("=")[0]
    return [each for each in small if not each.startswith(f"{key}=")] + [override]


@pytest.mark.parametrize(("override", "what", "remedy"), BAD, ids=IDS)
def test_one_run(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path, override: str, what: str, remedy: str
) -> None:
    result = call_cli(*with_override(small, override))
    assert result.code == 2
    assert what in result.error_line
    assert remedy in result.error_line
    assert result.out == ""
    assert not (tmp_path / "outputs/runs").exists()


def test_a_trackers_password_is_refused_and_not_shown(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    words = [*with_override(small, "tracking=mlflow"), "tracking.uri=http://me:secret@host:5000"]
    result = call_cli(*words)
    assert result.code == 2 and "secret" not in result.err + result.out
    assert "tracking.uri=http://***@host:5000: has a password in it" in result.error_line
    assert "MLFLOW_TRACKING_PASSWORD" in result.error_line and not (tmp_path / "outputs/runs").exists()


@pytest.mark.parametrize(
    ("sweep", "what"),
    [
        ("task=color,colour", "task=colour: unknown task"),
        ("reward=binary,pgsm", "reward=pgsm: unknown reward"),
        ("reward=binary,pgsrm reward.alpha=2", "reward.alpha=2: unknown key"),  # binary has none
        ("ppo.batch_size=4,0", "ppo.batch_size=0: expected"),
        ("seed=0,-1", "seed=-1: expected"),
        ("task.data=color.jsonl,nowhere.csv", "task.data=nowhere.csv: no such file"),
        ("model.path={tiny},/nowhere", "model.path=/nowhere: no such folder"),
        ("reward._target_=pgsrm.reward.SemanticReward,nowhere.f", "reward._target_=nowhere.f: can't be imported"),
        ("seed=0,1 ppo.batchsize=3", "ppo.batchsize=3: unknown key"),
        ("seed=0,1 paths.outputs=/dev/null/here", "paths.outputs=/dev/null/here: can't be written"),
        ("seed=0,1 hydra/launcher=slum", "hydra/launcher=slum: unknown"),
    ],
)
def test_no_run_of_a_sweep_starts_when_only_the_second_is_bad(
    call_cli: Callable[..., Any], small: Sequence[str], tiny: Path, tmp_path: Path, sweep: str, what: str
) -> None:
    overrides = list(small)
    for override in sweep.format(tiny=tiny).split():
        overrides = with_override(overrides, override)
    result = call_cli("-m", *overrides)
    assert result.code == 2
    assert what in result.error_line
    assert not (tmp_path / "outputs/runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("words.csv", "word,reference\nhot,cold\nup,down,left\n", "line 3: 3 values for 2 columns"),
        ("words.jsonl", '{"word": "hot", "reference": "cold"}\n{"word": "up"\n', "line 2, column 14: not valid JSON"),
        ("words.jsonl", '{"word": "hot", "reference": "cold"}\n\n["up"]\n', "line 3: not a JSON object"),
        ("words.csv", "word\nhot\nqwertz\n", "1 of 2 rows have no reference, the first is line 3; add"),
        ("words.csv", "noun,reference\nhot,cold\n", "line 2: no column `word`"),
        ("words.csv", "", "no rows"),
        ("words.txt", "hot", "ends in none of .csv, .jsonl and .parquet"),
    ],
)
def test_malformed_data_with_its_line(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path, name: str, content: str, what: str
) -> None:
    (tmp_path / name).write_text(content)
    result = call_cli(*small, "task=antonym", f"task.data={name}")
    assert result.code == 2
    assert f"task.data={tmp_path / name}: " in result.error_line
    assert what in result.error_line
    assert not (tmp_path / "outputs/runs").exists()


def test_options_stand_anywhere() -> None:
    """Wrong version: an option between overrides ends in a usage text of Hydra's."""
    from pgsrm.config.command_line import options_first

    words = ["-m", "hydra/launcher=local", "--config-dir", "mine", "task=color", "--config-dir=mine", "seed=0,1"]
    options = ["-m", "--config-dir", "mine", "--config-dir=mine"]
    assert options_first(words) == [*options, "hydra/launcher=local", "task=color", "seed=0,1"]
    assert options_first(["task=color", "--cfg", "job"]) == ["--cfg", "job", "task=color"]


def test_in_a_process_of_its_own(run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path) -> None:
    """The whole command: nothing of Hydra's around the line, and no traceback."""
    result = run_cli("-m", *small, "task=color,colour")
    assert result.code == 2
    assert result.error_line.startswith("pgsrm: task=colour: unknown task;")
    result = run_cli(*with_override(small, "ppo.batch_size=0"))
    assert result.code == 2
    assert result.error_line == "pgsrm: ppo.batch_size=0: expected `int` >= 1; set ppo.batch_size accordingly"
    assert not (tmp_path / "outputs/runs").exists()


def test_a_wrong_value_for_a_users_own_reward(
    run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def __init__(self, weight: float) -> None: ...\n    def __call__(self, **_): ...\n"
    )
    for override, what in (
        ("+reward.weight=much", "reward.weight=much: expected `float`, got `str`"),
        ("+reward.height=1", "reward.height: unknown key; mine.Mine takes weight"),
        ("seed=1", "reward.weight: missing, mine.Mine needs it; set it"),
    ):
        (tmp_path / "conf/reward").mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf/reward/mine.yaml").write_text("_target_: mine.Mine\n")
        result = run_cli("--config-dir=conf", *small, "reward=mine", override, pythonpath=tmp_path)
        assert (result.code, what in result.error_line) == (2, True)
        assert not (tmp_path / "outputs/runs").exists()


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("ppo.lr", "ppo.actor_lr"),
        ("lr", "ppo.actor_lr"),
        ("learning_rate", "ppo.actor_lr"),
        ("ppo.learning_rate", "ppo.actor_lr"),
        ("episodes", "ppo.episodes"),
        ("batch_size", "ppo.batch_size"),
        ("task.episodes", "ppo.episodes"),
        ("num_epochs", "ppo.epochs"),
        ("beta", "ppo.kl_coef"),
        ("ppo.cliprange", "ppo.clip_range"),
        ("alpha", "reward.alpha"),
        ("device", "model.device"),
        ("rewards.alpha", "reward.alpha"),
        ("max_tokens", "task.max_new_tokens"),
        ("output_dir", "paths.outputs"),
        ("model.model_name_or_path", "model.path"),
        ("sede", "seed"),
        ("n_jobs", "hydra.launcher.slots"),
        ("actor_rollout_ref.actor.optim.lr", "ppo.actor_lr"),
        ("critic.optim.lr", "ppo.critic_lr"),
        ("actor_rollout_ref.model.path", "model.path"),
        ("actor_rollout_ref.rollout.n", "ppo.group_size"),
        ("algorithm.adv_estimator", "ppo.baseline"),
        ("algorithm.kl_penalty", "ppo.kl_estimator"),
        ("data.train_files", "task.data"),
        ("trainer.devices", "processes"),
        ("trainer.max_epochs", "ppo.episodes"),
        ("num_iterations", "ppo.epochs"),
        ("load_best_model_at_end", "stop.keep_best"),
        ("logger", "trackers"),
        ("zebra", None),
    ],
)
def test_an_unknown_key_leads_to_the_one_that_was_meant(key: str, near: str | None) -> None:
    assert meant(key) == near


def test_what_shipped_choices_take_from_elsewhere_is_known() -> None:
    """Wrong version: a choice takes a mapping over, and a key below it is advised to be set as all of the mapping."""
    taken = {}
    for group in ("reward", "task"):
        for file in (ROOT / "conf" / group).glob("*.yaml"):
            config = OmegaConf.to_container(OmegaConf.load(file))
            assert isinstance(config, dict)
            for key, value in leaves({group: config}):
                if source := re.fullmatch(r"\$\{(?:oc\.select:)?([a-z_.]+)(?:,null)?\}", str(value)):
                    taken[key] = source[1]
    assert taken == {
        key: source for key, source in TAKEN_OVER.items() if key != "evaluation.measures"
    }  # of config.yaml


def test_every_key_that_is_suggested_exists() -> None:
    known = set(_known_keys())
    assert {key for key in _ELSEWHERE if not key.startswith("hydra.")} <= known
    assert not {f"ppo.{word}" for word in _MEANT} & known  # no word that is right as it is
    assert not set(_MEANT) & set(_WORDS) and not {key.rpartition(".")[2] for key in known} & set(_WORDS)


def test_the_command_line_says_it(call_cli: Callable[..., Any], small: Sequence[str]) -> None:
    assert call_cli(*small, "ppo.lr=1e-5").error_line.endswith("did you mean ppo.actor_lr?")
    assert call_cli(*small, "ckpt_path=last.ckpt").error_line == (
        "pgsrm: ckpt_path=last.ckpt: unknown key; the same command resumes a run"
    )
    assert call_cli("-m", *small, "learning_rate=1e-5,1e-4").error_line.endswith("did you mean ppo.actor_lr?")


def test_hydras_own_words_work_without_m(call_cli: Callable[..., Any], small: Sequence[str]) -> None:
    """Wrong version: `task: missing`."""
    root = logging.getLogger().level
    try:
        result = call_cli(*small, "hydra.verbose=true", "hydra/job_logging=disabled", "dry_run=true")
        assert logging.getLogger().level == logging.DEBUG
    finally:
        logging.getLogger().setLevel(root)
    assert result.code == 0 and result.out.startswith("1 run: 1 new"), result.err
    result = call_cli("-cn", "config", *small, "dry_run=true")  # by way of Hydra's own command line
    assert result.code == 0 and result.out.startswith("1 run: 1 new"), result.err


def test_texts_that_hydra_cannot_read_are_taken_as_they_stand() -> None:
    for word, read in {
        "task.data=~/a=b.csv": "task.data='~/a=b.csv'",
        "model.path=outputs/runs/x-alpha=8-s0/model": "model.path='outputs/runs/x-alpha=8-s0/model'",
        "task.data=caf\u00e9.csv,~/b.csv": "task.data='caf\u00e9.csv','~/b.csv'",
        "task.data='a=b'": "task.data='a=b'",
        "reward.alpha=1,8": "reward.alpha=1,8",
        "model.lora={rank: 4}": "model.lora={rank: 4}",
        "ppo.kl_target=${x=1}": "ppo.kl_target=${x=1}",
        "~tracking": "~tracking",
        "task.template=": "task.template=",
        "task.reference={target}": "task.reference='{target}'",
        "task.template=Text: {a}, [b]\\nShort:": "task.template='Text: {a}, [b]\nShort:'",
        "task.template='{a}\\n'": "task.template='{a}\\n'",
    }.items():
        assert as_text(word) == read


# What shows only once a run has started


def failed_run(outputs: Path) -> dict[str, object]:
    """The status of the only run, which must have failed."""
    (status,) = (json.loads(path.read_text()) for path in outputs.glob("runs/*/status.json"))
    assert status["state"] == "failed"
    return status


@pytest.fixture
def own_reward(tmp_path: Path) -> Callable[[str], list[str]]:
    """`own_reward(source)`: the overrides that choose the function `reward` of a module with that source."""

    def write(source: str) -> list[str]:
        (tmp_path / "mine.py").write_text(source)
        (tmp_path / "conf/reward").mkdir(parents=True)
        (tmp_path / "conf/reward/mine.yaml").write_text("_target_: mine.reward\n_partial_: true\n")
        return ["--config-dir=conf", "reward=mine"]

    return write


def test_a_function_needs_partial(run_cli: Callable[..., Any], own_reward: Callable[..., Any], tmp_path: Path) -> None:
    overrides = own_reward("def reward(*, responses, **_):\n    return [0.0 for _ in responses]\n")
    (tmp_path / "conf/reward/mine.yaml").write_text("_target_: mine.reward\n")
    result = run_cli(*overrides, pythonpath=tmp_path)
    assert result.code == 2
    assert "reward.responses: missing, mine.reward needs it;" in result.error_line
    assert "_partial_: true" in result.error_line


def test_prompts_longer_than_the_models_context(
    run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    """The tiny model has 128 positions. Wrong version: an IndexError from inside the model."""
    (tmp_path / "long.csv").write_text("word,reference\nhot,cold\n" + "x y " * 100 + ",cold\n")
    result = run_cli(*small, "task=antonym", "task.data=long.csv")
    assert result.code == 2
    assert "Traceback" not in result.err
    assert (
        "the model has 128 positions for prompt and response; set task.max_input_words" in result.err.splitlines()[-1]
    )
    assert not (tmp_path / "outputs").exists()


def test_disk_full_stops_the_run_and_it_goes_on_later(
    run_cli: Callable[..., Any], resume: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    """No file may grow beyond 100 kB: the record fits, a checkpoint (and the final model) does not."""

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    for when in ("checkpoint.minutes=1e-6", "checkpoint.minutes=100"):
        result = run_cli(*small, when, preexec_fn=full_disk)
        assert result.code == 2
        assert "Traceback" not in result.err
        assert "the disk is full or the quota used up; free some space" in result.err.splitlines()[-1]
        failed_run(tmp_path / "outputs")
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    resume(RunFolder(folder))
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert [json.loads(line)["update"] for line in (folder / "metrics.jsonl").open()] == [0, 1, 2, 3, 4]
    assert (folder / "model/model.safetensors").stat().st_size > 100_000


def test_mlflow_out_of_reach_costs_one_warning(
    run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    overrides = [each for each in small if each != "tracking=none"]
    result = run_cli(*overrides, "tracking.uri=http://127.0.0.1:1")
    assert result.code == 0
    assert "Traceback" not in result.err
    assert sum("MLflow at http://127.0.0.1:1 does not answer" in line for line in result.err.splitlines()) == 1
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5
    assert result.err.count("not all of it was sent; the same command sends the rest, or") == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"data: x.csv\n\ttemplate: y\n", "line 2, column 1: not valid YAML (found character '\\t'"),
        (
            b"data: x.csv\ntemplate: say: {word}\n",
            "line 2, column 14: not valid YAML (mapping values are not allowed here)",
        ),
        (b"data: x\ndata: y\n", "line 2, column 1: not valid YAML (found duplicate key data); keep one of the two"),
        (b"data: 'x\n", "line 2, column 1: not valid YAML (found unexpected end of stream)"),
        (b"data: x.csv\n# caf\xe9\n", "line 2, column 6: not UTF-8; save the file as UTF-8"),
        (b"#" * 700 + b"\n# \xff\n", "line 2, column 3: not UTF-8"),
        ("data: x".encode("utf-16"), "line 1, column 1: not UTF-8"),
        (b"data: a\0b\n", "has the character U+0000, which YAML has not; remove it"),
        (b"42\n", "mine.yaml: line 1: holds no key"),
        (b"- a\n", "task=['a']: expected `object`, got `array`"),
        (b"", "task.data: missing"),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_config_file_that_is_no_yaml(
    tmp_path: Path, call_cli: Callable[..., Any], content: bytes, problem: str, sweep: list[str]
) -> None:
    (tmp_path / "own" / "task").mkdir(parents=True)
    (tmp_path / "own" / "task" / "mine.yaml").write_bytes(content)
    result = call_cli(*sweep, "--config-dir", "own", "task=mine", "tracking=none", "dry_run=true")
    assert result.code == 2
    assert problem in result.error_line
    assert problem.startswith("task") or f"{tmp_path / 'own' / 'task' / 'mine.yaml'}: " in result.error_line


def test_an_object_in_a_choice_s_place_is_told_how(call_cli: Callable[..., Any]) -> None:
    result = call_cli("task=antonym", "reward={_target_: mine, _partial_: true}", "dry_run=true")
    assert result.code == 2 and result.err.strip() == (
        "pgsrm: reward={_target_: mine, _partial_: true}: reward takes the name of a choice; "
        "~reward '+reward={_target_: mine, _partial_: true}' sets an object"
    )


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_an_object_beside_a_choice_s_keys_is_refused(call_cli: Callable[..., Any], sweep: Sequence[str]) -> None:
    """Wrong version: a reward of the name `brevity` that is given alpha, embedder and similarity of reward=pgsrm."""
    added = "+reward={_target_:mine}"
    result = call_cli("task=antonym", added, "dry_run=true", *sweep)
    assert result.code == 2 and result.err.strip() == (
        f"pgsrm: {added}: reward=pgsrm would keep its other keys beside these; ~reward '{added}' puts the object in its place"
    )
