"""Spans and the tokens that wrote them: borders, characters of several bytes, and what a placement does to credit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import ROOT, in_float64

from pgsrm.models.load import load_tokenizer
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.ppo.advantages import advantages_and_targets, token_rewards
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step
from pgsrm.record.measured import is_measured
from pgsrm.reward.critic import arrange
from pgsrm.reward.spans import marked_labels, token_values, tokens_of
from pgsrm.rollout import Span

GOOD, BAD = "positive", "negative"
VALUES = {GOOD: 0.5, BAD: -0.5}


def whole(text: str, quote: str, label: str = GOOD) -> Span:
    start = text.index(quote)
    return Span(start, start + len(quote), label)


@pytest.mark.parametrize("quote", ["Un", "!", "café", "naïve", "é", "日本", "film 日", "Un café naïve, film 日本 !"])
def test_a_quote_gets_the_tokens_whose_bytes_are_in_it(quote: str) -> None:
    """Against the bytes: of a real tokenizer, whose tokens cut characters of several bytes."""
    text = "Un café naïve, film 日本 !"
    codec = Codec(load_tokenizer(ModelSettings(path=str(ROOT / "pgsrm/nano/weights"))))
    ids = codec.encode_text(text)
    (decoded,), (offsets,) = codec.decode([[*ids, min(codec.eos)]])
    assert decoded == text and any(start == end for start, end in offsets[:-1])  # a character in two tokens
    span = whole(text, quote)
    first, last = len(text[: span.start].encode()), len(text[: span.end].encode())
    # Where each byte's token is, by decoding ever longer beginnings to bytes.
    pieces = [codec.tokenizer.convert_ids_to_tokens(i) for i in ids]
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]  # one letter of a byte-level piece is one byte
    written = [t for t, end in enumerate(ends) if end > first and end - len(pieces[t]) < last]
    # A token that wrote any byte of a character counts for the character.
    assert set(written) <= set(tokens_of(span, offsets))
    assert all(text[slice(*offsets[t])] == "" or set(range(*offsets[t])) & set(range(span.start, span.end))
               for t in tokens_of(span, offsets))  # fmt: skip
    assert len(ids) not in tokens_of(span, offsets)  # the end of sequence is in no quote


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        (Span(0, 4, GOOD), [0, 1, 2]),  # the beginning, to the end of a character that two tokens wrote
        (Span(3, 4, GOOD), [1, 2]),  # that character alone
        (Span(4, 9, BAD), [3]),  # the end: EOS is no part of it
        (Span(2, 6, GOOD), [0, 1, 2, 3]),  # across, within tokens
        (Span(4, 4, GOOD), []),  # nothing
    ],
)
def test_a_span_over_a_multi_byte_character_at_the_ends_and_across_tokens(span: Span, tokens: list[int]) -> None:
    text, offsets = "caf\u00e9 good", [(0, 3), (3, 4), (4, 4), (4, 9), (9, 9)]
    assert tokens_of(span, offsets) == tokens
    values = token_values([span, span], text, offsets, VALUES)  # marked twice, it is worth as much
    assert [t for t, value in enumerate(values) if value] == tokens
    assert sum(token_values([span], text, offsets, VALUES, per="span")) == (VALUES[span.label] if tokens else 0)


def test_spans_over_each_other_pay_once_per_token_and_each_per_span() -> None:
    text, offsets = "a b c", [(0, 1), (1, 3), (3, 5)]
    spans = [Span(0, 3, GOOD), Span(2, 5, GOOD), Span(2, 3, BAD), Span(2, 3, BAD)]
    assert token_values(spans, text, offsets, VALUES) == [0.5, 0.0, 0.5]
    assert token_values(spans, text, offsets, VALUES, "span") == [0.25, 0.25 + 0.25 - 0.5, 0.25]
    assert token_values(spans, text, offsets, {GOOD: 1.0}) == [1.0] * 3  # a label without a value is worth nothing


def test_what_the_released_matches_do_by_example() -> None:
    """R1 of docs/relc.md: a perfect critic's "art" in " heart, the art"; most tokens begin with a blank."""
    text, offsets = " heart, the art", [(0, 6), (6, 7), (7, 11), (11, 15), (15, 15)]
    art = [Span(12, 15, GOOD)]
    assert marked_labels(art, text, offsets) == [(), (), (), (GOOD,), ()]
    assert marked_labels(art, text, offsets, "released_detox") == [()] * 5  # " art" is not in "art": the span is lost
    assert marked_labels(art, text, offsets, "released_sentiment") == [(), (), (), (GOOD,), ()]
    far = [Span(1, 6, GOOD), Span(12, 15, BAD)]
    # stripped, "art" is also within "heart", which was marked with the other label
    assert marked_labels(far, text, offsets, "released_sentiment")[3] == (GOOD, BAD)
    assert token_values(far, text, offsets, VALUES, match="released_sentiment")[3] == 0
    assert token_values(far, text, offsets, VALUES)[3] == -0.5


