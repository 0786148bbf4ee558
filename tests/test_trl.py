"""Rewards of this package in other trainers, and TRL's reward functions here."""

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import exit_code
from transformers import AutoTokenizer

import pgsrm
from pgsrm.models.settings import SHIPPED
from pgsrm.reward import TRLReward
from pgsrm.reward.__main__ import _from_anywhere, main
from pgsrm.trl import dataset_rows, reward_function
from pgsrm.util.errors import UserError

PROMPT = "The opposite of 'hot' is "
ANSWERS = ["cold", "hot", "table"]


def as_trl_calls(function: Callable[..., Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
    """With all that GRPOTrainer gives."""
    logged: dict[str, float] = {}
    output = function(
        prompts=[PROMPT] * len(completions),
        completions=completions,
        completion_ids=[[index + 1] for index in range(len(completions))],
        trainer_state=object(),
        log_extra=lambda column, values: None,
        log_metric=logged.__setitem__,
        environments=None,
        **columns,
    )
    if inspect.isawaitable(output):
        output = asyncio.run(output)
    assert isinstance(output, list)
    return output


def test_rewards_are_those_of_a_run() -> None:
    reward = pgsrm.build_reward("reward=pgsrm", "embedder=static")
    own, _ = reward(
        prompts=[PROMPT] * 3,
        references=["cold"] * 3,
        responses=ANSWERS,
        inputs=[{}] * 3,
        token_ids=[[1]] * 3,
        offsets=[[(0, 0)]] * 3,
    )
    function = reward_function("reward=pgsrm", "embedder=static")
    assert function.__name__ == "pgsrm"
    assert as_trl_calls(function, ANSWERS, reference=["cold"] * 3) == own
    assert own[0] == 1 and own[0] > own[1] > own[2]


def test_messages_and_another_column() -> None:
    messages = [[{"role": "assistant", "content": answer}] for answer in ANSWERS]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": answer}]}] for answer in ANSWERS]
    function = reward_function("reward=binary", "task=antonym", reference="answer")
    for completions in (ANSWERS, messages, parts):
        assert as_trl_calls(function, completions, answer=["cold"] * 3) == [1.0, 0.0, 0.0]


def test_a_dataset_without_references() -> None:
    with pytest.raises(UserError, match=r"reference=reference: .* \(it has: answer\)"):
        as_trl_calls(reward_function("reward=binary"), ["cold"], answer=["cold"])
    function = reward_function("reward=classifier", reference=None)
    good, bad = as_trl_calls(function, ["a wonderful film", "an awful film"])
    assert good is not None and bad is not None and good > bad


def test_rows_without_a_reference_get_no_reward() -> None:
    function = reward_function("reward=binary", "task=antonym")
    assert as_trl_calls(function, ANSWERS, reference=["cold", None, "table"]) == [1.0, None, 1.0]
    assert as_trl_calls(function, ANSWERS, reference=[None] * 3) == [None] * 3
    with pytest.raises(UserError, match=r"reference=reference: the column has \[1\]; give each row one text, a list"):
        as_trl_calls(function, ["cold"], reference=[[1]])


def test_a_column_with_something_else_in_one_row_is_kept_for_the_others() -> None:
    seen: list[dict[str, str]] = []

    def look(*, inputs: list[dict[str, str]], responses: list[str], **_: Any) -> list[float]:
        seen.extend(inputs)
        return [0.0] * len(responses)

    sys.modules[__name__].look = look  # type: ignore[attr-defined]
    look.__qualname__ = "look"
    as_trl_calls(reward_function(reward=look), ["a", "b"], reference=["", ""], word=["hot", None])
    assert seen == [{"word": "hot", "reference": ""}, {"reference": ""}]


def test_texts_are_brought_into_one_form() -> None:
    function = reward_function("reward=binary", "task=antonym")
    assert as_trl_calls(function, ["caf\u00e9"], reference=["cafe\u0301"]) == [1.0]


def test_a_blank_reference_is_refused() -> None:
    with pytest.raises(UserError, match="the reference ' ' has no vector"):
        as_trl_calls(reward_function("reward=pgsrm"), ["cold"], reference=[" "])


def test_a_reward_per_token_needs_the_tokenizer_and_gives_totals() -> None:
    words = ("reward=critic", "task=sentiment_control", "critic=lexicon")
    with pytest.raises(UserError, match="tokenizer: this reward looks at places"):
        as_trl_calls(reward_function(*words, reference=None), ["a wonderful film"])
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    ids = [tokenizer("a wonderful film")["input_ids"]]
    logged: dict[str, float] = {}
    function = reward_function(*words, reference=None, tokenizer=tokenizer)
    (total,) = function(
        prompts=["x"], completions=["a wonderful film"], completion_ids=ids, log_metric=logged.__setitem__
    )
    assert total == pytest.approx(logged["critic/extrinsic"] + logged["critic/positive"])
    assert logged["critic/positive"] > 0


def test_a_reward_that_asks_a_server_is_a_coroutine_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = reward_function("reward=moderation", reference=None)
    assert inspect.iscoroutinefunction(asked)
    assert not inspect.iscoroutinefunction(reward_function("reward=pgsrm"))


def test_rows_of_a_dataset() -> None:
    train = dataset_rows("task=antonym", "task.holdout=0.2")
    held_out = dataset_rows("task=antonym", "task.holdout=0.2", split="holdout")
    task = pgsrm.load_task("task=antonym", "task.holdout=0.2")
    assert [row["prompt"] for row in train] == [example.prompt for example in task.train]
    assert len(held_out) == len(task.holdout)
    assert {"word": "hot", "prompt": PROMPT, "reference": "cold"} in train + held_out
    with pytest.raises(UserError, match="split=test: no such split"):
        dataset_rows("task=antonym", split="test")


def test_trl_itself_trains_on_it(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=2,
        max_steps=2,
        bf16=False,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
    )
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32),
        processing_class=tokenizer,
        reward_funcs=reward_function("reward=pgsrm"),
        args=config,
        train_dataset=Dataset.from_list(dataset_rows("task=antonym")),
    )
    trainer.train()
    assert "rewards/pgsrm/mean" in trainer.state.log_history[0]
    assert "pgsrm/similarity" in trainer.state.log_history[0]


