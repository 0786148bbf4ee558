"""A parent on this machine: many prompts together answer as each alone would, whatever the tokenizer and the template do."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES
from test_parent import antonyms
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from pgsrm.models.greedy import GreedyDecoder, common_prefix
from pgsrm.parent.local import LocalParent
from pgsrm.parent.question import Answer, Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.errors import UserError

PREFIX = [5, 9, 7, 120, 44, 6, 81, 3]
PROMPTS = [PREFIX + rest for rest in ([11], [12, 13, 14, 15], [16, 17], [200], [12, 13, 99], [250, 251, 252, 253, 254])]


def alone(model: Any, prompt: list[int], longest: int, is_whole: Any) -> list[int]:
    """By the definition: a whole forward pass for each token."""
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < longest:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits
            answer.append(int(logits[0, -1].argmax()))
            if is_whole(answer):
                break
    return answer


def other_model(name: str) -> Any:
    torch.manual_seed(3)
    if name == "mamba":
        config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2)
        return MambaForCausalLM(config).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "sliding_window": 4, "vocab_size": 300, "initializer_range": 0.2}
    return MistralForCausalLM(MistralConfig(**sizes)).eval()


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mamba", "window"])
@pytest.mark.parametrize("shared", [True, False])
def test_together_as_alone(name: str, shared: bool, model_folders: dict[str, Path]) -> None:
    own = name in ARCHITECTURES
    model = AutoModelForCausalLM.from_pretrained(model_folders[name]).eval() if own else other_model(name)
    model.generation_config.update(do_sample=False, temperature=None, top_k=None, top_p=None, eos_token_id=None)

    def is_whole(answer: list[int]) -> bool:
        return answer[-1] % 3 == 0

    prefix = common_prefix(PROMPTS)
    assert prefix == PREFIX
    decoder = GreedyDecoder(model, prefix if shared else [])
    assert (decoder._cache is not None) == own
    expected = [alone(model, prompt, 12, is_whole) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) > 1  # rows leave the batch at different steps
    assert decoder(PROMPTS, 12, is_whole) == expected
    assert decoder(PROMPTS[2:3], 12, is_whole) == expected[2:3]  # the shared part is as it was
    assert decoder(PROMPTS, 1, is_whole) == [answer[:1] for answer in expected]


@pytest.mark.parametrize(
    ("prompts", "prefix"),
    [
        ([[1, 2, 3]], [1, 2]),
        ([[1, 2], [1, 2]], [1]),
        ([[1], [1, 2]], []),
        ([[1, 2], [2, 2]], []),
        ([[1, 2, 3], [1, 2]], [1]),
    ],
)
def test_the_common_prefix_leaves_each_prompt_a_token(prompts: list[list[int]], prefix: list[int]) -> None:
    assert common_prefix(prompts) == prefix


def parent(tmp_path: Path, folder: Path, words: list[str], **options: Any) -> tuple[LocalParent, Questions]:
    questions = Questions(antonyms(tmp_path, words, instruction="Opposite."))
    settings = {"kind": "transformers", "model": str(folder), "max_tokens": 24, "device": "cpu", **options}
    return LocalParent(ParentSettings(**settings), questions), questions


def answers(tmp_path: Path, folder: Path, **options: Any) -> list[Answer]:
    asked, questions = parent(tmp_path, folder, ["hot", "up", "old", "full", "big"], **options)
    return list(asked.answers(questions.asked))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_size_changes_no_answer(architecture: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = model_folders[architecture]
    one = answers(tmp_path, folder, batch_size=1)
    assert one == answers(tmp_path, folder, batch_size=3) == answers(tmp_path, folder, batch_size=64)
    assert [answer.asked for answer in one] == ["hot", "up", "old", "full", "big"]


@pytest.fixture
def with_eos_behind(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """The tiny Llama, its tokenizer with BOS in front and EOS behind every text, as some write them."""
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path / "behind"
    shutil.copytree(model_folders["llama"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token
    special = [("<s>", 1), (end, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"<s> $A {end}", special_tokens=special)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_that_puts_eos_behind_a_text(
    with_eos_behind: Path, model_folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert AutoTokenizer.from_pretrained(with_eos_behind)("a")["input_ids"][-1] == 0
    made = answers(tmp_path, with_eos_behind)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pgsrm.models.local_chat"]
    assert "behind a text; it is left out" in line
    plain = answers(tmp_path, model_folders["llama"])
    strip = [(answer.reference, answer.problem, answer.prompt_tokens) for answer in made]
    assert strip == [(answer.reference, answer.problem, answer.prompt_tokens) for answer in plain]
    asked, questions = parent(tmp_path, with_eos_behind, ["hot"])
    (ids,) = asked.prompts(questions.asked)
    assert ids[0] == 1 and 0 not in ids  # BOS stays


@pytest.mark.parametrize("place", ["config", "generation_config"])
def test_any_declared_eos_ends_an_answer(place: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / place
    model = AutoModelForCausalLM.from_pretrained(tiny)
    getattr(model, place).eos_token_id = [7, 9]
    if place == "config":
        model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    assert parent(tmp_path, folder, ["hot"])[0].chat.ends == {0, 7, 9}


def test_an_end_that_comes_before_the_quote_is_told(tiny: Path, tmp_path: Path) -> None:
    from pgsrm.parent.clean import BadAnswer
    from pgsrm.parent.local import _Reading

    tokenizer = AutoTokenizer.from_pretrained(tiny)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    reading = _Reading(tokenizer, {0, 7})
    assert reading.value(ids('cold"} and more')) == '{"OUTPUT": "cold"}'
    assert reading.value(ids('co\\"ld"')) == '{"OUTPUT": "co\\"ld"}'
    assert not reading.is_whole(ids('co\\"')) and reading.is_whole(ids('co\\""')) and reading.is_whole([50, 7])
    with pytest.raises(BadAnswer, match="has no end: 'cold'"):
        reading.value([*ids("cold"), 0])
    with pytest.raises(BadAnswer, match=r"does not end within parent\.max_tokens: 'cold'"):
        reading.value(ids("cold"))
    with pytest.raises(BadAnswer, match="is no text in JSON"):
        reading.value(ids('co\nld"'))


def test_without_pad_and_eos(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    assert len(answers(tmp_path, folder)) == 5


def test_tokens_that_the_model_does_not_have(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "added"
    shutil.copytree(tiny, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["Opposite"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"its tokenizer has the token 300, the model only 300; save model and tokenizer"
    ):
        answers(tmp_path, folder)


def test_a_template_that_drops_or_refuses_the_instruction(tiny: Path, tmp_path: Path) -> None:
    drops = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
    refuses = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}[{{ m.content }}]{% endfor %}"
    for name, template in (("drops", drops), ("refuses", refuses), ("none", "{{ raise_exception('no') }}")):
        folder = tmp_path / name
        shutil.copytree(tiny, folder)
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        asked, questions = parent(tmp_path, folder, ["hot"])
        if name == "none":
            with pytest.raises(UserError, match="its chat template takes no user's message"):
                list(asked.answers(questions.asked))
        else:
            (ids,) = asked.prompts(["hot"])
            assert tokenizer.decode(ids) == '[Opposite.\n\nhot]{"OUTPUT": "'
