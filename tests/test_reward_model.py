"""Preference pairs, Bradley-Terry training, judging, and the learned reward."""

import contextlib
import io
import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, exit_code, interrupt_again
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.evaluation.__main__ import evaluate_run
from pgsrm.evaluation.reference_samples import reference_samples
from pgsrm.models.load import load_codec, load_model
from pgsrm.models.reward_model import CARD, RewardModel, encode
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.record import RunFolder
from pgsrm.reward import CriticReward, LearnedReward, SumReward
from pgsrm.reward.learned import combined, moments
from pgsrm.reward_model import __main__ as command
from pgsrm.reward_model.judge import ALL, CALIBRATION, LENGTH, MODEL, PEOPLE, WORDS, judge
from pgsrm.reward_model.measures import bag_of_words, calibration_error, length_only, margin_bins, right, share, wilson
from pgsrm.reward_model.pairs import Preference, as_lines, ordered, over_samples, read_pairs, split
from pgsrm.reward_model.ratings import Rated, pairs_of, read_ratings, split_half_agreement
from pgsrm.reward_model.settings import RewardModelSettings
from pgsrm.reward_model.training import Encoded, bradley_terry, tune, with_scalar_head
from pgsrm.task import Example
from pgsrm.util.errors import UserError
from pgsrm.util.objects import standardise_object

SCALED = ["reward=sum", "+reward@reward.parts.pgsrm=pgsrm", "+reward.normalise.pgsrm=batch"]

# Pairs


def example(word: str, reference: str = "") -> Example:
    return Example(f"{word}: ", reference, {"word": word}, "")


def test_the_parents_answer_is_over_every_other_sample() -> None:
    examples = [example("hot", "cold"), example("up", "down")]
    pairs = over_samples(examples, [["warm", "cold", " cold", "warm", "ice"], ["down"]], 9, random.Random(0))
    assert pairs == [Preference("hot: ", "cold", "warm"), Preference("hot: ", "cold", "ice")]
    assert len(over_samples(examples[:1], [list("abcdef")], 4, random.Random(0))) == 4


def test_two_samples_are_ordered_by_their_labels_and_ties_are_dropped() -> None:
    def labels(examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    pairs = ordered([example("a"), example("b")], [["xx", "y", "xx", "zz"], ["p", "q"]], labels, 9, random.Random(0))
    assert pairs == [Preference("a: ", "xx", "y", 1.0), Preference("a: ", "zz", "y", 1.0)]
    assert ordered([example("a")], [["x", "y"]], lambda *_: [0.1 + 0.2, 0.3], 9, random.Random(0)) == []


def test_no_prompt_is_on_both_sides_of_a_split() -> None:
    pairs = [Preference(str(place % 10), "a", str(place)) for place in range(40)]
    train, held_out = split(pairs, 0.2)
    assert {pair.prompt for pair in held_out}.isdisjoint(pair.prompt for pair in train)
    assert len({pair.prompt for pair in held_out}) == 2 and len(held_out) == 8
    assert split(pairs[::-1], 0.2)[1] == held_out[::-1]  # the order of a file does not matter
    alone = [Preference("", "a", str(place)) for place in range(1000)]  # without prompts each pair is its own
    assert 160 <= len(split(alone, 0.2)[1]) <= 240
    assert all(split(pairs, 0.001)) and all(split(pairs, 0.999))  # neither side is ever empty
    with pytest.raises(UserError, match="1 prompt with a pair"):
        split(pairs[:1], 0.2)


def test_a_new_pair_moves_no_other_across_the_split() -> None:
    """Wrong version: by rank of the hash, where one more prompt moves another one to the other side."""
    pairs = [Preference(f"prompt {place}", "a", "b") for place in range(400)]
    _, before = split(pairs[:200], 0.2)
    for count in range(201, 401):
        _, after = split(pairs[:count], 0.2)
        assert [pair for pair in after if pair in pairs[:200]] == before
    assert [len(split(pairs, part)[1]) for part in (0.1, 0.2, 0.5)] == pytest.approx([40, 80, 200], rel=0.25)
    assert set(split(pairs, 0.1)[1]) < set(split(pairs, 0.2)[1])


def test_a_file_of_pairs_is_read_as_it_was_written(tmp_path: Path) -> None:
    pairs = [Preference("hot is ", " cold", "warm\n", 0.5), Preference("", "a", "b", 2.0, 0.75)]
    (tmp_path / "pairs.jsonl").write_text(as_lines(pairs))
    assert read_pairs(tmp_path / "pairs.jsonl", "pairs") == pairs
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,margin\nhot,cold,warm,\nup,down,off,1.5\n")
    expected = [Preference("hot", "cold", "warm"), Preference("up", "down", "off", 1.5)]
    assert read_pairs(tmp_path / "pairs.csv", "pairs") == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"prompt": "a", "chosen": "b"}, "line 1: no column `rejected`"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "line 1: no text in `chosen`"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0}, "margin=0; write how much better"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, "margin='x': is no number"),
    ],
)
def test_what_is_no_pair(line: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=problem):
        read_pairs(tmp_path / "x.jsonl", "pairs")


