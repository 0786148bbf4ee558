"""What decides a run is its identity: data, models, vectors and a user's own code by content; and older run folders."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from msgspec import structs
from omegaconf import OmegaConf

from pgsrm.config.compose import compose_words, plan_words
from pgsrm.config.identity import identify, of_any_machine
from pgsrm.config.plan import build_evaluation, build_objects, resolve
from pgsrm.config.schema import read_config
from pgsrm.models.classifier import BUCKETS, save_hashed
from pgsrm.models.digest import model_digest
from pgsrm.record.run_folder import FORMAT
from pgsrm.util.errors import UserError
from pgsrm.util.objects import digest_of
from pgsrm.util.source import source_digests

# Models


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model with one file of each kind that a loader reads."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    names = ["special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"]
    names += [
        "chat_template.jinja",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "o200k.tiktoken",
    ]
    for name in names:
        (folder / name).write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("{{ messages }}")
    return folder


def test_everything_that_the_loaders_read_is_a_models_identity(model: Path) -> None:
    """Each file in turn gets another byte. Wrong version: weights, tokenizer.json and config.json alone."""
    before = model_digest(model)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"} <= names
    assert len(files) >= 16
    digests = {before}
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        digests.add(model_digest(model))
        path.write_bytes(content)
    assert len(digests) == len(files) + 1
    assert model_digest(model) == before
    (model / "README.md").write_text("of no consequence")
    assert model_digest(model) == before
    (model / "vocab.txt").rename(model / "vocab2.txt")
    assert model_digest(model) != before


def test_a_models_folder_may_move_and_its_end_tokens_may_not_change(small: Sequence[str], model: Path) -> None:
    given = [override for override in small if not override.startswith("model.path")]
    before = plan_words(*given, f"model.path={model}")
    config = json.loads((model / "generation_config.json").read_text())
    moved = model.rename(model.with_name("moved"))
    assert plan_words(*given, f"model.path={moved}").identity == before.identity
    (moved / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, 1]}))
    after = plan_words(*given, f"model.path={moved}")
    assert after.identity != before.identity
    assert [name for name in after.parts if after.parts[name] != before.parts[name]] == ["model or tokenizer"]


def test_a_hub_model_is_identified_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: by its name, so that another main branch was the same run."""
    import huggingface_hub

    from pgsrm.models.settings import ModelSettings, identify_model

    commits = iter(["a" * 40, "b" * 40])

    def cached(name: str, file: str, revision: str | None) -> str:
        return f"/cache/snapshots/{next(commits)}/{file}"

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    settings = ModelSettings(path="org/name")
    assert identify_model(settings) == ["org/name", "a" * 40]
    assert identify_model(settings) == ["org/name", "b" * 40]


# Code of the user's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`own(name=source, ...)`: writes modules beside each other (a dot in a name is a folder) and forgets what was imported."""
    beside = tmp_path / "beside"
    beside.mkdir()
    monkeypatch.syspath_prepend(beside)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    names = set[str]()

    def write(**sources: str) -> None:
        for name, source in sources.items():
            path = beside / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        names.update(name.partition(".")[0] for name in sources)
        forget()

    def forget() -> None:
        for module in list(sys.modules):
            if module.partition(".")[0] in names:
                del sys.modules[module]

    yield write
    forget()


REWARD = "def reward(*, responses, **_):\n    return [float(len(r)) for r in responses]\n"


def test_a_changed_reward_is_another_run(small: Sequence[str], own: Callable[..., None]) -> None:
    """Wrong version: the old run was skipped in silence."""
    words = [*small, "~reward", "+reward={_target_:mine.reward,_partial_:true}"]
    own(mine=REWARD)
    first, again = plan_words(*words), plan_words(*words)
    own(mine=REWARD.replace("float(len(r))", "-float(len(r))"))
    other = plan_words(*words)
    assert first.identity == again.identity != other.identity
    assert [name for name in first.parts if first.parts[name] != other.parts[name]] == ["reward's code"]


