"""Rewards from a critic's spans (RELC, arXiv:2401.07382), and the arms that they must be measured against."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

import msgspec

from pgsrm.critic import OUTCOMES, Critic, Critique, Outcome, critiques_of
from pgsrm.models.asking import CHARACTERS, Estimate, estimates_of
from pgsrm.reward.output import normalise, with_part
from pgsrm.reward.spans import Match, On, Per, marked_labels, token_values
from pgsrm.rollout import Annotation, Scored, Span
from pgsrm.util.errors import ParameterError, under
from pgsrm.util.numbers import Finite, Fraction, mean
from pgsrm.util.objects import attach_object, check_object, is_scaled, name_of, restore_object, state_of
from pgsrm.util.shell import quoted

logger = logging.getLogger(__name__)
_ENOUGH = 8  # replies, or quotes, that tell a critic of no use from bad luck

Arm = Literal["sparse", "critic", "uniform", "shuffled", "total_at_end", "critic_only", "decomposed", "shaped"]
WITHOUT_CRITIC: tuple[Arm, ...] = ("sparse", "decomposed")
WITHOUT_EXTRINSIC: tuple[Arm, ...] = ("critic_only",)
COUNTERS = ("calls", "cache_hits")


class Gate(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which responses the critic is asked about: those whose extrinsic reward is low, or a random share of them (R5)."""

    # The critic is asked about responses whose extrinsic reward is this or less.
    below: Finite | None = None
    # The critic is asked about this share of the responses, drawn at random.
    share: Fraction | None = None