# Ratings


def test_halves_of_the_people_by_hand() -> None:
    draw = random.Random(0)
    assert split_half_agreement([1, 1, 1, 1], [0, 0, 0, 0], draw) == 1
    assert split_half_agreement([1, 1], [1, 1], draw) == 0.5  # a half that finds them equal
    assert split_half_agreement([1, -1], [0, 0], draw) == 0  # whichever is the first half, the other says the opposite
    # of the three ways to halve 2, 2, -1, -1 one parts those who say 2 from those who say -1: they differ about 0
    found = [split_half_agreement([2, 2, -1, -1], [0, 0, 0, 0], draw) for _ in range(200)]
    assert np.mean(found) == pytest.approx(2 / 3, abs=0.03)


def write_ratings(folder: Path, ratings: Sequence[tuple[str, float, list[int]]]) -> None:
    texts = "".join(f"{place}\t{mean}\t{text}\r\n" for place, (text, mean, _) in enumerate(ratings))
    people = "".join(
        f"{place}\t{mean}\t0.1\t{given}\r\n" for place, (_, mean, given) in reversed(list(enumerate(ratings)))
    )
    (folder / "films_GroundTruth.txt").write_text(texts)
    (folder / "films_anonDataRatings.txt").write_text("\ufeff" + people, encoding="utf-8")


def test_ratings_are_read_by_their_ids_and_checked_against_the_mean(tmp_path: Path) -> None:
    given = [("A good film.", 2.5, [2, 3]), ("Another's", 1.0, [3, 3]), ("A\tbad film.", -1.0, [-2, 0])]
    write_ratings(tmp_path, given)
    for path in (tmp_path, tmp_path / "films_GroundTruth.txt"):
        files, left_out = read_ratings(path, "pairs")
        assert files == [[Rated("A good film.", [2, 3]), Rated("A\tbad film.", [-2, 0])]] and left_out == 1
    (pair,) = pairs_of(files, seed=0)
    assert pair == Preference("", "A good film.", "A\tbad film.", 3.5, 1.0)
    (tmp_path / "films_anonDataRatings.txt").write_text("0\t2.5\t0.1\tmany\n")
    with pytest.raises(UserError, match=r"line 1: 'many' is no list of ratings"):
        read_ratings(tmp_path, "pairs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no rated texts; name NAME_GroundTruth\.txt"):
        read_ratings(tmp_path / "empty", "pairs")


def test_each_text_is_in_one_pair() -> None:
    texts = [Rated(f"text {place}", [place, place + 1]) for place in range(11)]
    pairs = pairs_of([texts], seed=0)
    seen = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    assert len(pairs) == 5 and len(set(seen)) == 10 and pairs_of([texts], 1) != pairs == pairs_of([texts], 0)
    assert all(int(pair.chosen[5:]) - int(pair.rejected[5:]) == pair.margin for pair in pairs)


# Measures


def test_accuracy_by_margin_by_hand() -> None:
    differences = np.array([1.0, -1.0, 0.0, 2.0, 3.0, -0.1, 0.5, 4.0])
    assert right(differences).tolist() == [1, 0, 0.5, 1, 1, 0, 1, 1]
    margins = [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]
    bins = margin_bins(margins)
    assert list(bins) == ["margin 1 to 1.9", "margin 1.9 to 2.8", "margin 2.8 to 3.6", "margin 3.6 to 4.5"]
    assert [right(differences)[inside].mean() for inside in bins.values()] == [0.5, 0.75, 0.5, 1]
    near = margin_bins([1 + place / 1000 for place in range(1, 9)])  # wrong version: one name, so one quarter
    assert [int(inside.sum()) for inside in near.values()] == [2, 2, 2, 2] and "margin 1.001 to 1.003" in near
    assert margin_bins([1.0, 1.0, 0.0]) == margin_bins([None, 1.0, 2.0, 3.0, 4.0, 5.0]) == {}  # few, or not known


