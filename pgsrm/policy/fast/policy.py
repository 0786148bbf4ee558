"""The child: a causal language model with its frozen reference and a value head, as tensors in and tensors out.

What keeps it cheap without changing a digit (docs/performance.md): the template prefix that a task's prompts share is
computed once and expanded over the batch; rows that are equal are computed once, and so is a prompt that several rows
have; logits are made at response positions alone; the reference, being frozen, reads each prompt once a run; the pass over
the prompts that sampling needs is the same one that the update differentiates.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pgsrm.policy.fast.batch import Packing, PaddedBatch, common_prefix, distinct, pad_prompts
from pgsrm.policy.fast.forward import (
    Prefill,
    Reader,
    checkpointable_layers,
    checkpointing,
    extend,
    filled,
    prefill,
    read_whole,
)
from pgsrm.util.distributed import Processes
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What one forward pass says about B responses of up to T tokens, which follow C contexts (`Packing`)."""

    logits: "Tensor"  # (C, V) float32, of the distribution that follows each context
    packing: Packing
    states: "Tensor"  # (C, W) last layer at the end of each context, without gradient
    prompt_hidden: "Tensor"  # (B, W) last layer at the last position before the response
    value_hidden: "Tensor | None"  # (B, W) last layer after the asked-for number of response tokens


@dataclass(frozen=True)
class Sampled:
    """B sampled responses, each cut after its EOS (kept) or at the length limit."""

    responses: list[list[int]]  # token ids
    logprobs: "Tensor"  # (B, T) log-probability of each token under the distribution that it was drawn from
    prompts: Prefill | None  # the policy's, one row a distinct prompt, with its graph; None unless asked for


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


def draw(logits: "Tensor", uniform: "Tensor") -> tuple["Tensor", "Tensor"]:
    """One token a row (B,) from logits (B, V) by inverting the distribution function at `uniform` (B,), and its log-prob.

    `uniform` is in [0, 1), in float64: float32 has 2^24 numbers there, which would never meet the rarest of 50,257 tokens.
    Nor would a sum in float32.
    """
    import torch

    probabilities = torch.softmax(logits, dim=-1)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
    return token.squeeze(-1), probabilities.gather(-1, token).squeeze(-1).log()


# Bytes of the reference's keys, values and logits that may be kept for a run's prompts; past it they are made anew.
REFERENCE_LIMIT = 2 << 30
ROWS_AT_ONCE = 256  # prompts in one forward pass without gradient, whatever the number of a task's prompts
WINDOWS_AT_ONCE = 4  # of 128 tokens: 100 MB of logits on a vocabulary of 50,000