# TRL's functions here


def call(reward: TRLReward, responses: list[str]) -> tuple[list[float], dict[str, float]]:
    count = len(responses)
    return reward(
        prompts=[PROMPT] * count,
        references=["cold"] * count,
        responses=responses,
        inputs=[{"word": "hot"}] * count,
        token_ids=[[1]] * count,
    )


def test_a_function_gets_columns_and_may_log() -> None:
    def function(
        prompts: list[str], completions: list[str], solution: list[str], word: list[str], log_metric: Any, **_: Any
    ) -> list[float | None]:
        log_metric("words", len(word))
        log_metric("words", 0)
        assert prompts[0] == PROMPT
        return [
            None if given == "table" else float(given == right)
            for given, right in zip(completions, solution, strict=True)
        ]

    rewards, metrics = call(TRLReward(function, columns={"solution": "reference"}), ANSWERS)
    assert rewards == [1.0, 0.0, 0.0]
    assert metrics == {"words": 1.5}


def test_messages_and_coroutines() -> None:
    async def function(prompts: Any, completions: Any, **_: Any) -> list[float]:
        await asyncio.sleep(0)
        assert prompts[0] == [{"role": "user", "content": PROMPT}]
        return [float(len(message[-1]["content"])) for message in completions]

    assert call(TRLReward(function, conversational=True), ANSWERS)[0] == [4.0, 3.0, 5.0]


def test_columns_that_are_not_there() -> None:
    def function(completions: list[str], solution: list[str], **_: Any) -> list[float]:
        return [0.0]

    with pytest.raises(
        UserError, match=r"function: missing a required argument: 'solution'; the columns are word, ref"
    ):
        call(TRLReward(function), ["cold"])
    with pytest.raises(UserError, match=r"columns\.solution=answer: no such column; there are word, reference"):
        call(TRLReward(function, columns={"solution": "answer"}), ["cold"])