class CriticReward:
    """The extrinsic reward of a response at its last token, and what a critic's spans are worth on theirs.

    With the extrinsic reward e, the values v_t of the tokens in the critic's spans, and their sum V, the arms are, for a
    response of n tokens:

    - sparse: e at the last token. The critic is not asked.
    - critic: v_t at each token, and e at the last one.
    - uniform: V / n at each token, and e at the last one: as dense, and it says of no token that it is good or bad.
    - shuffled: the v_t on random tokens of the same response, and e at the last one.
    - total_at_end: e + V at the last token: the same return, and nothing dense.
    - critic_only: v_t at each token.
    - decomposed: at each token the extrinsic reward of the response up to it, minus that of the response before it (0 before
      the first): dense, with a total of e. The critic is not asked.
    - shaped: v_t at each token, and e - V at the last one: the critic says where, the total stays e.

    values: label of a span -> what it is worth. per, on, match: how a span's value comes to its tokens
    (`pgsrm.reward.spans`). unmarked: the value of each token outside the spans, of a response that the critic was asked
    about and answered in the right form (the published code's `positive_reward_value`, R4). outcomes: outcome of a critique
    (`clean`, `unparsed`) -> a value at the last token; 0 for those that are not named. gate: None asks about every response.
    arm_seed: what the random arms draw from, with the batch's content: the same batch gets the same rewards, also after a
    resume.

    Raises ParameterError for settings that contradict each other, and where there is no extrinsic reward or no critic.
    """

    def __init__(
        self,
        extrinsic: Any = None,
        critic: Any = None,
        arm: Arm = "critic",
        values: dict[str, Finite] | None = None,
        per: Per = "token",
        on: On = "all",
        match: Match = "offset",
        unmarked: Finite = 0.0,
        outcomes: dict[Outcome, Finite] | None = None,
        gate: Gate | None = None,
        arm_seed: int = 0,
    ) -> None:
        self._arm = arm
        self._extrinsic = _given(extrinsic, "extrinsic") if arm not in WITHOUT_EXTRINSIC else None
        self._critic: Critic | None = _given(critic, "critic") if arm not in WITHOUT_CRITIC else None
        self._values = dict(values) if values is not None else {"positive": 0.5, "negative": -0.5}
        self._per, self._on, self._match = per, on, match
        self._unmarked, self._outcomes = unmarked, dict(outcomes or {})
        self._gate = msgspec.convert(gate, Gate) if gate else Gate()
        self._seed = arm_seed
        self._told = False  # that the critic's replies are of no use
        self._unpaid: set[str] = set()  # labels without a value that it was told of
        self._masked: Callable[[str], str] = str
        self._check_settings()

    def _check_settings(self) -> None:
        if self._match != "offset" and (self._per, self._on) != ("token", "all"):
            raise ParameterError(
                f"match={self._match}: marks single tokens and knows no spans; set per=token and on=all"
            )
        gate = self._gate
        if gate.below is not None and gate.share is not None:
            raise ParameterError("gate: has both below and share; set one of them")
        if gate.below is not None and self._extrinsic is None:
            raise ParameterError(f"gate.below={gate.below}: arm={self._arm} has no extrinsic reward; set share")
        if self._arm == "decomposed" and is_scaled(self._extrinsic):
            raise ParameterError(
                "arm=decomposed: takes differences of extrinsic rewards, and a deviation of their own would scale those "
                "of beginnings otherwise; set the extrinsic reward's normalise to null"
            )
        if self._outcomes.get("parsed"):
            raise ParameterError("outcomes.parsed: what a critique marks is paid by `values`; leave it out")

    @property
    def inner_rewards(self) -> dict[str, Any]:
        """The extrinsic reward by its key in the config, where there is one."""
        return {} if self._extrinsic is None else {"extrinsic": self._extrinsic}

    def check(self, references: Sequence[str]) -> None:
        """Have the critic say what would keep it from working."""
        check_object(self._critic)

    def attach(self, policy: Any, codec: Any) -> None:
        """Hand policy and tokenizer to a critic that is the policy itself."""
        attach_object(self._critic, policy, codec)

    def mask_messages(self, masked: Callable[[str], str]) -> None:
        """Have warnings quote replies as `masked` makes them."""
        self._masked = masked

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        """What asking about n texts takes at most, of the extrinsic reward and of the critic."""
        texts = (
            len(responses[0]) // CHARACTERS if self._arm == "decomposed" and responses else 1
        )  # each beginning is one
        extrinsic = [estimate.times(texts) for estimate in estimates_of(self._extrinsic, prompts, responses)]
        share = 1.0 if self._gate.share is None else self._gate.share
        return extrinsic + [estimate.times(share) for estimate in estimates_of(self._critic, prompts, responses)]

    def state(self) -> Any:
        """What the extrinsic reward remembers of earlier batches."""
        return state_of(self._extrinsic)

    def restore(self, state: Any) -> None:
        """Make it what it was when `state` returned this."""
        restore_object(self._extrinsic, state)

    def __call__(
        self,
        *,
        prompts: list[str],
        responses: list[str],
        token_ids: list[list[int]],
        offsets: list[list[tuple[int, int]]],
        **others: Any,
    ) -> tuple[list[list[float]], dict[str, float], list[Annotation]]:
        """One list of rewards per response, the streams as metrics, and the spans as annotations."""
        batch = {**others, "prompts": prompts, "responses": responses, "token_ids": token_ids, "offsets": offsets}
        draw = random.Random(_batch_seed(self._seed, prompts, token_ids))
        scored = None if self._extrinsic is None else _score(self._extrinsic, batch)
        extrinsic = None if scored is None else scored.totals
        metrics = {} if scored is None else {"extrinsic": mean(scored.totals)}
        marks = [Marks((), None, [0.0] * len(ids), 0) for ids in token_ids]
        if self._critic is not None:
            started = time.perf_counter()
            marks, spent = self._ask(prompts, responses, offsets, extrinsic, draw)
            metrics |= {**_streams(marks), **spent, "time/critic": time.perf_counter() - started}
        if self._arm == "decomposed":
            rewards = _decompose(self._extrinsic, batch, scored)
        else:
            totals = extrinsic or [0.0] * len(token_ids)
            rewards = [arrange(self._arm, e, m.values, draw) for e, m in zip(totals, marks, strict=True)]
        if scored is not None:  # one that the extrinsic reward has too, a critic's for instance, is told apart
            metrics = with_part(metrics, "extrinsic", scored.metrics)
        return rewards, metrics, [self._annotation(row, extrinsic, marks) for row in range(len(token_ids))]

    def _ask(
        self,
        prompts: list[str],
        responses: list[str],
        offsets: list[list[tuple[int, int]]],
        extrinsic: list[float] | None,
        draw: random.Random,
    ) -> tuple[list[Marks], dict[str, float]]:
        """What the critic says of the responses that the gate lets through, and what asking took."""
        assert self._critic is not None
        rows = self._through_gate(len(responses), extrinsic, draw)
        before = _counters(self._critic)
        critiques: list[Critique] = []
        if rows:
            asked = None if extrinsic is None else [extrinsic[row] for row in rows]
            critiques = critiques_of(
                self._critic, [prompts[row] for row in rows], [responses[row] for row in rows], asked
            )
        if not self._told and (problem := _useless(critiques, self._masked)):
            self._told = True
            logger.warning(
                "%s; `python -m pgsrm.critic ask` shows more, and critic.instruction says what is asked", problem
            )
        self._tell_of_labels(critiques)
        after = _counters(self._critic)
        spent = {f"critic/{name}": after[name] - before.get(name, 0.0) for name in after}
        marks = [Marks((), None, [0.0] * len(pairs), 0) for pairs in offsets]
        for row, critique in zip(rows, critiques, strict=True):
            marks[row] = self._marks(critique, responses[row], offsets[row])
        return marks, {"critic/asked": len(rows) / len(responses), **({"critic/calls": float(len(rows))} | spent)}

    def _tell_of_labels(self, critiques: Sequence[Critique]) -> None:
        """A line, once for each label, where spans have a label that nothing is paid for."""
        labels = {span.label for critique in critiques for span in critique.spans}
        if unpaid := sorted(labels - self._values.keys() - self._unpaid):
            self._unpaid |= set(unpaid)
            # the whole mapping: one that is set takes the place of the task's, and other labels would earn nothing then
            values = {**self._values, **dict.fromkeys(sorted(self._unpaid), -0.5)}
            mapping = ", ".join(f"{label}: {value}" for label, value in values.items())
            logger.warning(
                "critic: marks %s, which earns nothing, since reward.values has %s; set all labels, as %s, with 0 for one that "
                "is to earn nothing (of a part of reward=sum: reward.parts.NAME.values)",
                ", ".join(unpaid),
                ", ".join(self._values) or "no label",
                quoted(f"reward.values={{{mapping}}}"),
            )

    def _through_gate(self, count: int, extrinsic: list[float] | None, draw: random.Random) -> list[int]:
        gate = self._gate
        if gate.share is not None:
            return sorted(draw.sample(range(count), round(gate.share * count)))
        if gate.below is None:
            return list(range(count))
        assert extrinsic is not None
        return [row for row in range(count) if extrinsic[row] <= gate.below]

    def _marks(self, critique: Critique, text: str, offsets: list[tuple[int, int]]) -> Marks:
        spans = critique.spans if critique.outcome == "parsed" else ()
        labels = marked_labels(spans, text, offsets, self._match)
        values = token_values(spans, text, offsets, self._values, self._per, self._on, self._match)
        if critique.outcome != "unparsed":
            values = [value if marked else self._unmarked for value, marked in zip(values, labels, strict=True)]
        values[-1] += self._outcomes.get(critique.outcome, 0.0)
        return Marks(spans, critique, values, sum(map(bool, labels)))

    def _annotation(self, row: int, extrinsic: list[float] | None, marks: list[Marks]) -> Annotation:
        spans = tuple(Span(s.start, s.end, s.label, self._values.get(s.label)) for s in marks[row].spans)
        components = {} if extrinsic is None else {"extrinsic": extrinsic[row]}
        if self._critic is not None:
            components["intrinsic"] = sum(marks[row].values)
        return Annotation(spans, components)


