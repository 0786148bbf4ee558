"""The child: a causal language model with its frozen reference and a value head, as tensors in and tensors out.

What keeps it cheap without changing a digit (docs/performance.md): the template prefix that a task's prompts share is
computed once and expanded over the batch; logits are made at response positions alone; the reference, being frozen, reads
each prompt once a run; the pass over the prompts that sampling needs is the same one that the update differentiates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pgsrm.child.batch import PaddedBatch, common_prefix, pad_prompts
from pgsrm.child.forward import HeadInput, Prefill, extend, prefill

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What one forward pass says about B responses of up to T tokens."""

    logits: "Tensor"  # (B, T, V) float32, of the distribution that each response token is scored under
    prompt_hidden: "Tensor"  # (B, D) last layer at the last position before the response
    value_hidden: "Tensor | None"  # (B, D) last layer after the asked-for number of response tokens


@dataclass(frozen=True)
class Sampled:
    """B sampled responses, each cut after its EOS (kept) or at the length limit."""

    responses: list[list[int]]  # token ids
    logprobs: "Tensor"  # (B, T) log-probability of each token under the distribution that it was drawn from
    prompts: Prefill  # of the policy that sampled; with its graph if asked for


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


# Bytes of the reference's keys, values and logits that may be kept for a run's prompts; past it they are made anew.
REFERENCE_LIMIT = 2 << 30
ROWS_AT_ONCE = 256  # prompts in one forward pass without gradient, whatever the number of a task's prompts


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
        bfloat16: bool = False,
    ) -> None:
        self._head, self._reference_head = HeadInput(model, bfloat16), HeadInput(reference, bfloat16)
        self.model = model.eval()
        self.reference = reference.eval().requires_grad_(False)
        self.eos = eos
        self.padding: Literal["left", "right"] = padding
        self.device: torch.device = next(model.parameters()).device
        self.prompts = [list(prompt) for prompt in prompts]
        length = common_prefix(prompts) if share_prefix and prompts else 0
        self.prefix: list[int] = self.prompts[0][:length] if prompts else []
        self._number = {tuple(prompt): number for number, prompt in enumerate(self.prompts)}
        self._reference_prompts: Prefill | None = None  # made at first use
        # padded on the right, a row's positions depend on the longest prompt of its batch (D4)
        self._keeps_reference = bool(prompts) and padding == "left"

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
        if any(len(prompt) <= prefix or list(prompt[:prefix]) != self.prefix for prompt in prompts):
            prefix = 0  # prompts from outside the task, or held out
        prompt_ids, prompt_mask = pad_prompts([prompt[prefix:] for prompt in prompts], self.eos, padding, self.device)
        response_ids, response_mask = pad_prompts(responses, self.eos, "right", self.device)
        prefix_ids = prompt_ids.new_tensor(self.prefix[:prefix])
        numbers = [self._number.get(tuple(prompt), -1) for prompt in prompts]
        index = prompt_ids.new_tensor(numbers) if padding == self.padding and min(numbers) >= 0 else None
        return PaddedBatch(prefix_ids, prompt_ids, prompt_mask, response_ids, response_mask, padding, index)

    def score(self, batch: PaddedBatch, value_place: "Tensor | None" = None, prompts: Prefill | None = None) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient.

        `value_place` (B,) asks for the hidden state after so many tokens of each response, 0 to T; without it the last
        token, which predicts nothing, is not read. `prompts` is the sampling's prefill with its graph, if the policy is
        still the one that sampled.
        """
        import torch

        prompts = prompts or prefill(self.model, self._head, batch)
        length = batch.response_ids.shape[1]
        if value_place is None:
            logits, _ = extend(self.model, self._head, prompts, batch, length - 1)
            return Scores(logits, prompts.hidden, None)
        logits, hidden = extend(self.model, self._head, prompts, batch, length)
        rows = torch.arange(len(batch), device=hidden.device)
        return Scores(logits[:, :-1], prompts.hidden, hidden[rows, value_place])

    def score_reference(self, batch: PaddedBatch) -> "Tensor":
        """The reference's logits (B, T, V), without gradient."""
        import torch

        with torch.no_grad():
            prompts = self._read_by_reference(batch)
            return extend(self.reference, self._reference_head, prompts, batch, batch.response_ids.shape[1] - 1)[0]

    def set_reference(self, weights: dict[str, "Tensor"]) -> None:
        """Give the reference other weights; from then on it reads every prompt anew."""
        self.reference.load_state_dict(weights)
        self._reference_prompts, self._keeps_reference = None, False

    def _read_by_reference(self, batch: PaddedBatch) -> Prefill:
        """The reference's prefill of a batch: from those of all prompts of the task, unless they are too large to keep."""
        if batch.prompt_index is None or not self._keeps_reference:
            return prefill(self.reference, self._reference_head, batch)
        if self._reference_prompts is None:
            import torch

            sample = prefill(self.reference, self._reference_head, batch.rows(batch.prompt_index[:1] * 0))
            each = sum(tensor.nbytes for pair in sample.keys_values for tensor in pair) + sample.logits.nbytes
            if each * len(self.prompts) > REFERENCE_LIMIT:
                self._keeps_reference = False
                return prefill(self.reference, self._reference_head, batch)
            everything = self.pad(self.prompts, [[self.eos]] * len(self.prompts))
            chunks = torch.arange(len(self.prompts), device=self.device).split(ROWS_AT_ONCE)
            self._reference_prompts = Prefill.join(
                [prefill(self.reference, self._reference_head, everything.rows(rows)) for rows in chunks]
            )
        return self._reference_prompts.rows(batch.prompt_index)

    def sample(
        self, prompts: Sequence[Sequence[int]], uniforms: "Tensor", how: Sampling, with_graph: bool = False
    ) -> Sampled:
        """One response a prompt. `uniforms` (B, max_new_tokens) in [0, 1) are all the randomness there is.

        Prompts are padded on the left whatever `padding` says: a response must follow its prompt. `with_graph` keeps the
        graph of the pass over the prompts, for `score`.
        """
        import torch

        batch = self.pad(prompts, [[self.eos]] * len(prompts), "left")
        with torch.set_grad_enabled(with_graph):
            read = prefill(self.model, self._head, batch)
        with torch.no_grad():
            tokens, logprobs = self._generate(read.detach(), uniforms.to(self.device), how)
        lengths = _lengths(tokens, self.eos)
        responses = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        return Sampled(responses, logprobs, read)

    def _generate(self, prompts: Prefill, uniforms: "Tensor", how: Sampling) -> tuple["Tensor", "Tensor"]:
        """Tokens (B, T') and their log-probabilities (B, T'), T' <= max_new_tokens; EOS fills a row that has ended."""
        import torch

        cache, mask, logits = prompts.cache(), prompts.mask, prompts.logits
        position = mask.long().sum(-1, keepdim=True)
        ended = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        tokens, logprobs = [], []
        for step in range(how.max_new_tokens):
            logits = truncate(logits, how.temperature, how.top_k)
            token = draw(logits, uniforms[:, step]).masked_fill(ended, self.eos)
            tokens.append(token)
            logprobs.append(torch.log_softmax(logits, -1).gather(-1, token.unsqueeze(-1)).squeeze(-1))
            mask = torch.cat([mask, ~ended.unsqueeze(-1)], dim=1)
            ended = ended | (token == self.eos)
            if step == how.max_new_tokens - 1 or bool(ended.all()):
                break
            out = self._head.run(
                self.model,
                input_ids=token.unsqueeze(-1),
                attention_mask=mask.long(),
                position_ids=position + step,
                past_key_values=cache,
                use_cache=True,
            )
            self._head.take()
            logits = out.logits[:, -1].float()
        return torch.stack(tokens, 1), torch.stack(logprobs, 1)

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most probable token at every step."""
        import torch

        was_training = self.model.training
        self.model.eval()
        responses: list[list[int]] = []
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            chunk = prompts[start : start + ROWS_AT_ONCE]
            zeros = torch.zeros(len(chunk), max_new_tokens)
            responses += self.sample(chunk, zeros, Sampling(max_new_tokens, top_k=1)).responses
        self.model.train(was_training)
        return responses


def _lengths(tokens: "Tensor", eos: int) -> "Tensor":
    """Length (B,) of each row of (B, T) up to and including its first EOS."""
    ended = (tokens == eos).long().cumsum(-1)
    return ((ended == 0).sum(-1) + 1).clamp(max=tokens.shape[1])