def test_an_interval_is_that_of_whole_prompts() -> None:
    """Wrong version: a hundred pairs of one prompt count as a hundred."""
    values = np.array([1.0] * 3 + [0.0] * 3)
    alone = share(values, list("abcdef"))
    assert alone == (0.5, pytest.approx(0.5 - 1.96 * math.sqrt(6 * 0.25) / 6), pytest.approx(0.9001, abs=1e-4), 6)
    assert share(values, list("abbaab"))[1:3] == pytest.approx(
        (0.5 - 1.96 * math.sqrt(0.5) / 6, 0.5 + 1.96 * math.sqrt(0.5) / 6)
    )
    assert share(values, list("aaabbb"))[:3] == (0.5, 0.0, 1.0)
    # Wrong version: 1 to 1. Wilson: of n right ones n / (n + 1.96^2) to 1; of n halves 1/2 -+ 0.98 / sqrt(n + 1.96^2).
    assert share(np.ones(10), list("abcdefghij")) == (1.0, pytest.approx(10 / 13.8416), pytest.approx(1.0), 10)
    assert share(np.zeros(10), list("abcdefghij"))[:3] == (0.0, pytest.approx(0.0), pytest.approx(3.8416 / 13.8416))
    assert share(np.ones(10), list("aaaaabbbbb"))[1] == pytest.approx(2 / 5.8416)  # two prompts, whatever the pairs
    assert share(np.full(4, 0.5), list("abcd"))[1:3] == pytest.approx(
        (0.5 - 0.98 / 7.8416**0.5, 0.5 + 0.98 / 7.8416**0.5)
    )
    # Of 81 in 263 right the score interval is 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, table I).
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share(values[:4], list("aaaa")) == (0.75, 0.0, 1.0, 4)  # wrong version: 0.75 to 0.75, as if all were known


def test_the_calibration_error_by_hand() -> None:
    def sure(confidence: float) -> float:
        return math.log(confidence / (1 - confidence))

    apart = np.array([sure(0.92), -sure(0.77), 0.0])  # right, wrong, undecided: each in a bin of its own
    assert calibration_error(apart) == pytest.approx((0.08 + 0.77 + 0) / 3)
    together = np.array([sure(0.92), -sure(0.92)])  # one bin: half are right, 0.92 was said
    assert calibration_error(together) == pytest.approx(0.42)
    assert calibration_error(np.array([800.0])) == pytest.approx(0)


def test_length_and_words_learn_what_they_can_see() -> None:
    draw = random.Random(0)
    words = [f"word{place}" for place in range(50)]
    pairs = [
        Preference("", f"{word} good{'!' * draw.randrange(9)}", f"{word} bad{'!' * draw.randrange(9)}")
        for word in words
    ]
    assert (bag_of_words(pairs[:40])(pairs[40:]) > 0).all()
    longer = [Preference("", "x" * (5 + place % 3), "x" * (place % 3)) for place in range(20)]
    assert (length_only(longer)(longer) > 0).all() and (length_only(longer)([Preference("", "a", "bbb")]) < 0).all()


@pytest.mark.parametrize("unit", [1, 100])
def test_length_alone_is_as_sure_of_letters_as_of_pages(unit: int) -> None:
    """Three of four pairs have the longer text first. Wrong version: a penalty on a weight per 100 characters."""
    texts = ["x" * (number * unit) for number in (3, 4)]
    pairs = [Preference(f"{place}", texts[place % 4 > 0], texts[place % 4 == 0]) for place in range(40)]
    differences = length_only(pairs)(pairs)
    assert np.abs(differences) == pytest.approx(math.log(3), abs=0.02)
    assert right(differences).mean() == 0.75 and calibration_error(differences) < 0.01
    level = [Preference("a", "xx", "yy"), Preference("b", "x", "y")]
    assert length_only(level)(level).tolist() == [0, 0]


def test_a_judgement_has_a_row_for_each_and_people_where_they_rated() -> None:
    pairs = [Preference("", f"good {place}", f"bad {place}", 1 + place / 10, 0.75) for place in range(20)]
    rows = judge(lambda _, texts: np.array([float("good" in text) for text in texts]), pairs[:10], pairs[10:])
    assert list(rows) == [MODEL, LENGTH, WORDS, PEOPLE]
    assert rows[MODEL][ALL].value == 1 and rows[MODEL][CALIBRATION] == pytest.approx(1 / (1 + math.e))
    assert rows[PEOPLE][ALL].value == 0.75 and len(rows[PEOPLE]) == 5
    without = [pair._replace(agreement=None) for pair in pairs]
    assert PEOPLE not in judge(lambda _, texts: np.zeros(len(texts)), without[:10], without[10:])


# Training


def test_bradley_terry_by_hand() -> None:
    """With TRL's margin and centring; sigmoid(1) = 0.731059, sigmoid(-1) = 0.268941."""
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    assert bradley_terry(chosen, rejected).tolist() == pytest.approx([-math.log(0.731059), math.log(2)], abs=1e-5)
    margin = torch.tensor([0.0, 1.0])
    assert bradley_terry(chosen, rejected, margin)[1].item() == pytest.approx(-math.log(0.268941), abs=1e-5)
    moved = bradley_terry(chosen + 2, rejected + 2, center=0.1)  # (3 + 2)^2 and (2 + 2)^2
    assert (moved - bradley_terry(chosen, rejected)).tolist() == pytest.approx([2.5, 1.6])