class Child:
    """A policy, the reference that KL is measured against, and a tokenizer's EOS.

    `prompts` are the tokenised prompts of the task: the tokens that all of them begin with are computed once a forward.
    `share` turns this off, and the sharing of work between equal rows, for a model whose dropout is on.
    `reference` is None for a policy with adapters (pgsrm/models/lora.py), whose reference is itself without them.
    `gradient_checkpointing` computes the layers again in the backward pass instead of keeping what they computed; `score`
    then reads prompts and responses in one pass, without anything of the sampling's. So it does where `sharded_with` says
    that the models' weights are divided among processes (pgsrm.util.distributed.shard), which make all passes together.
    """

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        eos: int,
        prompts: Sequence[Sequence[int]] = (),
        padding: Literal["left", "right"] = "left",
        share: bool = True,
        bfloat16: bool = False,
        gradient_checkpointing: bool = False,
        sharded_with: Processes | None = None,
    ) -> None:
        self.model = model.eval()
        self._checkpointed = checkpointable_layers(model) if gradient_checkpointing else []
        self._sharded_with = sharded_with
        self._reads_whole = gradient_checkpointing or sharded_with is not None
        self._reader = self._reference_reader = Reader(model, bfloat16, layers_too=not self._reads_whole)
        self.reference = model
        if reference is not None:
            self.reference = reference.eval().requires_grad_(False)
            self._reference_reader = Reader(reference, bfloat16)
        self.eos = eos
        self.share = share
        self.padding: Literal["left", "right"] = padding
        self.device: torch.device = next(model.parameters()).device
        self.prompts = [list(prompt) for prompt in prompts]
        length = common_prefix(prompts) if share and prompts else 0
        self.prefix: list[int] = self.prompts[0][:length] if prompts else []
        self._number = {tuple(prompt): number for number, prompt in enumerate(self.prompts)}
        self._reference_prompts: Prefill | None = None  # made at first use
        # padded on the right, a row's positions depend on the longest prompt of its batch (D4)
        self._keeps_reference = bool(prompts) and padding == "left"

    @property
    def width(self) -> int:
        """Size W of the last layer's hidden state."""
        return self.model.get_input_embeddings().embedding_dim

    @property
    def positions(self) -> int | None:
        """Most tokens that the model reads at once; None where its config names no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

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
        prompt = self._same([tuple(prompt) for prompt in prompts])
        pair = self._same([(tuple(p), tuple(r)) for p, r in zip(prompts, responses, strict=True)])
        return PaddedBatch(
            prefix_ids, prompt_ids, prompt_mask, response_ids, response_mask, padding, prompt, pair, index
        )

    def _same(self, items: Sequence[Hashable]) -> "Tensor":
        """A number (B,) for each item, the same for equal ones if work is shared."""
        import torch

        seen: dict[Hashable, int] = {}
        numbers = [seen.setdefault(item, len(seen)) if self.share else row for row, item in enumerate(items)]
        return torch.tensor(numbers, device=self.device)

    def check_cache(self, length: int) -> None:
        """Raise UserError unless the model reads `length` response tokens on top of a cache as it reads them at once.

        Not so: models without keys and values, and attention windows shorter than prompt and response. Looked at in float32,
        whose rounding is far below what a wrong reading comes to.
        """
        import torch

        name = type(self.model).__name__
        try:
            with torch.no_grad(), self._without_dropout(), self._reader.matrices.in_float32():
                apart = self._cache_error(length)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
            raise UserError(
                f"model.path: {name} can't be read on top of a cache of keys and values ({reason}); "
                "name a causal language model with full attention"
            ) from error
        if not apart <= 1e-3:
            raise UserError(
                f"model.path: {name} reads {max(map(len, self.prompts))} prompt and {length} response tokens otherwise on top "
                f"of a cache than at once (log-probabilities differ by {apart:.2g}); is its attention window shorter, or not "
                "all of its state in keys and values? Name another model, or shorten task.max_new_tokens"
            )

    def _cache_error(self, length: int) -> float:
        """Largest difference in any log-probability that follows the shortest and the longest prompt."""
        import torch

        prompts = [min(self.prompts, key=len), max(self.prompts, key=len)]
        responses = [(prompt * length)[:length] for prompt in prompts]  # any tokens will do
        batch = self.pad(prompts, responses, "left")
        rows, fed = torch.arange(len(prompts), device=self.device), length - 1
        at = rows.repeat_interleave(fed), torch.arange(fed, device=self.device).repeat(len(prompts))
        read = prefill(self._reader, batch)
        later, _ = extend(self._reader, read, rows, batch, fed, at)
        found = torch.cat([read.logits.unsqueeze(1), later.view(len(prompts), fed, later.shape[-1])], 1).log_softmax(-1)
        apart = []
        for mine, prompt, response in zip(found, prompts, responses, strict=True):
            whole = self._reader.run(input_ids=torch.tensor([prompt + response], device=self.device), use_cache=False)
            self._reader.take()
            theirs = whole.logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            apart.append((mine - theirs).abs().max())
        return torch.stack(apart).max().item()  # which is NaN where one of them is

    def score(self, batch: PaddedBatch, value_place: "Tensor | None" = None, prompts: Prefill | None = None) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient.

        `value_place` (B,) asks for the hidden state after so many tokens of each response, 0 to T; without it the last
        token, which predicts nothing, is not read. `prompts` is the sampling's prefill with its graph, if the policy is
        still the one that sampled.
        """
        import torch

        packing, length = Packing.of(batch), batch.response_ids.shape[1]
        if prompts is None:
            self._reader.matrices.restart()
        fed, at = length - 1 if value_place is None else length, (packing.context_pair, packing.context_length)
        pairs = batch.rows(packing.rows)
        if self._reads_whole:
            with checkpointing(self._checkpointed):
                logits, hidden = read_whole(self._reader, pairs, fed, at)
        else:
            prompts = prompts or prefill(self._reader, batch.rows(packing.prompt_rows))
            later, read = extend(self._reader, prompts, packing.prompt, pairs, fed, packing.later)
            logits = torch.cat([prompts.logits, later])
            hidden = torch.cat([prompts.hidden[packing.prompt].unsqueeze(1), read], dim=1)
        prompt_hidden = hidden[packing.pair, 0]
        value_hidden = None if value_place is None else hidden[packing.pair, value_place]
        return Scores(logits, packing, hidden.detach()[at], prompt_hidden, value_hidden)

    def score_reference(self, batch: PaddedBatch) -> tuple["Tensor", Packing]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""
        import torch

        packing, fed = Packing.of(batch), batch.response_ids.shape[1] - 1
        with torch.no_grad(), self._adapters_off():
            prompts = self._read_by_reference(batch.rows(packing.prompt_rows))
            pairs = batch.rows(packing.rows)
            later, _ = extend(self._reference_reader, prompts, packing.prompt, pairs, fed, packing.later)
        return torch.cat([prompts.logits, later]), packing

    @contextmanager
    def _adapters_off(self) -> Iterator[None]:
        """Within it, the policy is its own reference, if it is to be: without adapters and dropout."""
        if self.reference is not self.model:
            yield
            return
        was_training = self.model.training
        self.model.eval()
        with self.model.disable_adapter():
            yield
        self.model.train(was_training)

    def weights_changed(self) -> None:
        """To be called after the policy's weights have changed: nothing made of the old ones is used again."""
        self._reader.matrices.weights_changed()

    def set_reference(self, weights: dict[str, "Tensor"]) -> None:
        """Give the reference other weights; from then on it reads every prompt anew."""
        self.reference.load_state_dict(weights)
        self._reference_reader.matrices.forget()
        self._reference_prompts, self._keeps_reference = None, False

    def _read_by_reference(self, batch: PaddedBatch) -> Prefill:
        """The reference's prefill of a batch: from those of all prompts of the task, unless they are too large to keep."""
        if batch.prompt_index is None or not self._keeps_reference:
            return prefill(self._reference_reader, batch)
        if self._reference_prompts is None:
            import torch

            longest = self.pad([max(self.prompts, key=len)], [[self.eos]])  # all are padded to its width
            sample = prefill(self._reference_reader, longest)
            each = sum(tensor.nbytes for pair in sample.keys_values for tensor in pair) + sample.logits.nbytes
            if each * len(self.prompts) > REFERENCE_LIMIT:
                self._keeps_reference = False
                return prefill(self._reference_reader, batch)
            everything = self.pad(self.prompts, [[self.eos]] * len(self.prompts))
            chunks = torch.arange(len(self.prompts), device=self.device).split(ROWS_AT_ONCE)
            self._reference_prompts = Prefill.join(
                [prefill(self._reference_reader, everything.rows(rows)) for rows in chunks]
            )
        return self._reference_prompts.rows(batch.prompt_index)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: "Tensor",
        how: Sampling,
        with_graph: bool = False,
        share: "Tensor | None" = None,
    ) -> Sampled:
        """One response a prompt. `uniforms` (B, max_new_tokens) in [0, 1), float64, are all the randomness there is.

        Prompts are padded on the left whatever `padding` says: a response must follow its prompt. `with_graph` keeps the
        graph of the pass over the prompts, for `score`, unless that reads them anew. `share` (n,) are the rows to answer,
        default all.
        """
        import torch

        batch = self.pad(prompts, [[self.eos]] * len(prompts), "left")
        if share is not None:
            batch, uniforms = batch.rows(share.to(self.device)), uniforms[share]
        rows, prompt = distinct(batch.prompt)
        with_graph = with_graph and not self._reads_whole
        self._reader.matrices.restart()
        with torch.set_grad_enabled(with_graph):
            read = prefill(self._reader, batch.rows(rows))
        with torch.no_grad():
            tokens, logprobs = self._generate(read.detach().rows(prompt), uniforms.to(self.device), how)
        lengths = _lengths(tokens, self.eos)
        responses = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        return Sampled(responses, logprobs, read if with_graph else None)

    def _generate(self, prompts: Prefill, uniforms: "Tensor", how: Sampling) -> tuple["Tensor", "Tensor"]:
        """Tokens (B, T') and their log-probabilities (B, T'), T' <= max_new_tokens.

        A row that has ended has EOS and 0 from there on, and is no longer computed.
        """
        import torch

        cache, mask, logits = filled(prompts.keys_values), prompts.mask, prompts.logits
        position = mask.long().sum(-1, keepdim=True)
        live = torch.arange(len(mask), device=mask.device)  # rows that go on
        tokens, logprobs = [], []
        for step in range(how.max_new_tokens):
            token, logprob = draw(truncate(logits, how.temperature, how.top_k), uniforms[live, step])
            tokens.append(uniforms.new_full((len(uniforms),), self.eos, dtype=torch.long).index_copy(0, live, token))
            logprobs.append(logprob.new_zeros(len(uniforms)).index_copy(0, live, logprob))
            going_on = (token != self.eos).nonzero().squeeze(-1)
            if step == how.max_new_tokens - 1 or not self._anyone(len(going_on) > 0):
                break
            if len(going_on) == 0:  # here, but not in the processes that need this one's part of the weights
                going_on = live.new_zeros(1)
            if len(going_on) < len(live):
                live, token, mask, position = (t[going_on] for t in (live, token, mask, position))
                cache.batch_select_indices(going_on)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            out = self._reader.run(
                input_ids=token.unsqueeze(-1),
                attention_mask=mask.long(),
                position_ids=position + step,
                past_key_values=cache,
                use_cache=True,
            )
            self._reader.take()
            logits = out.logits[:, -1].float()
        return torch.stack(tokens, 1), torch.stack(logprobs, 1)

    def _anyone(self, here: bool) -> bool:
        return here if self._sharded_with is None else self._sharded_with.anyone(here)

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most probable token at every step."""
        import torch

        return self.answer(prompts, torch.zeros(len(prompts), max_new_tokens), Sampling(max_new_tokens, top_k=1))

    def answer(self, prompts: Sequence[Sequence[int]], uniforms: "Tensor", how: Sampling) -> list[list[int]]:
        """As `sample`, for any number of prompts, without gradient and dropout; the responses' token ids alone."""
        responses: list[list[int]] = []
        with self._without_dropout():
            for start in range(0, len(prompts), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                responses += self.sample(prompts[rows], uniforms[rows], how).responses
        return responses

    def text_logprob(self, windows: "Tensor") -> float:
        """Mean log-probability of each token but the first of its row, given those before it, of token ids (W, L), L >= 2."""
        import torch
        from torch.nn.functional import cross_entropy

        total, targets = 0.0, windows[:, 1:].numel()
        with torch.no_grad(), self._without_dropout():
            for ids in windows.to(self.device).split(WINDOWS_AT_ONCE):
                logits = self._reader.run(input_ids=ids, use_cache=False).logits[:, :-1].float()
                self._reader.take()
                total -= cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
        return total / targets

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        yield
        self.model.train(was_training)


def _lengths(tokens: "Tensor", eos: int) -> "Tensor":
    """Length (B,) of each row of (B, T) up to and including its first EOS."""
    ended = (tokens == eos).long().cumsum(-1)
    return ((ended == 0).sum(-1) + 1).clamp(max=tokens.shape[1])
