"""The child: a causal language model with its frozen reference and a value head, as tensors in and tensors out.

Three things keep it cheap without changing a digit (docs/performance.md): the template prefix that all prompts of a task
share is computed once and expanded over the batch, logits are made at response positions alone, and sampling needs one
uniform number a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pgsrm.child.batch import PaddedBatch, common_prefix, pad_prompts, positions

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What one forward pass says about B responses of up to T tokens."""

    logits: "Tensor"  # (B, T, V) float32, of the distribution that each response token is scored under
    prompt_hidden: "Tensor"  # (B, D) last layer at the last position before the response
    last_hidden: "Tensor | None"  # (B, D) last layer at the last response token (at EOS if it was sampled)


@dataclass(frozen=True)
class Sampled:
    """B sampled responses, each cut after its EOS (kept) or at the length limit."""

    responses: list[list[int]]  # token ids
    logprobs: "Tensor"  # (B, T) log-probability of each token under the distribution that it was drawn from


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: `temperature` > 0; `top_k` tokens are kept, 0 keeps all; at most `max_new_tokens`."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0


def truncate(logits: "Tensor", temperature: float, top_k: int, keep: "Tensor | None" = None) -> "Tensor":
    """Logits (..., V) of the sampled distribution: divided by the temperature, all but the top k at -inf.

    `keep` (...) are sampled tokens, which stay: rounding or a gradient step may have moved one out of the top k.
    """
    if temperature != 1.0:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        dropped = logits < threshold
        if keep is not None:
            dropped = dropped.scatter(-1, keep.unsqueeze(-1), False)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def draw(logits: "Tensor", uniform: "Tensor") -> "Tensor":
    """One token a row (B,) from logits (B, V) by inverting the distribution function at `uniform` (B,) in [0, 1).

    The sum runs in float64: in float32 the tail of a 50,257-token vocabulary would be rounded away.
    """
    import torch

    cumulative = torch.softmax(logits, dim=-1).double().cumsum(-1)
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