@pytest.fixture
def scalar(model_folders: dict[str, Path]) -> Callable[..., tuple[Any, Codec]]:
    """`scalar(architecture="gpt2")`: a tiny model with a head of one output, and its codec."""

    def make(architecture: str = "gpt2") -> tuple[Any, Codec]:
        settings = ModelSettings(path=str(model_folders[architecture]))
        causal = load_model(settings, torch.device("cpu"))
        codec = load_codec(settings, causal)
        torch.manual_seed(0)
        return with_scalar_head(causal, codec, settings.path), codec

    return make


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_a_saved_model_pools_at_the_last_real_token(
    scalar: Callable[..., Any], architecture: str, tmp_path: Path
) -> None:
    """By hand, beside a longer text, and as transformers itself reads the folder."""
    model, codec = scalar(architecture)
    model.save_pretrained(tmp_path)
    codec.tokenizer.save_pretrained(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"mean": 0, "std": 1}))
    prompts, responses = (
        ["The opposite of 'hot' is ", "Mix the two colors:", ""],
        ["cold", "red and blue is purple", ""],
    )
    outputs = RewardModel(str(tmp_path)).outputs(prompts, responses)
    plain: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for prompt, response, output in zip(prompts, responses, outputs, strict=True):
        ids = torch.tensor([encode(codec, prompt, response)])
        with torch.no_grad():
            hidden = model.base_model(ids).last_hidden_state[0, -1]
            assert (hidden @ model.score.weight[0]).item() == pytest.approx(output, abs=1e-5)
            assert plain(ids).logits.item() == pytest.approx(output, abs=1e-5)


def test_an_answer_is_read_as_the_policy_would_sample_it(tiny: Path) -> None:
    codec = Codec(AutoTokenizer.from_pretrained(tiny))
    for prompt, answer, text in [
        ("hot is", "cold", "hot is cold"),
        ("hot is ", "cold", "hot is cold"),
        ("hot is", " cold", "hot is cold"),
    ]:
        assert codec.tokenizer.decode(encode(codec, prompt, answer)) == text
    assert encode(codec, "hot is", "") == codec.encode("hot is") and encode(codec, "", "") == [codec.eos[0]]


PAIRS = [Encoded([5, 6, 7], [5, 6, 8], 0.5), Encoded([9, 7], [9, 8], 1.0), Encoded([7, 7, 7, 7], [8], 0.1)]


def test_training_repeats_itself_and_does_not_depend_on_the_micro_batch(scalar: Callable[..., Any]) -> None:
    def tuned(seed: int = 0, **settings: Any) -> list[float]:
        losses: list[float] = []
        how = RewardModelSettings(epochs=3, batch_size=2, lr=0.01, **settings)
        made: list[int] = []
        tune(scalar()[0], PAIRS, how, seed, lambda _, loss: losses.append(loss), made.append)
        assert made == [1, 2, 3, 4, 5, 6]  # two steps an epoch
        return losses

    losses = tuned()
    assert losses == tuned() != tuned(seed=1) and losses[2] < losses[0]
    assert tuned(micro_batch=1) == pytest.approx(losses, rel=1e-3)
    assert tuned(margin=True)[0] > losses[0] and tuned(center_coef=1.0)[0] > losses[0]


# The reward