def test_every_arm_keeps_the_return_that_it_says() -> None:
    draw = random.Random(0)
    for _ in range(50):
        values = [draw.choice([0.0, 0.0, 0.5, -0.5]) for _ in range(draw.randint(1, 19))]
        extrinsic, total = draw.uniform(-3, 3), sum(values)
        returns = {arm: sum(arrange(arm, extrinsic, values, draw))
                   for arm in ("sparse", "critic", "uniform", "shuffled", "total_at_end", "shaped")}  # fmt: skip
        assert returns["sparse"] == pytest.approx(extrinsic) == returns["shaped"]
        for arm in ("critic", "uniform", "shuffled", "total_at_end"):
            assert returns[arm] == pytest.approx(extrinsic + total), arm


# --- credit, through PPO --------------------------------------------------------------------------------------

PPO: dict[str, Any] = {
    "episodes": 32,
    "batch_size": 2,
    "actor_lr": 1e-5,
    "critic_lr": 1e-3,
    "kl_coef": 0.1,
    "train_eos": True,
    "scored_distribution": "full",
    "entropy_coef": 0.0,
    "baseline": "token_values",
    "kl_in": "reward",
    "kl_estimator": "k1",
    "epochs": 2,
    "clip_range": 0.2,
}


def advantages(rewards: list[list[float]], gae_lambda: float, pad: int = 0, whiten: bool = False) -> torch.Tensor:
    """Advantages (B, T) of token rewards, with values of 0 and `pad` columns of padding that hold rubbish."""
    width = max(map(len, rewards)) + pad
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in rewards])
    padded = torch.tensor([row + [99.0] * (width - len(row)) for row in rewards])
    values = torch.full_like(padded, 7.0) * ~mask
    settings = PPOSettings(**PPO, gae_lambda=gae_lambda, whiten_advantages=whiten)
    rest = token_rewards(padded, mask), values, torch.zeros_like(padded), 0.1, mask, mask
    return advantages_and_targets(settings, *rest)[0]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95])
def test_a_planted_bad_token_has_the_lowest_advantage(gae_lambda: float) -> None:
    for place in range(6):
        rewards = arrange("critic", 0.25, [-1.0 if t == place else 0.0 for t in range(7)], random.Random(0))
        assert advantages([rewards], gae_lambda)[0].argmin().item() == place


def test_with_lambda_1_the_first_token_has_the_return_wherever_it_is_paid() -> None:
    values = [0.0, 0.5, 0.0, -0.5, -0.5, 0.0]
    placed = {arm: advantages([arrange(arm, 1.0, values, random.Random(3))], 1.0)[0]
              for arm in ("critic", "uniform", "shuffled", "total_at_end")}  # fmt: skip
    assert [row[0].item() for row in placed.values()] == pytest.approx([0.5] * 4)
    assert len({tuple(row.tolist()) for row in placed.values()}) == 4  # and later tokens have what follows them
    at_end, at_place = advantages([[0, 0, 0, 0, -1.0], [0, 0, -1.0, 0, 0]], 0.95)
    assert at_end[0].item() == pytest.approx(-(0.95**4)) and at_place[0].item() == pytest.approx(-(0.95**2))
    assert not at_place[3:].any()  # what comes after it is not to blame


@pytest.mark.parametrize("whiten", [False, True])
def test_padding_changes_no_credit(whiten: bool) -> None:
    rewards = [[0.0, 0.5, 0.0, 1.0], [-0.5, 0.25]]
    alone, padded = (advantages(rewards, 0.95, pad, whiten) for pad in (0, 5))
    torch.testing.assert_close(padded[:, :4], alone)
    assert not padded[:, 4:].any() and not alone[1, 2:].any()


def test_micro_batches_change_no_update(load_policy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole updates on a critic's rewards: in one batch, and row by row, where nothing is padded."""
    prompts, responses = [[5, 6, 7], [5, 6, 20, 21, 22]], [[50, 51, 52, 53, 0], [54, 0]]
    values = [[0.0, 0.5, 0.0, -0.5, 0.0], [-0.5, 0.0]]
    rewards = [arrange("critic", 1.0, row, random.Random(0)) for row in values]
    in_float64(monkeypatch)
    results = []
    for switches in ({}, {"micro_batch": 1}):
        settings = PPOSettings(**PPO, gae_lambda=0.95, whiten_advantages=True, value_clip=0.2, **switches)
        policy = load_policy("gpt2", double=True, prompts=prompts, padding=settings.padding)
        learner = Learner(policy, settings, torch.Generator().manual_seed(0))
        learner.value_head.double()
        metrics = [step(learner, prompts, responses, rewards) for _ in range(2)][1]
        results.append({name: value for name, value in metrics.items() if not is_measured(name)})
    assert results[1] == pytest.approx(results[0], rel=1e-9, abs=1e-9)
    assert results[0]["advantage/std"] == pytest.approx(1)
