"""A reward of this package for a trainer of somebody else: texts go in, rewards come out.

`pgsrm.trl` calls it as TRL does; the files that `python -m pgsrm.reward export` writes call it as verl and OpenRLHF do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pgsrm.config.compose import compose_run
from pgsrm.config.plan import build_objects, resolve
from pgsrm.models.asking import estimates_of
from pgsrm.models.text import Codec
from pgsrm.record.model_name import reward_name
from pgsrm.reward.calling import check_before
from pgsrm.reward.output import normalise
from pgsrm.rollout import Scored
from pgsrm.task import reference_columns
from pgsrm.util.errors import UserError, under
from pgsrm.util.text import nfc


class TextReward:
    """The reward of a config, called with texts."""

    def __init__(self, *overrides: str, tokenizer: Any | None = None, reward: Callable[..., Any] | None = None) -> None:
        """As `pgsrm.build_reward`; the config's task brings what the reward takes from it, such as binary's checker.

        Args:
            overrides: the words of the command line: `reward=pgsrm`, `embedder=static`.
            tokenizer: the policy's, of transformers. A reward that looks at places in a response needs it (reward=critic).
            reward: a reward of your own, as in `pgsrm.train`.

        Raises:
            UserError: for a word that is wrong, in one line.
        """
        config, choices = compose_run(overrides, reward)
        resolved = resolve(config, choices)
        self.name = reward_name(resolved | {"choices": choices})  # of a reward of one's own: the function's
        self._reward = build_objects(resolved)[1]
        self._codec = None if tokenizer is None else Codec(tokenizer)
        self._checked: set[tuple[str, ...]] = set()

    @property
    def asks_server(self) -> bool:
        """Whether a call asks a server about new texts."""
        return bool(estimates_of(self._reward, ["a"], ["a"]))

    def check(self, references: Sequence[Sequence[str]]) -> None:
        """Raise UserError where the reward can't work with the references of these rows; those that were checked are not again."""
        new = [row for row in dict.fromkeys(map(tuple, references)) if row not in self._checked]
        if new:
            with under("reward"):
                check_before(self._reward, new)
            self._checked.update(new)

    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str | Sequence[str]],
        inputs: Sequence[Mapping[str, str]] | None = None,
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> Scored:
        """What n responses are worth: `totals` has one number each, `token_rewards` and `metrics` what the reward said besides.

        Args:
            prompts: n prompts.
            responses: n responses as text. With a tokenizer and `token_ids` the tokens are decoded instead.
            references: n reference answers, each a text or a list of several; empty texts where the reward compares with none.
            inputs: n mappings of what else is known of a prompt, for checkers and rewards of your own.
            token_ids: n lists of the responses' token ids, the end-of-sequence token included.

        Raises:
            UserError: for references or texts that the reward can't work with.
        """
        several = [_texts(given, row) for row, given in enumerate(references)]
        self.check(several)
        texts: list[str] = [nfc(response) for response in responses]
        ids = [[0]] * len(texts) if token_ids is None else [list(row) for row in token_ids]
        offsets: Any = _NoPlaces()
        if self._codec is not None and token_ids is not None:
            texts, offsets = self._codec.decode(ids)
        with under("reward"):
            output = self._reward(
                prompts=[nfc(prompt) for prompt in prompts],
                **reference_columns(several),
                responses=texts,
                inputs=[{}] * len(texts)
                if inputs is None
                else [{key: nfc(value) for key, value in row.items()} for row in inputs],
                token_ids=ids,
                offsets=offsets,
            )
        return normalise(output, ids, self.name, texts)


def _texts(given: str | Sequence[str], row: int) -> list[str]:
    """The references of a row, at least one."""
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"references: row {row} has {str(given)[:60]}; give one text, or a list of texts")
    return [nfc(text) for text in texts]


class _NoPlaces(Sequence[Any]):
    """Offsets that nobody knows: an error for the reward that asks for them."""

    def __getitem__(self, index: Any) -> Any:
        raise UserError(
            "tokenizer: this reward looks at places in a response; give it the policy's tokenizer and token ids"
        )

    def __len__(self) -> int:
        return self[0]

    def __iter__(self) -> Iterator[Any]:
        return self[0]
