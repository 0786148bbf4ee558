"""A run's model with its card, for others: to a folder, and to a hub that is not one."""

import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

import pgsrm
from pgsrm.push import model_card, push, read_finished
from pgsrm.util.errors import UserError


@pytest.fixture
def run(small: Sequence[str]) -> pgsrm.Run:
    return pgsrm.train("task=antonym", *small, "ppo.entropy_coef=0.01", "evaluation.text=null", progress=False)


def test_a_folder_that_transformers_loads(run: pgsrm.Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    to = tmp_path / "new/model"
    assert push(run.folder, to) == str(to)
    pushed, own = AutoModelForCausalLM.from_pretrained(to).state_dict(), run.model.state_dict()
    assert all(pushed[name].equal(own[name]) for name in own)
    assert AutoTokenizer.from_pretrained(to)("hot")["input_ids"] == run.tokenizer("hot")["input_ids"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in to.iterdir()}
    assert len(set(modes.values())) == 1, modes  # wrong version: weights that nobody else may read


def test_what_the_card_says(run: pgsrm.Run, tmp_path: Path) -> None:
    card = model_card(read_finished(run.folder), "me/antonyms")
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "text-generation"
    assert {"pgsrm", "ppo"} <= set(header["tags"])
    last = run.evaluations.iloc[-1]
    assert f"| {run.evaluations.iloc[0]['eval/train_reward']:.3f} | {last['eval/train_reward']:.3f} |" in card
    assert "# antonyms\n" in card and "4 updates, 16 sampled responses" in card
    assert "ppo.entropy_coef=0.01" in card and "seed=0" in card
    assert "outputs" not in card  # where it was trained is nobody's business


def test_the_cards_command_makes_the_same_run(
    run: pgsrm.Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: it names a place on its author's machine. Where a reader starts it the folder has another one."""
    card = model_card(read_finished(run.folder), "x")
    assert str(tiny.parent) not in card
    monkeypatch.chdir(tiny.parent)
    (command,) = (line for line in card.splitlines() if line.startswith("python -m pgsrm.run"))
    words = command.split()[3:]
    assert f"model.path=./{tiny.name}" in words
    again = pgsrm.train(*words, f"paths.outputs={tmp_path / 'again'}", "tracking=none", "threads=1", progress=False)
    assert again.name.split("-")[-1] == run.name.split("-")[-1]


def test_adapters_are_pushed_as_peft_loads_them(small: Sequence[str], tiny: Path, tmp_path: Path) -> None:
    """Their base with the adapters answers as the merged model does, in the run's folder and in what is pushed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = ["model.lora={rank: 2}", "ppo.actor_lr=1e-2", "evaluation.text=null"]
    run = pgsrm.train("task=antonym", *small, *lora, progress=False)
    to = tmp_path / "pushed"
    push(run.folder, to)
    prompt = run.tokenizer("The opposite of", return_tensors="pt").input_ids
    expected = run.model(prompt).logits
    assert not torch.allclose(expected, AutoModelForCausalLM.from_pretrained(tiny)(prompt).logits, atol=1e-3)
    for place, where in ((run.folder / "adapter", {}), (to, {"subfolder": "adapter"})):
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), place, **where).eval()
        assert torch.allclose(adapted(prompt).logits, expected, atol=1e-4)
    assert AutoModelForCausalLM.from_pretrained(to)(prompt).logits.equal(expected)
    assert sorted(path.name for path in (to / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert str(tiny) not in (to / "adapter/adapter_config.json").read_text()
    assert 'subfolder="adapter"' in (to / "README.md").read_text()


def nothing(*, responses: list[str], **_: Any) -> list[float]:
    """A reward of one's own."""
    return [0.0] * len(responses)


class Hub:
    """What `HfApi` is asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        return f"https://hub/{name}"

    def repo_info(self, name: str) -> Any:
        return SimpleNamespace(private=name != "me/public")

    def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> None:
        self.asked.append((repo_id, {"files": sorted(path.name for path in folder_path.iterdir())}))


def test_a_hub_gets_the_same_files(run: pgsrm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "asked", [])
    assert push(run.folder, hub="me/antonyms", private=True) == "https://hub/me/antonyms"
    (name, options), (repository, content) = Hub.asked
    assert name == repository == "me/antonyms" and options["private"] is True
    with pytest.raises(UserError, match="me/public is there already and is public"):
        push(run.folder, hub="me/public", private=True)
    assert content["files"] == sorted([*(path.name for path in (run.folder / "model").iterdir()), "README.md"])


def test_a_card_says_which_choices_are_its_authors_own(small: Sequence[str]) -> None:
    run = pgsrm.train("task=antonym", *small, "ppo.episodes=4", "evaluation.text=null", reward=nothing, progress=False)
    card = model_card(read_finished(run.folder), "x")
    assert "`reward=nothing` is no choice of pgsrm's but one of its author's own." in card
    assert "reward=nothing: not at hand, or not readable. The command has" in card


def test_bad_input(run: pgsrm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no best model"):
        push(run.folder, tmp_path / "new", best=True)
    with pytest.raises(UserError, match="has no best model"):
        assert run.best_model
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"no run's folder \(it has no config.yaml\)"):
        push(tmp_path / "none", tmp_path / "to")
    with pytest.raises(UserError, match="is there already; name a new folder"):
        push(run.folder, tmp_path)
    with pytest.raises(UserError, match="--hub=a/b/c: not a name of the hub's; write ORG/NAME"):
        push(run.folder, hub="a/b/c")
    for file in (run.folder / "model").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="has no final model"):
        push(run.folder, tmp_path / "to")