def test_a_function_is_asked_with_each_of_several_references_or_with_all_in_a_list() -> None:
    """The largest reward counts, as for this package's own. Wrong version: the first reference alone, or another type per batch."""
    seen: list[Any] = []

    def equal(completions: Any, completion_ids: Any, reference: Any, word: Any, log_metric: Any, **_: Any) -> list[Any]:
        seen.append((list(completions), list(reference), list(word), list(completion_ids)))
        log_metric("asked", len(completions))
        return [
            None if text == "table" else -1.0 + 2 * (text in right if isinstance(right, list) else text == right)
            for text, right in zip(completions, reference, strict=True)
        ]

    batch: dict[str, Any] = {
        "prompts": ["hot is ", "hot is ", "big is ", "big is "],
        "responses": ["icy", "warm", "small", "table"],
        "references": ["cold", "cold", "small", "small"],
        "all_references": [["cold", "icy"], ["cold", "icy"], ["small"], ["small"]],
        "inputs": [{"word": "hot"}] * 2 + [{"word": "big"}] * 2,
        "token_ids": [[1], [2], [3], [4]],
    }
    for references, asked in (("each", 6), ("list", 4)):
        rewards, metrics = TRLReward(equal, references=references)(**batch)  # type: ignore[arg-type]
        assert rewards == [1.0, -1.0, 1.0, 0.0] and metrics == {"asked": asked}
    each, together = seen
    assert each == (
        ["icy", "icy", "warm", "warm", "small", "table"],
        ["cold", "icy", "cold", "icy", "small", "small"],
        ["hot"] * 4 + ["big"] * 2,
        [[1], [1], [2], [2], [3], [4]],
    )
    assert together == (batch["responses"], batch["all_references"], ["hot", "hot", "big", "big"], batch["token_ids"])
    del batch["all_references"]  # a batch whose prompts have one each: the types are those of any other batch
    for references in ("each", "list"):
        TRLReward(equal, references=references)(**batch)  # type: ignore[arg-type]
    assert [row[1][0] for row in seen[2:]] == ["cold", ["cold"]]


def test_what_a_function_returns_is_one_number_for_each_completion() -> None:
    for output, line in (([1.0], "it returned 1 reward for 2 completions"), (None, "it returned None; return a list")):
        with pytest.raises(UserError, match=f"function: {line}"):
            call(TRLReward(lambda given=output, **_: given), ["cold", "hot"])


# files for other trainers


def exported(trainer: str, path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["pgsrm.reward", "export", trainer, *words, "--out", str(path)])
    assert exit_code(main) == 0
    spec = importlib.util.spec_from_file_location(f"for_{trainer}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_for_verl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = exported("verl", tmp_path / "reward.py", monkeypatch, "reward=binary", "task=antonym")
    assert module.compute_score("antonym", "cold", "cold", {"index": 1}) == 1.0
    several = module.compute_score(
        data_sources=["antonym"] * 2, solution_strs=["cold", "hot"], ground_truths=["cold"] * 2, extra_infos=[None, {}]
    )
    assert several == [1.0, 0.0]


def test_a_file_for_openrlhf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = exported("openrlhf", tmp_path / "reward.py", monkeypatch, "reward=pgsrm", "embedder=static")
    result = module.reward_func([PROMPT + answer for answer in ANSWERS], [PROMPT] * 3, ["cold"] * 3)
    assert result["rewards"].tolist()[0] == 1.0
    assert result["rewards"].tolist() == result["scores"].tolist()
    assert len(result["extra_logs"]["similarity"]) == 3
    with_tokens = [f"<s>{PROMPT}{answer}<|im_end|></s><pad><pad>" for answer in ANSWERS]
    assert module.reward_func(with_tokens, [PROMPT] * 3, ["cold"] * 3)["rewards"].tolist() == result["rewards"].tolist()


@pytest.mark.parametrize(
    "word, whole",
    [
        ("reward.path=models/a", "reward.path={0}/models/a"),
        ("reward.path=[models/a,'models/b']", "reward.path=[{0}/models/a,'{0}/models/b']"),
        ("task.data=mine.csv", "task.data={0}/mine.csv"),
        ("task=color", "task=color"),
        ("reward.alpha=4", "reward.alpha=4"),
        ("reward.path=not/here", "reward.path=not/here"),
    ],
)
def test_a_file_that_is_named_has_its_whole_path(
    word: str, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: a list's paths, and a file of the folder one is in, were found from that folder alone."""
    monkeypatch.chdir(tmp_path)
    for folder in ("models/a", "models/b", "color"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine.csv").write_text("prompt,reference\n")
    assert _from_anywhere(word) == whole.format(tmp_path)


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reward.py"
    path.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["pgsrm.reward", "export", "verl", "reward=pgsrm", "--out", str(path)])
    assert exit_code(main) != 0
    assert "is there already; name a new file" in capsys.readouterr().err
    assert path.read_text() == "mine"