def test_a_changed_checker_is_another_run(small: Sequence[str], own: Callable[..., None]) -> None:
    source = "def right(response, reference, inputs):\n    return response == reference\n"
    words = [*small, "~task.checker", "+task.checker={_target_:mine.right,_partial_:true}"]
    own(mine=source)
    first = plan_words(*words)
    own(mine=source.replace("==", "!="))
    other = plan_words(*words)
    assert [name for name in first.parts if first.parts[name] != other.parts[name]] == ["checker's code"]


EMBEDDER = """
import numpy as np
class Flat:
    dimension = 2
    def embed(self, texts):
        return np.ones((len(texts), 2)) / 2**0.5
"""


def test_a_changed_embedder_is_another_run(small: Sequence[str], own: Callable[..., None]) -> None:
    """Of the reward, and of the evaluation."""
    for words, part in (
        (["~embedder", "+embedder={_target_:mine.Flat}"], "reward's code"),
        (["+evaluation.embedder={_target_:mine.Flat}"], "evaluation's code"),
    ):
        words = [word.replace("+evaluation", "evaluation") for word in words]
        own(mine=EMBEDDER)
        first = plan_words(*small, *words)
        own(mine=EMBEDDER + "# changed\n")
        other = plan_words(*small, *words)
        assert [name for name in first.parts if first.parts[name] != other.parts[name]] == [part]


def test_a_file_that_moves_leaves_a_run_the_same_wherever_its_object_stands(tmp_path: Path) -> None:
    """Wrong version: the same run is another one where a classifier, word list or vectors lie in another folder."""
    for name in ("a", "b", "other"):
        (tmp_path / name).mkdir()
        content = "x" if name == "other" else "good"
        (tmp_path / name / "words.txt").write_text(f"positive {content}\n")
        (tmp_path / name / "vectors.txt").write_text(f"{content} 1 0\n")
        weights = np.full(BUCKETS, float(name == "other"))
        save_hashed(tmp_path / name / "c.safetensors", weights, 0.0, ("negative", "positive"))

    def identity(classifier: str, words: str, vectors: str, cache: str = "null") -> str:
        files = [f"{tmp_path}/{classifier}/c.safetensors", f"{tmp_path}/{words}/words.txt"]
        embedder = f"{{_target_: pgsrm.embedder.WordVectors, path: {tmp_path}/{vectors}/vectors.txt}}"
        other = f"{{_target_: pgsrm.embedder.OpenAIEmbeddings, cache: {cache}}}"
        near, far = (f"{{_target_: pgsrm.reward.SemanticReward, embedder: {each}}}" for each in (embedder, other))
        given = ["task=sentiment_control", "reward=critic", "critic=lexicon", f"critic.path={files[1]}"]
        given += [f"task.measures.gold.model={files[0]}", f"+task.measures.near={near}"]
        parts = f"{{near: {near}, far: {far}, is: {{_target_: pgsrm.reward.ClassifierReward, model: {files[0]}}}}}"
        given += [f"reward.extrinsic={{_target_: pgsrm.reward.SumReward, parts: {parts}}}", "evaluation.text=null"]
        config, choices = compose_words(given, "test")
        settings = read_config(config, set())[0]
        resolved = resolve(config, choices)
        measures = resolved["evaluation"]["measures"]
        settings = structs.replace(settings, evaluation=structs.replace(settings.evaluation, measures=measures))
        return identify(settings, resolved, *build_objects(resolved), build_evaluation(settings)).whole

    first = identity("a", "a", "a")
    assert identity("b", "b", "b", f"{tmp_path}/kept") == first
    assert len({first, identity("other", "a", "a"), identity("a", "other", "a"), identity("a", "a", "other")}) == 4


