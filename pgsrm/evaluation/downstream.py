"""What training did to the rest of a model: other wordings of its task, other tasks, plain text, the variety of its answers.

docs/downstream.md says what is measured, and on which prompts.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pgsrm.evaluation.distance import distance, response_perplexity
from pgsrm.evaluation.evaluation import perplexity, text_windows
from pgsrm.evaluation.variety import variety
from pgsrm.models.load import load_codec, load_model
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.policy.choose import build_policy
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling, shortened
from pgsrm.task import Checker, Example, accepts
from pgsrm.util.numbers import mean

# What a table calls them. A distinct_n of 0 says that no answer has n words, and is left out.
VARIETY = {
    "distinct_1": "sampled answers: distinct-1",
    "distinct_2": "sampled answers: distinct-2",
    "distinct_3": "sampled answers: distinct-3",
    "self_bleu": "sampled answers: self-BLEU",
    "repetition": "sampled answers: repetition",
    "empty": "sampled answers: without words",
}


@dataclass(frozen=True)
class Question:
    """Prompts of one task in one wording.

    prompts: which ones they are, as a table says it; checked_by: the checker's config, and what else decides its answers.
    """

    task: str
    wording: str
    prompts: str
    examples: Sequence[Example]
    checker: Checker
    checked_by: str
    max_new_tokens: int


@dataclass(frozen=True)
class Asked:
    """All that a model is asked.

    questions: answered greedily. own: prompts of the task that is trained on, in its own wording; `samples` answers are drawn to
    each as `sampling` says, and their references are what the domain's perplexity is of. text: plain text for the other one.
    """

    questions: Sequence[Question]
    own: Sequence[Example]
    sampling: Sampling
    min_new_tokens: int | None
    samples: int
    text: str

    @property
    def digest(self) -> str:
        """Hash (hex) of all of it."""
        questions = [
            [q.prompts, q.checked_by, q.max_new_tokens, [asdict(example) for example in q.examples]]
            for q in self.questions
        ]
        own = [[asdict(example) for example in self.own], asdict(self.sampling), self.min_new_tokens, self.samples]
        return hashlib.sha256(json.dumps([questions, own, self.text], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answered:
    """matches: for each question the share of right greedy answers; measures: the other numbers, by what a table calls them."""

    matches: Sequence[float]
    measures: dict[str, float]


def ask(settings: ModelSettings, asked: Asked, untrained: Any) -> Answered:
    """Load a trained model and ask it, also for its distance from the `untrained` one.

    Raises:
        UserError: for a prompt that is too long for the model.
    """
    return ask_loaded(load_model(settings, untrained.device), settings, asked, untrained)


def ask_loaded(model: Any, settings: ModelSettings, asked: Asked, reference: Any = None) -> Answered:
    """Ask a model that was loaded as `settings` say; reference: as for a policy. Raises UserError as `ask` does."""
    codec = load_codec(settings, model)
    prompts = [codec.encode(example.prompt) for example in asked.own]
    everything = prompts + [codec.encode(e.prompt) for question in asked.questions for e in question.examples]
    longest = max([asked.sampling.max_new_tokens, *(question.max_new_tokens for question in asked.questions)])
    policy = build_policy(model, reference, codec.eos, everything, longest, settings)
    matches = [_match(policy, codec, question) for question in asked.questions]
    ids = _sampled(policy, prompts, asked)
    texts, _ = codec.decode(ids)
    measures = {
        "perplexity of plain text": perplexity(policy, text_windows(codec, asked.text, policy.positions)),
        "perplexity of the right answers": answer_perplexity(policy, codec, asked.own),
        **{VARIETY[name]: value for name, value in variety(texts).items() if value or not name.startswith("distinct")},
    }
    if reference is not None:
        repeated = [prompt for prompt in prompts for _ in range(asked.samples)]
        measures["sampled answers: KL"] = distance(policy, repeated, ids)["kl"]
    return Answered(matches, measures)


def _match(policy: Policy, codec: Codec, question: Question) -> float:
    """The share of right greedy answers."""
    ids = policy.greedy([codec.encode(example.prompt) for example in question.examples], question.max_new_tokens)
    texts, _ = codec.decode(ids)
    pairs = zip(texts, question.examples, strict=True)
    return mean([accepts(question.checker, text, example) for text, example in pairs])


def _sampled(policy: Policy, prompts: Sequence[list[int]], asked: Asked) -> list[list[int]]:
    """`asked.samples` answers to each prompt in turn, as token ids: by the same draws for every model."""
    draws, length = np.random.default_rng(0), asked.sampling.max_new_tokens
    repeated = [prompt for prompt in prompts for _ in range(asked.samples)]
    uniforms = torch.from_numpy(draws.random((len(repeated), length)))
    return shortened(policy.answer(repeated, uniforms, asked.sampling), asked.min_new_tokens, length, draws)


def answer_perplexity(policy: Policy, codec: Codec, examples: Sequence[Example]) -> float:
    """The exponential of the mean -log p of the references' tokens behind their prompts, without EOS; nan for none.

    Of several references to a prompt the first counts, so that each prompt does once.
    """
    given = [example for example in examples if example.reference]
    return response_perplexity(
        policy,
        [codec.encode(example.prompt) for example in given],
        [codec.encode_answer(example.prompt, example.reference) for example in given],
    )