@dataclass(frozen=True)
class Marks:
    """What the critic's answer means for one response: values (T,) of its tokens, and how many of them it marked."""

    spans: tuple[Span, ...]
    critique: Critique | None  # None: the critic was not asked about this response
    values: list[float]
    marked: int


def arrange(arm: Arm, extrinsic: float, values: Sequence[float], draw: random.Random) -> list[float]:
    """The rewards (T,) of a response's tokens from its extrinsic reward and the critic's values (T,), by `CriticReward`'s arms."""
    total, rewards = sum(values), list(values)
    if arm in ("sparse", "total_at_end"):
        rewards = [0.0] * len(values)
    elif arm == "uniform":
        rewards = [total / len(values)] * len(values)
    elif arm == "shuffled":
        draw.shuffle(rewards)
    rewards[-1] += extrinsic
    if arm == "total_at_end":
        rewards[-1] += total
    elif arm == "shaped":
        rewards[-1] -= total
    return rewards


def _decompose(extrinsic: Any, batch: Mapping[str, Any], whole: Scored | None) -> list[list[float]]:
    """Rewards of each token: the extrinsic reward of the response up to it minus that of the response before it."""
    assert whole is not None
    rows: list[int] = []
    texts: list[str] = []
    for row, (text, offsets) in enumerate(zip(batch["responses"], batch["offsets"], strict=True)):
        ends = dict.fromkeys(end for _, end in offsets if 0 < end < len(text))
        rows += [row] * len(ends)
        texts += [text[:end] for end in ends]
    lengths = [len(text) for text in texts]
    worth = dict(zip(zip(rows, lengths, strict=True), _of_beginnings(extrinsic, batch, rows, texts), strict=True))
    rewards = []
    for row, (text, offsets) in enumerate(zip(batch["responses"], batch["offsets"], strict=True)):
        total = whole.totals[row]
        # the empty beginning is worth 0, and the whole what it is worth, also where it is empty
        reached = [0.0 if end == 0 else total if end == len(text) else worth[row, end] for _, end in offsets]
        reached[-1] = total
        rewards.append([after - before for before, after in zip([0.0, *reached[:-1]], reached, strict=True)])
    return rewards