@pytest.mark.parametrize("task", sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml")))
def test_shipped_choices_are_of_any_machine(task: str) -> None:
    """Runs of them keep their identities when a rule leaves out what is a machine's own."""
    critics = [f"critic={path.stem}" for path in (ROOT / "conf/critic").glob("*.yaml")] if task == "summary" else []
    for more in (
        ["reward=sum"],
        ["reward=classifier"],
        ["reward=pgsrm"],
        *(["reward=critic", each] for each in critics),
    ):
        config, _ = compose_words([f"task={task}", *more], "test")
        node = OmegaConf.to_container(config, resolve=True)
        for part in (node["reward"], node["evaluation"]["measures"]):
            assert json.dumps(of_any_machine(part)) == json.dumps(part)
    for path in (ROOT / "conf/embedder").glob("*.yaml"):
        embedder = OmegaConf.to_container(OmegaConf.load(path))
        assert of_any_machine({"measure": {"embedder": embedder}}) == {"measure": {"embedder": embedder}}


def test_what_a_users_own_object_gets_is_left_as_it_is() -> None:
    """Its digest may not have what a file has, nor decide by an embedder's alone."""
    embedder = {"_target_": "pgsrm.embedder.WordVectors", "path": "/a/vectors.txt"}
    assert of_any_machine({"_target_": "pgsrm.reward.SemanticReward", "embedder": embedder})["embedder"]["path"] is None
    own = {"_target_": "mine.Reward", "embedder": embedder}
    assert of_any_machine({"m": own}) == {"m": own}
    hub = {"_target_": "pgsrm.reward.ClassifierReward", "model": "org/name", "label": 1}
    assert of_any_machine(hub) == hub


def test_what_a_users_module_imports_from_beside_it_counts_too(own: Callable[..., None]) -> None:
    """Directly, by way of another, relatively, within a function; not what lies elsewhere, nor a neighbour nobody imports."""
    node = {"_target_": "pack.rewards.reward"}
    sources = {
        "pack.__init__": "",
        "pack.rewards": "import json\nfrom .words import LIST\nfrom pgsrm.task import Task\ndef reward(**_):\n    import lazy\n",
        "pack.words": "import pack.deeper as d\nLIST = d.LIST\n",
        "pack.deeper": "LIST = []\n",
        "pack.unused": "",
        "lazy": "",
        "neighbour": "",
    }
    own(**sources)
    before = source_digests(node)
    changes = {}
    for name in sources:
        own(**{**sources, name: sources[name] + "# changed\n"})
        changes[name] = source_digests(node) != before
    assert changes == {
        "pack.__init__": True,
        "pack.rewards": True,
        "pack.words": True,
        "pack.deeper": True,
        "pack.unused": False,
        "lazy": True,
        "neighbour": False,
    }


def test_the_packages_own_code_and_compiled_code_have_no_source_digest() -> None:
    assert source_digests({"_target_": "pgsrm.reward.SemanticReward", "embedder": {"_target_": "math.sqrt"}}) == {}


def test_code_that_changed_after_it_was_imported_is_refused(own: Callable[..., None], tmp_path: Path) -> None:
    """In a notebook the old code would run under the new code's name."""
    import importlib

    own(mine=REWARD)
    node = {"_target_": "mine.reward"}
    before = source_digests(node)
    (tmp_path / "beside/mine.py").write_text(REWARD + "# changed\n")
    with pytest.raises(UserError, match=r"mine\.py: has changed since this Python session imported it.*restart"):
        source_digests(node)
    importlib.reload(sys.modules["mine"])
    assert source_digests(node) != before


def test_the_default_digest_is_that_of_what_an_object_was_made_of() -> None:
    from functools import partial

    class Embedder:
        digest = "of the vectors"

    class Reward:
        def __init__(self) -> None:
            self.embedder, self.weight = Embedder(), 0.5

    class WithOwn(Reward):
        digest = "own"

    class WithNone(Reward):
        digest = None

    class Wrong:
        def digest(self) -> str:
            return "x"

    assert digest_of(Reward()) == "embedder of the vectors"
    assert digest_of(partial(print, vectors=Embedder())) == "vectors of the vectors"
    assert digest_of(WithOwn()) == "own"
    assert digest_of(WithNone()) is None and digest_of(print) is None
    with pytest.raises(UserError, match=r"Wrong\.digest: is .*; make it a property"):
        digest_of(Wrong())


def test_a_checkers_check_is_called_before_a_run_is_planned(small: Sequence[str], own: Callable[..., None]) -> None:
    own(
        mine="from pgsrm.util.errors import UserError\n"
        "class Right:\n"
        "    def check(self, examples):\n"
        "        raise UserError(f'task.checker: knows none of {len(examples)} prompts')\n"
        "    def __call__(self, response, reference, inputs):\n"
        "        return False\n"
    )
    with pytest.raises(UserError, match=r"task\.checker: knows none of 90 prompts"):
        plan_words(*small, "task.checker={_target_:mine.Right}")


# What changed, and what was made before


def test_a_run_whose_reward_has_changed_says_so(
    small: Sequence[str], own: Callable[..., None], resume: Callable[..., None]
) -> None:
    own(mine=REWARD)
    made = plan_words(*small, "~reward", "+reward={_target_:mine.reward,_partial_:true}")
    made.freeze()
    own(mine=REWARD + "# changed\n")
    resume(made.folder, "failed")
    reason = (made.folder.status() or {})["reason"]
    assert "changed since it was planned: reward's code; the command that planned it makes a run of its own" in reason


def test_a_run_knows_the_folder_of_its_choices_also_where_that_has_moved(
    small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong versions: a relative one, which means another folder elsewhere; that of the first start for ever."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/ppo").mkdir(parents=True)
    (tmp_path / "conf/ppo/mine.yaml").write_text("defaults: [sound, _self_]\nentropy_coef: 0.02\n")
    made = plan_words("--config-dir=conf", *small, "ppo=mine")
    made.freeze()
    assert (made.folder.status() or {})["config_dir"] == str(tmp_path / "conf")
    (tmp_path / "conf").rename(tmp_path / "moved")
    again = plan_words("--config-dir=moved", *small, "ppo=mine")
    made.folder.write_status(state="stopped", update=2)
    again.freeze()
    status = made.folder.status() or {}
    assert again.folder.path == made.folder.path and status["config_dir"] == str(tmp_path / "moved")
    assert (status["state"], status["update"]) == ("stopped", 2)


def test_a_run_of_an_earlier_version_is_shown_and_not_resumed(
    small: Sequence[str], run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    made = plan_words(*small)
    made.freeze()
    folder, status = made.folder, made.folder.path / "status.json"
    assert json.loads(status.read_text())["format"] == FORMAT

    def rewrite(**fields: Any) -> None:
        content = {**json.loads(status.read_text()), **fields}
        status.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    rewrite(format=None, parts=None, state="stopped", update=2)
    before = status.read_bytes()
    result = run_cli(str(folder.path), module="pgsrm.train")
    assert result.code == 2
    assert (
        "was made by an earlier version of pgsrm (run folder format 1, not 2) and can't be resumed" in result.error_line
    )
    assert "run its command again for a new run" in result.error_line
    assert status.read_bytes() == before
    rewrite(format=FORMAT + 1)
    with pytest.raises(UserError, match="by a later version"):
        folder.check_resumable()

    rewrite(format=None, state="finished")
    folder.append_metrics({"update": 4, "episodes": 16, "reward/mean": 0.5})
    shown = run_cli(str(tmp_path / "outputs"), module="pgsrm.status")
    assert shown.code == 0 and "finished" in shown.out and "4/4" in shown.out
    assert run_cli(str(folder.path), module="pgsrm.train").code == 0
    status.write_text("{")
    with pytest.raises(UserError, match=r"its status\.json can't be read; run its command again"):
        folder.check_resumable()