class Fake:
    """A reward model whose output is the response's number, and `more`."""

    def __init__(self, more: float = 0.0, card: Any = None, digest: str = "") -> None:
        self.more, self.card, self.digest = more, card, digest

    def outputs(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        return np.array([float(response) + self.more for response in responses])


def learned(*models: Fake, **options: Any) -> LearnedReward:
    reward = LearnedReward([f"m{place}" for place in range(len(models))], **options)
    reward._loaded = list(models)  # type: ignore[arg-type]
    return reward


def asked(reward: LearnedReward, *responses: str) -> tuple[list[float], dict[str, float]]:
    return reward(prompts=[""] * len(responses), responses=responses)


def test_an_ensemble_by_hand() -> None:
    rewards = np.array([[1.0, 3.0], [3.0, 3.0], [2.0, 6.0]])
    assert combined(rewards, "mean", 1).tolist() == [2, 4]
    assert combined(rewards, "min", 1).tolist() == [1, 3]
    assert combined(rewards, "mean_minus_std", 2).tolist() == pytest.approx(
        [2 - 2 * math.sqrt(2 / 3), 4 - 2 * math.sqrt(2)]
    )


def test_each_model_is_standardised_by_its_own_card() -> None:
    class Card:
        mean, std = 1.0, 2.0

    class Other:
        mean, std = 10.0, 4.0

    rewards, metrics = asked(learned(Fake(card=Card()), Fake(more=9, card=Other())), "1", "5")
    assert rewards == [0, 1.5]  # 0 and 0; 2 and 1
    assert metrics == {"raw": pytest.approx((1 + 5 + 10 + 14) / 4), "disagreement": 0.25}
    given, metrics = asked(learned(Fake(card=Card()), mean=3, std=0.5), "4")
    assert given == [2] and metrics == {"raw": 4}


def test_a_model_without_a_card_is_standardised_by_its_first_batch_and_remembers() -> None:
    reward = learned(Fake())
    assert asked(reward, "1", "3")[0] == [-1, 1] and asked(reward, "4")[0] == [2]
    again = learned(Fake())
    again.restore(json.loads(json.dumps(reward.state())))
    assert asked(again, "4")[0] == [2]
    assert moments(np.array([2.0, 2.0])) == (2, 1)  # nothing to divide by


def test_a_model_without_a_card_is_standardised_by_given_samples_that_are_drawn_once() -> None:
    """For a reward within others too; not drawn where a card or `reward.mean` has the numbers, or a checkpoint had."""

    class Card:
        mean, std = 1.0, 2.0

    drawn: list[int] = []

    def samples() -> tuple[list[str], list[str]]:
        drawn.append(1)
        return ["", ""], ["1", "3"]

    reward = learned(Fake(card=Card()), Fake())
    for outer in (SumReward({"a": reward}), CriticReward(reward, arm="sparse"), reward):
        standardise_object(outer, samples)
    assert len(drawn) == 1 and reward.state() == {"1": [2, 1]}
    assert asked(reward, "7")[0] == [(3 + 5) / 2]
    for other in (learned(Fake(card=Card())), learned(Fake(), mean=3, std=0.5)):
        other.standardise(samples)
    again = learned(Fake(card=Card()), Fake())
    again.restore(reward.state())
    again.standardise(samples)
    assert len(drawn) == 1


def test_a_model_of_another_origin_reads_as_its_tokenizer_says(scalar: Callable[..., Any], tmp_path: Path) -> None:
    """Prompt and response put together, or in the chat template; what is not to be read is left out."""
    model, codec = scalar()
    tokenizer = codec.tokenizer
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def by_hand(ids: list[int]) -> float:
        with torch.no_grad():
            return float(model(torch.tensor([ids])).logits.item())

    batch: Any = {"prompts": ["hot is "], "responses": ["cold"]}
    together = LearnedReward(str(tmp_path))(**batch)[1]["raw"]
    assert together == pytest.approx(
        by_hand(tokenizer("hot is ")["input_ids"] + tokenizer("cold")["input_ids"]), abs=1e-5
    )
    alone = LearnedReward(str(tmp_path), reads="response")(**batch)[1]["raw"]
    assert alone == pytest.approx(by_hand(tokenizer("cold")["input_ids"]), abs=1e-5) != together
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}.{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    chat = LearnedReward(str(tmp_path))(**batch)[1]["raw"]
    assert chat == pytest.approx(by_hand(tokenizer("user: hot is .assistant: cold.")["input_ids"]), abs=1e-5)


@pytest.mark.parametrize("pad", [5, -1])
def test_a_response_earns_the_same_beside_others_whatever_the_tokenizer_pads_with(
    scalar: Callable[..., Any], tmp_path: Path, pad: int
) -> None:
    """Wrong version: texts are padded with the tokenizer's token, and transformers looks for another one, or for none."""
    model, codec = scalar()
    model.config.pad_token_id, tokenizer = pad, codec.tokenizer
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = LearnedReward(str(tmp_path), mean=0.0, std=1.0)
    alone, _ = reward(prompts=["a"], responses=["cold"])
    beside, _ = reward(prompts=["a", "a"], responses=["cold", "rather warm, and then hot again"])
    assert beside[0] == pytest.approx(alone[0], abs=1e-5) != beside[1]


def test_what_decides_is_in_the_digest() -> None:
    one, two = Fake(digest="a"), Fake(digest="b")
    digests = [
        learned(one).digest,
        learned(two).digest,
        learned(one, two).digest,
        learned(one, two, combine="min").digest,
    ]
    digests += [learned(one, mean=0, std=1).digest, learned(one, two, combine="mean_minus_std", penalty=2).digest]
    assert len(set(digests)) == 6 and learned(one, penalty=2, batch_size=3).digest == digests[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mean": 1.0}, "^mean: needs std beside it"),
        ({"std": 1.0}, "^std: needs mean beside it"),
        ({"path": ["a", "b"], "mean": 1.0, "std": 1.0}, "^mean=1.0: is of a single model"),
        ({"device": "gpu"}, "^device=gpu: not a device"),
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        LearnedReward(**{"path": "x", **options})


# The commands


@pytest.fixture
def words(tmp_path: Path, tiny: Path) -> list[str]:
    """For a tiny policy on thirty of the shipped antonyms."""
    from conftest import ROOT

    lines = (ROOT / "pgsrm/task/data/antonym.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:30]), encoding="utf-8")
    where = [f"task.data={tmp_path / 'few.jsonl'}", f"model.path={tiny}", f"paths.outputs={tmp_path / 'outputs'}"]
    return ["task=antonym", *where, "threads=1", "reward_model.samples=4", "reward_model.pairs=4"]


@pytest.fixture
def judge_folder(tmp_path: Path, words: list[str]) -> Path:
    """A tiny reward model, from pairs that the parent's answers make; its progress is not what a test reads."""
    with contextlib.redirect_stderr(io.StringIO()):
        command.train_command([*words, "pairs=reference", f"out={tmp_path / 'judge'}"])
    return tmp_path / "judge"


def test_pairs_have_training_prompts_alone(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "pairs.jsonl"
    command.pairs_command([*words, "pairs=reference", f"out={out}"])
    pairs, task = read_pairs(out, "pairs"), pgsrm.load_task(*words[:4])
    taught = {example.prompt: example.taught for example in task.train}
    assert {pair.prompt for pair in pairs} == set(taught) and task.holdout
    assert all(taught[pair.prompt] == pair.chosen != pair.rejected.strip() for pair in pairs)
    assert capsys.readouterr().out == f"{len(pairs)} pairs in {out}\n"
    again = tmp_path / "again.jsonl"
    command.pairs_command([*words, "pairs=reference", f"out={again}"])
    assert again.read_bytes() == out.read_bytes()
    chosen = [*words, "reward=text_metric", "reward.metric=indel"]
    command.pairs_command([*chosen, "pairs=reward", f"out={tmp_path / 'by.jsonl'}"])
    reward = pgsrm.build_reward(*chosen)
    for pair in read_pairs(tmp_path / "by.jsonl", "pairs")[:5]:
        both: Any = {"references": [taught[pair.prompt]] * 2, "responses": [pair.chosen, pair.rejected]}
        high, low = reward(**both)[0]
        assert high - low == pytest.approx(pair.margin) and high > low


def test_a_trained_model_is_whole_judged_and_a_reward(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "judge"
    command.train_command([*words, "pairs=reference", f"out={out}"])
    told = capsys.readouterr().out
    card = json.loads((out / CARD).read_text())
    assert f"mean {card['mean']:.3f}" in told and "| reward model |" in told and "| bag of words |" in told
    assert card["training_pairs"] > 50 and card["held_out_pairs"] > 5 and str(tmp_path) not in json.dumps(card)
    assert [path.name for path in out.parent.iterdir()] == ["judge"]
    command.judge_command([str(out), *words, "pairs=reference", f"policies={words[2].partition('=')[2]}"])
    again = capsys.readouterr().out
    assert told.partition("| reward model")[2].partition("\n")[0] in again and "| gpt2 |" in again
    (out / CARD).write_text(json.dumps({key: value for key, value in card.items() if key != "split"}))  # of 0.2.0
    command.judge_command([str(out), *words, "pairs=reference"])
    assert capsys.readouterr().err.startswith(f"{out}: was trained by an earlier version, which kept other pairs out")
    (out / CARD).write_text(json.dumps(card))
    # wrong version: pairs that it was trained on counted as held out, and nothing said so
    command.judge_command([str(out), *words, "pairs=reference", "reward_model.holdout=0.1"])
    assert not capsys.readouterr().err
    command.judge_command([str(out), *words, "pairs=reference", "reward_model.holdout=0.5"])
    remedy = "and 0.5 is held out now: it may have seen some of these pairs; set reward_model.holdout=0.2\n"
    assert capsys.readouterr().err == f"{out}: was trained with reward_model.holdout=0.2, {remedy}"
    reward = pgsrm.build_reward(*words, "reward=learned", f"reward.path={out}")
    batch: Any = {"prompts": ["hot is "] * 8, "responses": [f"{place}" for place in range(8)]}
    raw = RewardModel(str(out)).outputs(**batch)
    assert reward(**batch)[0] == pytest.approx((raw - card["mean"]) / card["std"])


def test_a_tokenizer_that_says_more_than_its_model_knows(
    tiny: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its padding token has no embedding, its limit is below the model's.

    Wrong versions: an IndexError of the embedding; training reads what the reward will cut off.
    """
    folder, out, file = tmp_path / "policy", tmp_path / "judge", tmp_path / "pairs.jsonl"
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny, model_max_length=4)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    shutil.copytree(tiny, folder)
    tokenizer.save_pretrained(folder)
    lines = [{"prompt": f"{place} is", "chosen": " long" * place, "rejected": " a"} for place in range(1, 9)]
    file.write_text("\n".join(map(json.dumps, lines)))
    command.train_command([f"model.path={folder}", f"pairs={file}", f"out={out}", "threads=1"])
    assert "texts are longer than the model's 4 tokens, the beginning is cut off" in capsys.readouterr().out
    model = RewardModel(str(out))
    alone = [model.outputs(["one is"], [text])[0] for text in ("a", "b c d e f")]
    assert model.outputs(["one is"] * 2, ["a", "b c d e f"]) == pytest.approx(alone, abs=1e-5)


def test_models_of_runs_are_called_by_their_runs(tmp_path: Path) -> None:
    """Wrong version: the best models of two runs are both called best."""
    places = [tmp_path / run / kind for run in ("a", "b") for kind in ("model", "best")]
    for place in (*places, tmp_path / "c"):
        place.mkdir(parents=True)
        (place / "config.json").touch()
    given = [tmp_path / "a", tmp_path / "a/best", tmp_path / "b/model", tmp_path / "b/best", tmp_path / "c"]
    named = command._policies(",".join(map(str, given)))
    assert list(named) == ["a", "a/best", "b", "b/best", "c"] and list(named.values()) == [*places, tmp_path / "c"]


RUN = ("reward=learned", "tracking=none", "ppo.batch_size=4", "ppo.episodes=16", "evaluation.every=2")


def test_weights_count_by_content_in_a_run_s_identity(words: list[str], judge_folder: Path, tmp_path: Path) -> None:
    def identity(path: Any, *others: str) -> str:
        return plan_words(*words, *RUN, f"reward.path={path}", *others).identity

    before = identity(judge_folder)
    moved = judge_folder.rename(tmp_path / "moved")
    assert identity(moved) == before == identity(moved, "reward.batch_size=3")
    assert identity(f"[{moved},{moved}]") != before != identity(moved, "reward.mean=0", "reward.std=1")
    card = json.loads((moved / CARD).read_text())
    (moved / CARD).write_text(json.dumps({**card, "std": 2 * card["std"]}))
    assert identity(moved) != before


def test_a_run_is_standardised_by_the_reference_policy_from_its_first_evaluation_on(
    words: list[str], judge_folder: Path
) -> None:
    """Wrong version: line 0 is standardised by the greedy answers themselves, whose mean is then 0, and update 1 otherwise."""
    (judge_folder / CARD).unlink()
    measure = f"{{_target_: pgsrm.reward.LearnedReward, path: {judge_folder}}}"
    given = [*words, *RUN, f"reward.path={judge_folder}", f"evaluation.measures={{m: {measure}}}"]
    trainer = pgsrm.Trainer.build(*given)
    before = trainer.sampling_rng.get_state()
    assert isinstance(trainer.score.reward, LearnedReward)
    (mean, std) = trainer.score.reward.state()["0"]
    samples = reference_samples(
        trainer.policy, trainer.codec, trainer.task, trainer.prompt_ids, trainer.sampling, trainer.settings.seed
    )
    outputs = RewardModel(str(judge_folder)).outputs(*samples)
    assert len(outputs) == 512 and samples[0][: len(trainer.task.train)] == [e.prompt for e in trainer.task.train]
    assert (mean, std) == (pytest.approx(outputs.mean()), pytest.approx(outputs.std()))
    assert torch.equal(before, trainer.sampling_rng.get_state())
    run = pgsrm.train(*given, progress=False)
    assert run.metrics["reward/mean"].tolist() == pytest.approx(
        [(raw - mean) / std for raw in run.metrics["reward/raw"]]
    )
    first = trainer.evaluate(0)
    assert run.evaluations.iloc[0]["eval/train_reward"] == pytest.approx(first["eval/train_reward"]) != pytest.approx(0)
    assert run.evaluations.iloc[0]["eval/holdout_m"] == pytest.approx(first["eval/holdout_m"]) != pytest.approx(0)
    assert json.loads((run.folder / "reward.json").read_text()) == {
        "reward": {"0": [mean, std]},
        "measures": {"m": {"0": [mean, std]}},
    }
    again = evaluate_run(RunFolder(run.folder))
    assert {name: run.evaluations.iloc[-1][name] for name in again} == pytest.approx(again, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("with_card", [True, False])
def test_an_interrupted_run_ends_with_the_same_numbers(
    words: list[str], judge_folder: Path, with_card: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: the numbers of a model without a card are those of the first batch after the resume."""
    if not with_card:
        (judge_folder / CARD).unlink()
    given = [*words, *RUN, f"reward.path=[{judge_folder},{judge_folder}]"]
    kept = ("reward/mean", "reward/raw", "reward/disagreement", "loss/actor", "eval/train_reward")
    run = pgsrm.train(*given, progress=False)
    metrics = run.metrics.join(run.evaluations.set_index("update"), on="update", rsuffix="_")
    expected = metrics[[name for name in kept if name in metrics]].to_dict("list")
    assert len(expected) == 5
    interrupt_again(run.folder, given, 2, monkeypatch)
    again = pgsrm.train(*given, progress=False)
    metrics = again.metrics.join(again.evaluations.set_index("update"), on="update", rsuffix="_")
    for name, values in expected.items():
        np.testing.assert_array_equal(metrics[name], values, err_msg=name)


def test_outside_a_run_it_is_standardised_as_in_one(
    words: list[str], judge_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: by the references, half of which a reward then pays less than nothing for."""
    from pgsrm.reward import __main__ as commands
    from pgsrm.reward import probes

    class SeenError(Exception):
        """In the place of the probes."""

    def seen(_: Any, reward: Any) -> None:
        raise SeenError(reward.state())

    (judge_folder / CARD).unlink()
    given = [*words, "reward=learned", f"reward.path={judge_folder}"]
    monkeypatch.setattr(probes, "probe", seen)
    with pytest.raises(SeenError) as probed:
        commands.probe_command(given)
    in_a_run = pgsrm.Trainer.build(*given, "tracking=none").score.reward.state()
    assert probed.value.args[0]["0"] == pytest.approx(in_a_run["0"])


def test_what_is_no_reward_model(
    call_cli: Callable[..., Any], tiny: Path, tmp_path: Path, words: list[str], judge_folder: Path
) -> None:
    for path, problem in [
        (
            "nowhere",
            "reward.path=nowhere: no such folder; name a folder that `python -m pgsrm.reward_model train` made",
        ),
        (tiny, "lacks weights of a classifier (score.weight)"),
        ("sentiment_gold", "reward.path=sentiment_gold: no such folder"),
        (f"[{judge_folder},nowhere]", "reward.path=nowhere: no such folder"),
    ]:
        result = call_cli(*words, *RUN, f"reward.path={path}", "dry_run=true")
        assert result.code == 2 and problem in result.error_line
    assert "reward.path" in call_cli(*words, *RUN, "dry_run=true").error_line
    from pgsrm.models.classifier import NAMES

    with pytest.raises(UserError, match="has 2 outputs, a reward model has one"):
        RewardModel(str(NAMES["sentiment_gold"]))
    (judge_folder / CARD).write_text('{"mean": 0}')
    with pytest.raises(UserError, match=r"reward_model.json can't be read .*train the model again"):
        RewardModel(str(judge_folder))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["train", "pairs=reference"], "out: missing"),
        (["train", "pairs=reference", "out=."], "out=.: is there already"),
        (
            ["train", "pairs=nowhere.jsonl", "out=x"],
            "pairs=nowhere.jsonl: no such file or folder; there are reference, gold",
        ),
        (["train", "pairs=few.jsonl", "out=x"], "line 1: no column `rejected`"),
        (["train", "pairs=one.jsonl", "out=x"], "pairs: 1 prompt with a pair"),
        (["train", "out=x", "model.dtype=bfloat16"], "model.dtype=bfloat16: a reward model is trained in one process"),
        (["train", "out=x", "model.dtype=tfloat32"], "model.dtype=tfloat32: a reward model is trained in one process"),
        (
            ["train", "out=x", "reward_model.margin=true"],  # wrong version: trained as without it
            "reward_model.margin=true: no pair of pairs=reference has a margin; leave it out",
        ),
        (
            ["train", "out=x", "pairs=one.jsonl", "reward_model.margin=true"],
            "reward_model.margin=true: no pair of pairs=one.jsonl has a margin",
        ),
        (["train", "out=x", "reward_model.lr=0"], "reward_model.lr=0: expected `float` > 0.0"),
        (["train", "out=x", "task=sentiment_control"], "pairs=reference: some prompts of the task have no reference"),
        (["train", "out=x", "task=sentiment_control", "pairs=gold"], "pairs=gold: the task has no checker"),
        (["pairs", "pairs=reference"], "out=: names no file"),
        (["pairs", "pairs=reference", "out=few.jsonl"], "out=few.jsonl: is there already"),
        (["judge", "pairs=reference"], "judge: names no reward model"),
        (["judge", "nowhere", "pairs=few.jsonl"], "path=nowhere: no such folder"),
        (
            ["judge", "nowhere", "policies=few.jsonl", "task=color"],
            "policies=few.jsonl: neither a finished run's folder",
        ),
        (
            # wrong version: each policy's mean reward was divided by its own samples' deviation
            ["judge", "nowhere", f"policies={ROOT / 'pgsrm/nano/weights'}", "task=antonym", "pairs=reward", *SCALED],
            "reward: what it pays for a text depends on the others of its batch",
        ),
        (["juge"], "juge: no such command; there are pairs, train, judge"),
    ],
)
def test_bad_input(
    given: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    (tmp_path / "one.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["pgsrm.reward_model", *given])
    assert exit_code(command.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line and not (tmp_path / "x").exists()
