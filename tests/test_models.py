"""Tokenizers and models as people have them: several EOS, special tokens behind a text, parts that are missing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy import tiny_of
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from pgsrm.config.compose import plan_words
from pgsrm.models.load import declared_eos, load_codec, load_model, load_tokenizer
from pgsrm.models.settings import ModelSettings, check_model
from pgsrm.models.text import Codec, encode_prompt, ids_behind
from pgsrm.policy.choose import build_policy
from pgsrm.util.errors import UserError

CPU = torch.device("cpu")


def copy_of(folder: Path, to: Path, **generation: Any) -> Path:
    """A copy of a model's folder, whose generation_config has other values."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "generation_config.json").read_text())
    (to / "generation_config.json").write_text(json.dumps(config | generation))
    return to


def saved_tokenizer(folder: Path, to: Path, template: str) -> Path:
    """The tiny tokenizer, putting special tokens around every text as `template` says."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[(end, 0)])
    tokenizer.save_pretrained(to)
    return to


def test_any_declared_eos_ends_a_response(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: the tokenizer's own alone; a chat model's end of turn is then a word like any other."""
    folder = copy_of(tiny, tmp_path / "several", eos_token_id=[17, 0, 9])
    settings = ModelSettings(path=str(folder))
    model = load_model(settings, CPU)
    codec = load_codec(settings, model)
    assert codec.eos == (0, 17, 9)  # the tokenizer's pads
    assert model.generation_config.eos_token_id == [0, 17, 9]
    one = ModelSettings(path=str(tiny))
    assert load_codec(one, load_model(one, CPU)).eos == (0,)


def test_a_run_saves_the_list(tiny: Path, tmp_path: Path, small: Sequence[str], resume: Callable[..., None]) -> None:
    folder = copy_of(tiny, tmp_path / "several", eos_token_id=[17, 0])
    plan = plan_words(*small, f"model.path={folder}")
    plan.freeze()
    resume(plan.folder)
    saved = json.loads((plan.folder.model / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [0, 17]
    assert declared_eos(load_model(ModelSettings(path=str(plan.folder.model)), CPU)) == [0, 17]


@pytest.mark.parametrize(
    ("template", "front", "behind"),
    [("$A", [], []), ("$A <|endoftext|>", [], [0]), ("<|endoftext|> $A <|endoftext|> <|endoftext|>", [0], [0, 0])],
)
def test_special_tokens_behind_a_prompt_are_left_out(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], template: str, front: list[int], behind: list[int]
) -> None:
    """Wrong version: the policy is asked after an EOS, and every answer is another text's beginning."""
    tokenizer = AutoTokenizer.from_pretrained(saved_tokenizer(tiny, tmp_path / "t", template))
    plain = Codec(load_tokenizer(ModelSettings(path=str(tiny)))).encode("the opposite of hot")
    assert ids_behind(tokenizer) == behind
    capfd.readouterr()
    codec = Codec(tokenizer)
    assert codec.encode("the opposite of hot") == [*front, *plain] == encode_prompt(tokenizer, "the opposite of hot")
    assert codec.encode("hot<|endoftext|>")[-1] == 0  # what the prompt itself says stays
    assert capfd.readouterr().err.count("behind every text is left out") == bool(behind)


def test_neither_tokenizer_nor_model_has_an_eos(tiny: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither tokenizer nor model has an EOS token"):
        Codec(tokenizer)
    assert Codec(tokenizer, [5]).eos == (5,)


def test_a_folder_without_a_tokenizer(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: transformers makes up a tokenizer without words, and every prompt is empty."""
    folder = copy_of(tiny, tmp_path / "without")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"model\.path=.*without: the folder has no tokenizer; save one"):
        check_model(ModelSettings(path=str(folder)))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.path=.*without: has no tokenizer that can be loaded .*save one"):
        load_tokenizer(ModelSettings(path=str(folder)))


def test_added_tokens_without_an_embedding(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: an IndexError of an embedding; and a tokenizer whose added token no prompt uses is refused."""
    folder = copy_of(tiny, tmp_path / "added")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.save_pretrained(folder)
    settings = ModelSettings(path=str(folder))
    model = load_model(settings, CPU)
    codec = load_codec(settings, model)
    build_policy(model, None, codec.eos, [codec.encode("hot"), codec.encode("cold")], 2, settings)
    with pytest.raises(UserError, match=f"a prompt holds the token {size}, the model embeds {size} tokens; resize"):
        build_policy(model, None, codec.eos, [codec.encode("hot <|turn|>")], 2, settings)
    tokenizer.eos_token = "<|turn|>"
    tokenizer.save_pretrained(folder)
    assert load_codec(settings, load_model(settings, CPU)).eos == (0,)  # the config's: the other is never sampled
    with pytest.raises(UserError, match=f"the EOS token has the id {size}, the model embeds 60 tokens; resize"):
        load_codec(settings, tiny_of("gpt2", n_embd=32, n_layer=1, n_head=2, eos_token_id=None, bos_token_id=None))