def _of_beginnings(extrinsic: Any, batch: Mapping[str, Any], rows: list[int], texts: list[str]) -> list[float]:
    """The extrinsic rewards of beginnings of responses: text `texts[i]` is the beginning of response `rows[i]`."""
    if not rows:
        return []
    counts = [sum(end <= len(text) for _, end in batch["offsets"][row]) for row, text in zip(rows, texts, strict=True)]
    part = {name: [column[row] for row in rows] for name, column in batch.items()}
    part["responses"] = texts
    for name in ("token_ids", "offsets"):
        part[name] = [list(tokens)[: max(1, count)] for tokens, count in zip(part[name], counts, strict=True)]
    return _score(extrinsic, part).totals


def _score(extrinsic: Any, batch: Mapping[str, Any]) -> Scored:
    with under("extrinsic"):
        return normalise(extrinsic(**batch), batch["token_ids"], name_of(extrinsic), batch["responses"])


def _streams(marks: Sequence[Marks]) -> dict[str, float]:
    """Means over the responses that the critic was asked about: what it gave and took, and how it answered."""
    asked = [mark for mark in marks if mark.critique is not None]
    tokens = sum(len(mark.values) for mark in asked)
    critiques = [mark.critique for mark in asked if mark.critique is not None]
    outcomes = Counter(critique.outcome for critique in critiques)
    quotes = sum(critique.quotes for critique in critiques)
    count = max(1, len(asked))
    return {
        "critic/positive": sum(max(0.0, value) for mark in asked for value in mark.values) / count,
        "critic/negative": sum(min(0.0, value) for mark in asked for value in mark.values) / count,
        "critic/coverage": sum(mark.marked for mark in asked) / max(1, tokens),
        "critic/spans": sum(len(mark.spans) for mark in asked) / count,
        **{f"critic/{outcome}": outcomes[outcome] / count for outcome in OUTCOMES},
        "critic/lost": sum(critique.lost for critique in critiques) / max(1, quotes),
    }


def _useless(critiques: Sequence[Critique], masked: Callable[[str], str]) -> str:
    """What is wrong with replies of which none marks anything that could be marked; empty if nothing is, or if they are few."""
    if len(critiques) < _ENOUGH:
        return ""
    shown = shorten(masked(critiques[0].reply), 80, placeholder=" ...")
    if all(critique.outcome == "unparsed" for critique in critiques):
        return f"critic: none of {len(critiques)} replies has a form that is read, so none earns anything; one is {shown!r}"
    quotes = sum(critique.quotes for critique in critiques)
    if quotes >= _ENOUGH and quotes == sum(critique.lost for critique in critiques):
        return f"critic: none of {quotes} quotes is in its response, so none earns anything; one reply is {shown!r}"
    return ""


def _counters(critic: Any) -> dict[str, float]:
    """What a critic has counted since it was made: its attribute `counts`, a mapping, where it has one."""
    counts = getattr(critic, "counts", None)
    return {name: float(counts[name]) for name in COUNTERS if name in counts} if isinstance(counts, Mapping) else {}


def _batch_seed(seed: int, prompts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> int:
    """A seed that depends on the batch alone: the same after a resume, another one for every batch."""
    content = json.dumps([seed, list(prompts), [list(map(int, ids)) for ids in token_ids]])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")


def _given(part: Any, key: str) -> Any:
    if callable(part):
        return part
    remedy = {
        "extrinsic": "the task has none; choose task=sentiment_control, or name a reward in task.extrinsic",
        "critic": "choose one by critic=...",
    }[key]
    raise ParameterError(f"{key}={part if part is None else repr(part)}: is no {key}; {remedy}".replace("None", "null"))