class Child:
    """A policy, the reference that KL is measured against, and a tokenizer's EOS.

    `prompts` are the tokenised prompts of the task: the tokens that all of them begin with are computed once a forward.
    """

    def __init__(
        self,
        model: Any,
        reference: Any,
        eos: int,
        prompts: Sequence[Sequence[int]] = (),
        padding: Literal["left", "right"] = "left",
        share_prefix: bool = True,
    ) -> None:
        for each in (model, reference):
            # a slice of the hidden states would go through one small product a row, and its gradient as often
            each.get_output_embeddings().register_forward_pre_hook(_make_contiguous)
        self.model = model.eval()
        self.reference = reference.eval().requires_grad_(False)
        self.eos = eos
        self.padding: Literal["left", "right"] = padding
        self.device: torch.device = next(model.parameters()).device
        length = common_prefix(prompts) if share_prefix and prompts else 0
        self.prefix: list[int] = list(prompts[0][:length]) if prompts else []

    @property
    def width(self) -> int:
        """Size D of the last layer's hidden state."""
        return self.model.get_input_embeddings().embedding_dim

    def pad(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        padding: Literal["left", "right"] | None = None,
    ) -> PaddedBatch:
        """Rectangles of token ids from ragged prompts and responses (each at least one token)."""
        padding = padding or self.padding
        prefix = len(self.prefix)
        if any(list(prompt[:prefix]) != self.prefix for prompt in prompts):
            prefix = 0  # prompts from outside the task
        prompt_ids, prompt_mask = pad_prompts(
            [prompt[prefix:] for prompt in prompts], self.eos, padding, self.device
        )
        response_ids, response_mask = pad_prompts(responses, self.eos, "right", self.device)
        prefix_ids = prompt_ids.new_tensor(self.prefix[:prefix])
        return PaddedBatch(prefix_ids, prompt_ids, prompt_mask, response_ids, response_mask, padding)

    def score(self, batch: PaddedBatch, last_hidden: bool = True) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient.

        Without `last_hidden` the last response token, which predicts nothing, is not computed.
        """
        return _score(self.model, batch, last_hidden)

    def score_reference(self, batch: PaddedBatch) -> "Tensor":
        """The reference's logits (B, T, V), without gradient."""
        import torch

        with torch.no_grad():
            return _score(self.reference, batch, last_hidden=False).logits

    def sample(self, prompts: Sequence[Sequence[int]], uniforms: "Tensor", how: Sampling) -> Sampled:
        """One response a prompt. `uniforms` (B, max_new_tokens) in [0, 1) are all the randomness there is.

        Prompts are padded on the left whatever `padding` says: a response must follow its prompt.
        """
        import torch

        empty = [[self.eos]] * len(prompts)
        batch = self.pad(prompts, empty, "left")
        uniforms = uniforms.to(self.device)
        with torch.no_grad():
            tokens, logprobs = _generate(self.model, batch, uniforms, how, self.eos)
        lengths = _lengths(tokens, self.eos)
        responses = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        return Sampled(responses, logprobs)

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most probable token at every step."""
        import torch

        zeros = torch.zeros(len(prompts), max_new_tokens)
        was_training = self.model.training
        self.model.eval()
        responses = self.sample(prompts, zeros, Sampling(max_new_tokens, top_k=1)).responses
        self.model.train(was_training)
        return responses


def _make_contiguous(module: Any, arguments: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
    return tuple(argument.contiguous() for argument in arguments)


def _lengths(tokens: "Tensor", eos: int) -> "Tensor":
    """Length (B,) of each row of (B, T) up to and including its first EOS."""
    ended = (tokens == eos).long().cumsum(-1)
    return ((ended == 0).sum(-1) + 1).clamp(max=tokens.shape[1])


def _prefix_cache(model: Any, prefix_ids: "Tensor", rows: int) -> Any:
    """Keys and values of the shared prefix, expanded to `rows`; their gradient is summed over the rows."""
    if len(prefix_ids) == 0:
        return None
    cache = model(input_ids=prefix_ids.unsqueeze(0), use_cache=True, logits_to_keep=1).past_key_values
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache


def _full_mask(batch: PaddedBatch, *parts: "Tensor") -> "Tensor":
    """Attention mask (B, S + ...) of the prefix and the given parts."""
    import torch

    prefix = batch.prompt_mask.new_ones(len(batch), len(batch.prefix_ids))
    return torch.cat([prefix, *parts], dim=1)


def _score(model: Any, batch: PaddedBatch, last_hidden: bool) -> Scores:
    import torch

    length = batch.response_ids.shape[1]
    fed = length if last_hidden else length - 1  # response tokens that the model reads
    cache = _prefix_cache(model, batch.prefix_ids, len(batch))
    mask = _full_mask(batch, batch.prompt_mask, batch.response_mask[:, :fed])
    out = model(
        input_ids=torch.cat([batch.prompt_ids, batch.response_ids[:, :fed]], dim=1),
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding)[:, len(batch.prefix_ids) :],
        past_key_values=cache,
        use_cache=cache is not None,
        output_hidden_states=True,
        logits_to_keep=fed + 1,
    )
    hidden = out.hidden_states[-1][:, -fed - 1 :]  # (B, fed + 1, D), from the last prompt position on
    # logits[:, t - 1] predicts token t: what the last response token predicts is of no use
    logits = out.logits[:, :length].float()
    if not last_hidden:
        return Scores(logits, hidden[:, 0], None)
    last = batch.response_mask.long().sum(-1)  # (B,) a response's length is its last token's place in `hidden`
    return Scores(logits, hidden[:, 0], hidden[torch.arange(len(batch), device=hidden.device), last])


def _generate(
    model: Any, batch: PaddedBatch, uniforms: "Tensor", how: Sampling, eos: int
) -> tuple["Tensor", "Tensor"]:
    """Tokens (B, T') and their log-probabilities (B, T'), T' <= max_new_tokens; EOS fills a row that has ended."""
    import torch

    mask = _full_mask(batch, batch.prompt_mask)
    place = positions(mask, "left")
    cache = _prefix_cache(model, batch.prefix_ids, len(batch))
    ids, at = batch.prompt_ids, place[:, len(batch.prefix_ids) :]
    ended = torch.zeros(len(batch), dtype=torch.bool, device=ids.device)
    tokens, logprobs = [], []
    for step in range(how.max_new_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        logits = truncate(out.logits[:, -1].float(), how.temperature, how.top_k)
        token = draw(logits, uniforms[:, step]).masked_fill(ended, eos)
        tokens.append(token)
        logprobs.append(torch.log_softmax(logits, -1).gather(-1, token.unsqueeze(-1)).squeeze(-1))
        mask = torch.cat([mask, ~ended.unsqueeze(-1)], dim=1)
        ended = ended | (token == eos)
        if bool(ended.all()):
            break
        ids, at = token.unsqueeze(-1), at[:, -1:] + 1
    return torch.stack(tokens, 1), torch.stack(logprobs, 1)
