"""Between text and token ids: prompts are encoded once, sampled responses are decoded and never encoded again."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc


@dataclass(frozen=True)
class ChatTemplate:
    """That prompts are put into a model's chat template, with this message of the system's; None = the template's own."""

    system: str | None = None


class Codec:
    """A tokenizer as this package uses it. `eos` are the ids that end a response; the tokenizer's own comes first.

    `declared` are those that the model's configs name besides (`pgsrm.models.load.declared_eos`). chat: None = prompts are
    continued as they stand.
    """

    def __init__(self, tokenizer: Any, declared: Sequence[int] = (), chat: ChatTemplate | None = None) -> None:
        self.tokenizer, self._chat = tokenizer, chat
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.eos: tuple[int, ...] = tuple(dict.fromkeys([*own, *declared]))
        if not self.eos:
            raise UserError(
                f"model.path={tokenizer.name_or_path}: neither tokenizer nor model has an EOS token, which ends a response; "
                "give the tokenizer one and save it"
            )
        self._behind = ids_behind(tokenizer)
        if self._behind and chat is None:
            names = " ".join(tokenizer.convert_ids_to_tokens(self._behind))
            print(f"{tokenizer.name_or_path}: its tokenizer's {names} behind every text is left out", file=sys.stderr)
        # policies repeat themselves more and more: most responses of a later update were decoded before
        self._decode = lru_cache(maxsize=50_000)(self._decode_uncached)

    @property
    def has_chat(self) -> bool:
        """Whether prompts are put into the model's chat template."""
        return self._chat is not None

    def encode(self, prompt: str, answer: str = "") -> list[int]:
        """A prompt's token ids: in the chat template, or with what the tokenizer puts in front (BOS) and nothing behind.

        `answer` is how its answer begins, or all of it.
        """
        return encode_prompt(self.tokenizer, prompt, self._behind, self._chat, answer)

    def encode_answer(self, prompt: str, answer: str) -> list[int]:
        """The token ids of an answer as a policy would sample it behind the prompt, without EOS.

        A blank is put between the two, unless either has white space there, one of them is empty, or the prompt is in a chat
        template.
        """
        if prompt and answer and not (self.has_chat or prompt[-1].isspace() or answer[0].isspace()):
            answer = f" {answer}"
        before, whole = self.encode(prompt), self.encode(prompt, answer)
        # where the tokens of both differ at the seam, the answer's own: a policy never samples across it
        return whole[len(before) :] if whole[: len(before)] == before else self.encode_text(answer)

    def encode_text(self, text: str) -> list[int]:
        """The token ids of a text alone."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, responses: Sequence[Sequence[int]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Texts and, for each token of each response, its (start, end) characters in the text; EOS covers none."""
        decoded = [self._decode(tuple(response)) for response in responses]
        return [text for text, _ in decoded], [list(offsets) for _, offsets in decoded]

    def _decode_uncached(self, ids: tuple[int, ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Offsets are the lengths of the decoded beginnings: right for any tokenizer, also where a character spans tokens."""
        ends = [len(self._text(ids[: count + 1])) for count in range(len(ids))]
        text = self._text(ids)
        ends = [min(end, len(text)) for end in ends]
        starts = [0, *ends[:-1]]
        return text, tuple((min(start, end), end) for start, end in zip(starts, ends, strict=True))

    def _text(self, ids: Sequence[int]) -> str:
        """In NFC, as everything is that responses are compared with; offsets count the characters of that form."""
        return nfc(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def ids_behind(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts behind every text, such as T5's end; an answer would begin behind them."""
    whole, alone = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    for start in range(len(whole) - len(alone) + 1):
        if list(whole[start : start + len(alone)]) == list(alone):
            return list(whole[start + len(alone) :])
    return []


def encode_prompt(
    tokenizer: Any,
    prompt: str,
    behind: Sequence[int] | None = None,
    chat: ChatTemplate | None = None,
    answer: str = "",
) -> list[int]:
    """The token ids by which a model is asked, for policies and parents alike; `answer` is how its answer begins.

    Without `chat` the prompt is text that is continued, a blank at its end included: what the tokenizer puts in front (BOS)
    stays, what it puts behind (`ids_behind`) is left out. With it the prompt is the user's message in the model's template,
    which brings all special tokens itself.

    Raises:
        UserError: where there is no chat template, or one that takes no user's message.
    """
    if chat is not None:
        text = in_template(tokenizer, prompt, chat.system)
        return list(tokenizer(text + answer, add_special_tokens=False)["input_ids"])
    ids, behind = (
        list(tokenizer(prompt + answer)["input_ids"]),
        ids_behind(tokenizer) if behind is None else list(behind),
    )
    return ids[: -len(behind)] if behind and ids[-len(behind) :] == behind else ids


def in_template(tokenizer: Any, message: str, system: str | None) -> str:
    """A user's message in the model's chat template, up to where the answer begins.

    Blanks around the message are left out. A template that has no place for the system's message gets it in front of the
    user's. One that can turn off thoughts in front of the answer does so: a response is a few tokens.

    Raises:
        UserError: as `encode_prompt`.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"model.chat_template=true: model.path={tokenizer.name_or_path} has no chat template; leave it out, or save one "
            "with the tokenizer"
        )
    message, system = message.strip(), (system or "").strip()
    user = {"role": "user", "content": message}
    text = _templated(tokenizer, [{"role": "system", "content": system}, user] if system else [user])
    if system and (text is None or system not in text):
        text = _templated(tokenizer, [{"role": "user", "content": f"{system}\n\n{message}"}])
    if text is None:
        raise UserError(
            f"model.path={tokenizer.name_or_path}: its chat template takes no user's message; name a model with another"
        )
    return text


def _templated(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str | None:
    """The messages in the model's chat template; None where it refuses them."""
    from jinja2 import TemplateError

    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        text: str = tokenizer.apply_chat_template(list(messages), **options)
    except (TemplateError, TypeError):
        return None
    return text
