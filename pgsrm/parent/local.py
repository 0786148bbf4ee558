"""A parent on this machine: a causal language model, greedy."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pgsrm.models.server import Budget
from pgsrm.models.settings import ModelSettings, check_model
from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.question import Answer, Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.errors import UserError

_BEGINNING = '{"OUTPUT": "'  # put into the model's mouth: the answer can only be the value
_ENDINGS = ['"}', '" }', '"\n']


class LocalParent:
    """Answers questions with a model of transformers, `batch_size` at a time. Raises UserError for one that can't be had."""

    host = None

    def __init__(self, settings: ParentSettings, questions: Questions) -> None:
        from pgsrm.models.load import resolve_device  # torch

        if settings.model is None:
            raise UserError("parent.model=null: no model to ask; set it to a hub name or a folder")
        self._name = settings.model
        self._settings, self._questions = settings, questions
        self.budget = Budget(settings.max_calls)
        with_names = ModelSettings(path=settings.model, revision=settings.revision, device=settings.device)
        try:
            check_model(with_names)
            self._device = resolve_device(settings.device)
        except UserError as error:
            raise UserError(
                str(error).replace("model.path", "parent.model").replace("model.device", "parent.device")
            ) from None

    def estimate(self, asked: Sequence[str]) -> str:
        """One line on what the questions will take."""
        longest = len(asked) * self._settings.max_tokens
        return f"{len(asked)} prompts for {self._name} on {self._device}: at most {longest:,} tokens out"

    def answers(self, asked: Sequence[str]) -> Iterator[Answer]:
        """An answer to each question, in their order.

        Raises:
            BudgetExceeded: once max_calls questions have been asked in all, if there are more.
        """
        if not asked:
            return
        most = self.budget.max_calls
        allowed = len(asked) if most is None else min(len(asked), max(0, most - self.budget.calls))
        if not allowed:
            self._count(asked)
        model, tokenizer = self._load()
        prompts = [self._prompt(tokenizer, question) for question in asked]
        self._check_room(model, tokenizer, prompts)
        step = self._settings.batch_size
        for start in range(0, allowed, step):
            some = slice(start, min(start + step, allowed))
            self._count(asked[some])
            yield from self._batch(model, tokenizer, asked[some], prompts[some])
        self._count(asked[allowed:])

    def _count(self, asked: Sequence[str]) -> None:
        """Raises BudgetExceeded where there are too many."""
        for _ in asked:
            with self.budget.call(0, 0):
                pass

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        where = {"pretrained_model_name_or_path": self._name, "revision": self._settings.revision or "main"}
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(**where, padding_side="left")
            model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, self._settings.dtype))
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise UserError(
                f"parent.model={self._name}: can't be loaded ({reason}); name a causal language model"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # A model brings sampling settings of its own; these are greedy, and end where the model's own end.
        ends = model.generation_config.eos_token_id
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id if ends is None else ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        return model.to(self._device).eval(), tokenizer

    def _prompt(self, tokenizer: Any, asked: str) -> str:
        messages = self._questions.messages(asked)
        if not tokenizer.chat_template:
            return f"{self._questions.instruction}\n\nINPUT: {asked}\n{_BEGINNING}"
        from jinja2 import TemplateError

        try:
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # templates without a system's message
            both = [{"role": "user", "content": f"{self._questions.instruction}\n\n{asked}"}]
            text = tokenizer.apply_chat_template(both, tokenize=False, add_generation_prompt=True)
        return text + _BEGINNING

    def _check_room(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> None:
        room = getattr(model.config, "max_position_embeddings", None)
        needed = max(map(len, tokenizer(list(prompts))["input_ids"])) + self._settings.max_tokens
        if room is not None and needed > room:
            raise UserError(
                f"parent.model={self._name}: has room for {room} tokens, instruction, input and answer take {needed}; "
                "name one with a longer context, or lower parent.max_tokens"
            )

    def _batch(self, model: Any, tokenizer: Any, asked: Sequence[str], prompts: Sequence[str]) -> Iterator[Answer]:
        import torch

        # A chat template brings the special tokens itself.
        given = tokenizer(
            list(prompts), return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template
        ).to(self._device)
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=self._settings.max_tokens,
                stop_strings=_ENDINGS,
                tokenizer=tokenizer,
            )
        width = given["input_ids"].shape[1]
        lengths = given["attention_mask"].sum(1).tolist()
        for question, row, prompt_tokens in zip(asked, tokens[:, width:], lengths, strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True)
            made = int((row != tokenizer.pad_token_id).sum())
            reference = problem = None
            try:
                reference = self._questions.read(question, _closed(text))
            except BadAnswer as error:
                problem = str(error)
            yield Answer(question, reference, problem, self._name, prompt_tokens, made)


def _closed(text: str) -> str:
    """{"OUTPUT": "..."} of what followed its beginning, and nothing that came after."""
    try:
        value, _ = json.JSONDecoder().raw_decode('"' + text)
    except ValueError:
        raise BadAnswer(f"does not end within parent.max_tokens: {text[:60]!r}") from None
    return json.dumps({"OUTPUT": value})
