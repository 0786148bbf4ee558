"""The policy: padding, positions, shared prefix, scoring, sampling, loading, and text."""

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import spread

from pgsrm.models.load import load_model, load_tokenizer, resolve_device
from pgsrm.models.settings import SHIPPED, ModelSettings, check_model
from pgsrm.models.text import Codec
from pgsrm.policy import base
from pgsrm.policy.batch import pad_rows
from pgsrm.policy.fast import forward, matmul
from pgsrm.policy.fast import policy as fast_policy
from pgsrm.policy.fast.batch import common_prefix, positions
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.gradients import take_rows
from pgsrm.policy.sampling import Sampling, draw, truncate
from pgsrm.util.errors import UserError

LoadPolicy = Callable[..., Any]
CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 30, 31], [5, 6, 40]]
RESPONSES = [[50, 51, 0], [52, 53, 54], [0], [55, 0]]


# Batches


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2),
        ([[1, 2], [3, 4]], 0),
        ([[1, 2], [1, 2, 3]], 1),  # every prompt keeps a token of its own: its logits predict the response
        ([[1, 2, 3]], 2),
        ([[7], [7, 8]], 0),
    ],
)
def test_common_prefix(prompts: list[list[int]], length: int) -> None:
    assert common_prefix(prompts) == length


def test_padding_and_masks() -> None:
    ids, mask = pad_rows([[1, 0], [2]], 0, "left", CPU)  # the 0 in the first prompt is a token, not a pad
    assert ids.tolist() == [[1, 0], [0, 2]]
    assert mask.tolist() == [[True, True], [False, True]]
    ids, mask = pad_rows([[1, 0], [2]], 0, "right", CPU)
    assert ids.tolist() == [[1, 0], [2, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_positions() -> None:
    mask = torch.tensor([[True, True, True], [False, False, True]])
    assert positions(mask, "left").tolist() == [[0, 1, 2], [0, 0, 0]]
    assert positions(mask, "right").tolist() == [[0, 1, 2], [0, 1, 2]]  # docs/fidelity.md, D4: pads take places


def test_the_prefix_is_taken_out_and_left_in_for_other_prompts(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    batch = policy.pad(PROMPTS, RESPONSES)
    assert batch.prefix_ids.tolist() == [5, 6]
    assert batch.prompt_ids.tolist() == [[0, 0, 7], [20, 21, 22], [0, 30, 31], [0, 0, 40]]
    assert batch.response_ids.tolist() == [[50, 51, 0], [52, 53, 54], [0, 0, 0], [55, 0, 0]]
    assert batch.response_mask.sum(1).tolist() == [3, 3, 1, 2]
    for other in ([9, 6, 7], [5], [5, 6]):  # another beginning; the prefix's own beginning; the prefix itself
        outside = policy.pad([PROMPTS[0], other], RESPONSES[:2])
        assert outside.prefix_ids.tolist() == []
        assert outside.prompt_mask.sum(1).tolist() == [3, len(other)]


def test_rows_of_a_batch(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    batch = policy.pad(PROMPTS, RESPONSES)
    part = batch.rows(torch.tensor([2, 0]))
    assert (len(batch), len(part)) == (4, 2)
    mine, theirs = spread(policy.score(part)), spread(policy.score(batch))[[2, 0]]
    mask = part.response_mask
    torch.testing.assert_close(mine[mask], theirs[mask], rtol=1e-5, atol=1e-5)


# Scoring


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_shared_prefix_changes_no_number_and_no_gradient(
    load_policy: LoadPolicy, architecture: str, padding: str
) -> None:
    results, sampled = [], []
    for share in (True, False):
        policy = load_policy(architecture, prompts=PROMPTS, padding=padding, share=share)
        assert policy.prefix[-2:] == ([5, 6] if share else [])
        batch = policy.pad(PROMPTS, RESPONSES)
        scores = policy.score(batch, torch.tensor([3, 0, 1, 2]))
        logp = spread(scores).log_softmax(-1)[batch.response_mask]  # (tokens, V)
        loss = (logp * torch.linspace(-1, 1, logp.shape[-1])).mean() + scores.value_hidden.sin().mean()
        gradients = torch.autograd.grad(loss, list(policy.model.parameters()))
        results.append((logp, scores.prompt_hidden, scores.value_hidden, *gradients))
        sampled.append(policy.sample(PROMPTS, torch.full((4, 5), 0.7), Sampling(5)).responses)
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert sampled[0] == sampled[1]


@pytest.mark.parametrize("share", [True, False])
def test_the_hidden_state_after_so_many_tokens_is_there_when_asked_for(load_policy: LoadPolicy, share: bool) -> None:
    policy = load_policy(prompts=PROMPTS, share=share)
    batch, close = policy.pad(PROMPTS, RESPONSES), {"rtol": 1e-5, "atol": 1e-5}
    asked, plain = policy.score(batch, torch.tensor([3, 2, 0, 2])), policy.score(batch)
    assert plain.value_hidden is None
    torch.testing.assert_close(plain.logits, asked.logits, **close)
    torch.testing.assert_close(plain.prompt_hidden, asked.prompt_hidden, **close)
    for i, count in enumerate([3, 2, 0, 2]):
        ids = torch.tensor([PROMPTS[i] + RESPONSES[i][:count]])
        hidden = policy.model(ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(asked.value_hidden[i], hidden[-1], **close)
        torch.testing.assert_close(asked.prompt_hidden[i], hidden[len(PROMPTS[i]) - 1], **close)
    one = policy.pad(PROMPTS, [[r[0]] for r in RESPONSES])  # a single response token: nothing of it is read
    torch.testing.assert_close(spread(policy.score(one)), spread(plain)[:, :1], **close)


def test_equal_rows_are_computed_once(load_policy: LoadPolicy) -> None:
    """Wrong version: a prompt that is drawn twice is read twice, an answer that is given twice scored twice."""
    rows = [0, 1, 1, 2, 0, 0]
    prompts = [PROMPTS[i] for i in rows]
    responses = [RESPONSES[i] for i in rows[:-1]] + [[9, 9, 0]]  # of three equal prompts, one is answered otherwise
    policy, apart, seen = load_policy(prompts=PROMPTS), load_policy(prompts=PROMPTS, share=False), []
    policy.model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["input_ids"].shape[0]), with_kwargs=True)
    batch, place = policy.pad(prompts, responses), torch.tensor([1, 2, 2, 0, 1, 3])
    mine, theirs = policy.score(batch, place), apart.score(apart.pad(prompts, responses), place)
    assert seen == [1, 3, 4]  # the prefix, the prompts, the pairs
    later = sum(len(response) - 1 for response in (*RESPONSES[:3], [9, 9, 0]))
    assert len(mine.logits) == 3 + later < sum(map(len, responses)) == len(theirs.logits)  # a prompt's end, once
    close, mask = {"rtol": 1e-5, "atol": 1e-5}, batch.response_mask
    torch.testing.assert_close(spread(mine)[mask], spread(theirs)[mask], **close)
    torch.testing.assert_close(mine.prompt_hidden, theirs.prompt_hidden, **close)
    torch.testing.assert_close(mine.value_hidden, theirs.value_hidden, **close)
    logits, contexts = policy.score_reference(batch)
    torch.testing.assert_close(logits[contexts.place][mask], spread(mine)[mask], **close)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_of_a_prompt_the_last_layers_mlp_is_computed_at_its_end_alone(
    load_policy: LoadPolicy, architecture: str
) -> None:
    """Wrong version: everywhere, though of the other tokens no more than keys and values are used."""
    policy, seen = load_policy(architecture, prompts=PROMPTS), []
    mlp = forward.last_mlp(policy.model)
    next(mlp.children()).register_forward_hook(lambda module, inputs, out: seen.append(tuple(inputs[0].shape[:2])))
    policy.score(policy.pad(PROMPTS, RESPONSES))
    assert seen == [
        (1, 1),
        (len(PROMPTS), 1),
        (len(PROMPTS), 2),
    ]  # the prefix's end, the prompts', two tokens of a response


def tiny_of(kind: str, vocabulary: int = 60, **sizes: Any) -> Any:
    """A model of transformers' by the name of its architecture, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **sizes))
    return model.eval()


FOUR_HEADS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
WINDOW = {**FOUR_HEADS, "num_key_value_heads": 4, "sliding_window": 6}
EXPERTS = {**WINDOW, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("gpt_oss", EXPERTS), ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}), ("mistral", WINDOW)],
)
def test_other_architectures_read_on_top_of_a_cache_as_at_once(kind: str, sizes: dict[str, Any]) -> None:
    """Mixtures of experts, ALiBi, and a window that is long enough."""
    FastPolicy(tiny_of(kind, **sizes), None, eos=(0,), prompts=[[5, 6, 7], [5, 6, 8, 9]]).check_cache(2)


@pytest.mark.parametrize(
    ("kind", "sizes", "what"),
    [
        ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}, "otherwise on top of a cache than at once"),
        ("mistral", WINDOW, "4 prompt and 9 response tokens otherwise"),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "can't be computed on top of a cache"),
    ],
)
def test_a_model_that_a_cache_does_not_suit_is_refused(kind: str, sizes: dict[str, Any], what: str) -> None:
    """Wrong version: it is trained on wrong log-probabilities."""
    policy = FastPolicy(tiny_of(kind, **sizes), None, eos=(0,), prompts=[[5, 6, 7], [5, 6, 8, 9]])
    with pytest.raises(UserError, match=what):
        policy.check_cache(9)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("options", [{}, {"padding": "right"}, {"share": False}, {"gradient_checkpointing": True}])
def test_the_cache_of_the_usual_ones_is_accepted(load_policy: LoadPolicy, length: int, options: dict[str, Any]) -> None:
    for architecture in ("gpt2", "llama", "qwen2"):
        load_policy(architecture, prompts=PROMPTS, **options).check_cache(length)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_linear_layers_of_wide_models_leave_padding_out(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Wrong version: a long prompt in a batch makes all of them as long."""
    from pgsrm.policy.fast import matrices

    monkeypatch.setattr(matrices, "WIDE", 1)
    rows, multiply = [], matrices.multiply

    def counted(left: torch.Tensor, *others: torch.Tensor | None) -> torch.Tensor:
        rows.append(len(left))
        return multiply(left, *others)

    policy = load_policy(architecture, prompts=PROMPTS)
    monkeypatch.setattr(matrices, "multiply", counted)
    with torch.no_grad():
        policy.score(policy.pad(PROMPTS, RESPONSES))
    own, responses = 1 + 3 + 2 + 1, len(RESPONSES)
    assert set(rows) - {0} == {2, own, 1, len(PROMPTS), 2 * responses, 5}  # prefix, prompts, ends, responses, logits


def test_in_bfloat16_looking_at_the_cache_leaves_no_copy_of_the_weights(load_policy: LoadPolicy) -> None:
    """Wrong version: a checkpoint is loaded next, and the copies are of the weights before it."""
    policy, other = load_policy(prompts=PROMPTS, bfloat16=True), load_policy(prompts=PROMPTS, bfloat16=True)
    weights = {name: tensor * 1.3 for name, tensor in policy.model.state_dict().items()}
    policy.check_cache(3)
    for each in (policy, other):
        each.model.load_state_dict(weights)
    batch = policy.pad(PROMPTS, RESPONSES)
    assert torch.equal(policy.score(batch).logits, other.score(batch).logits)


def test_an_mlp_of_another_kind_is_computed_everywhere() -> None:
    from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
    assert forward.last_mlp(OPTForCausalLM(OPTConfig(ffn_dim=16, word_embed_proj_dim=16, **sizes))) is None
    model = BloomForCausalLM(BloomConfig(n_layer=2, n_head=2, **sizes)).eval()  # its MLP adds the residual itself
    ids = torch.tensor([[3, 4, 5]])
    out = forward.Forward(model).run_for_end(input_ids=ids)
    torch.testing.assert_close(out.logits, model(input_ids=ids).logits)


def test_a_row_that_has_ended_is_no_longer_computed(load_policy: LoadPolicy) -> None:
    """Wrong version: every row continues until the last one ends."""
    policy, seen = load_policy(prompts=PROMPTS), []
    uniforms = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    eos = policy.sample(PROMPTS * 10, uniforms, Sampling(6)).responses[0][1]
    policy.eos = (eos,)
    policy.model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["input_ids"].shape[0]), with_kwargs=True)
    responses = policy.sample(PROMPTS * 10, uniforms, Sampling(6)).responses
    going_on = [sum(len(r) > step + 1 or (len(r) == step + 1 and r[-1] != eos) for r in responses) for step in range(5)]
    assert seen[2:] == going_on  # after the prefix and the prompts
    assert len(set(going_on)) > 1


def test_the_samplings_pass_over_the_prompts_is_as_good_as_a_new_one(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    uniforms = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    sampled = policy.sample(PROMPTS, uniforms, Sampling(3), with_graph=True)
    batch, results = policy.pad(PROMPTS, sampled.responses), []
    for read in (sampled.prefill, None):
        logits = policy.score(batch, None, read).logits
        gradients = torch.autograd.grad(logits.log_softmax(-1)[..., 7].sum(), list(policy.model.parameters()))
        results.append((logits, *gradients))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert policy.sample(PROMPTS, uniforms, Sampling(3)).prefill is None


def test_the_reference_that_is_kept_scores_as_one_that_is_not(load_policy: LoadPolicy) -> None:
    """Prompts are padded to another width in it; after `set_reference` nothing of the old one is left."""
    kept, fresh = load_policy(prompts=PROMPTS), load_policy()
    for policy in (kept, fresh):
        policy.score_reference(policy.pad(PROMPTS, RESPONSES))  # made at first use
    weights = {name: value * 1.1 for name, value in kept.model.state_dict().items()}
    scored = []
    for _ in range(2):
        for rows in ([0, 3], [1], [2, 2, 0]):
            mine, theirs = (
                c.score_reference(c.pad([PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows]))[0]
                for c in (kept, fresh)
            )
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        scored.append(mine)
        for policy in (kept, fresh):
            policy.set_reference(weights)
    assert not torch.allclose(*scored, atol=0.1)


@pytest.mark.parametrize("first", [0, 1])
def test_whether_the_references_prompts_are_kept_does_not_depend_on_the_first_batch(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Wrong version: judged by the first prompt's length, while all are kept at the longest one's."""
    prompts = [[5, 6, 7], [5, 6, *range(10, 40)]]
    policy = load_policy(prompts=prompts)
    monkeypatch.setattr(
        fast_policy, "REFERENCE_LIMIT", 2 * 20 * 2 * 2 * 32 * 4
    )  # 20 tokens: layers, keys and values, width
    policy.score_reference(policy.pad([prompts[first]], [[7, 0]]))
    assert policy._kept_prefill is None


def test_the_reference_is_frozen(load_policy: LoadPolicy) -> None:
    policy = load_policy()
    assert not any(p.requires_grad for p in policy.reference.parameters())
    assert not policy.score_reference(policy.pad(PROMPTS, RESPONSES))[0].requires_grad
    assert policy.score(policy.pad(PROMPTS, RESPONSES)).logits.requires_grad


# Sampling


def test_truncate() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    inf = float("inf")
    assert truncate(logits, 1.0, 0).tolist() == [[4, 1, 3, 2]]
    assert truncate(logits, 0.5, 2).tolist() == [[8, -inf, 6, -inf]]
    assert truncate(logits, 1.0, 2, keep=torch.tensor([1])).tolist() == [[4, 1, 3, -inf]]
    assert truncate(logits, 1.0, 99).tolist() == [[4, 1, 3, 2]]


def test_draw_inverts_the_distribution_function() -> None:
    logits = torch.tensor([0.1, 0.0, 0.6, 0.3]).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 0.99999994])
    tokens, logprobs = draw(logits, uniforms)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]  # never 1, whose probability is 0
    assert logprobs.exp().tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6, 0.3, 0.3])


def test_draw_keeps_the_tail_of_a_large_vocabulary() -> None:
    """Wrong version: a sum in float32 rounds the tail away, and its last tokens are never drawn (or too often)."""
    logits = torch.zeros(1, 50_257)
    logits[0, 0] = 14.0  # probability 0.96; the others share the rest, 8e-7 each
    tail = torch.softmax(logits.double(), -1)[0, -1].item()
    for back in (0.5, 1.5, 100.5):
        expected = 50_257 - 1 - int(back)
        token = draw(logits, torch.tensor([1 - back * tail], dtype=torch.float64))[0].item()
        assert abs(token - expected) <= 1


def test_sampling_ends_at_eos_keeps_it_and_adds_none(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    uniforms = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))
    free = policy.sample(PROMPTS * 100, uniforms, Sampling(6)).responses
    tokens = [token for response in free for token in response]
    eos = max(set(tokens), key=tokens.count)  # the token that it likes best ends a response from now on
    policy.eos = (eos,)
    responses = policy.sample(PROMPTS * 100, uniforms, Sampling(6)).responses
    ended = [r for r in responses if eos in r]
    assert len({len(r) for r in ended}) > 1
    assert all(r.index(eos) == len(r) - 1 for r in ended)
    assert all(len(r) == 6 for r in responses if eos not in r)
    assert any(eos not in r for r in responses)
    for cut, whole in zip(responses, free, strict=True):  # up to there nothing has changed
        if 0 not in whole:
            assert cut == whole[: len(cut)]


def test_greedy_takes_the_most_probable_token(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    for prompt, response in zip(PROMPTS, policy.greedy(PROMPTS, 4), strict=True):
        ids = list(prompt)
        for token in response:
            with torch.no_grad():
                assert policy.model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)


def test_max_new_tokens_one(load_policy: LoadPolicy) -> None:
    sampled = load_policy(prompts=PROMPTS).sample(PROMPTS, torch.rand(4, 1), Sampling(1))
    assert [len(r) for r in sampled.responses] == [1, 1, 1, 1]


# Loading


def test_loading_is_quiet_in_eval_mode_and_without_generation_defaults(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(ModelSettings(path=str(tiny)), CPU)
    assert json.loads((tiny / "generation_config.json").read_text())["top_k"] == 3
    assert model.generation_config.top_k != 3
    assert not model.generation_config.do_sample
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert capfd.readouterr() == ("", "")


def test_bfloat16_is_for_the_arithmetic_alone(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: bfloat16 weights, from which AdamW's small steps are rounded away."""
    import copy

    from pgsrm.models.load import load_model
    from pgsrm.models.settings import ModelSettings
    from pgsrm.policy.fast.policy import FastPolicy

    model = load_model(ModelSettings(path=str(tiny), dtype="bfloat16"), CPU)
    assert next(model.parameters()).dtype == torch.float32
    assert model.config._attn_implementation == "sdpa_float32"
    model.save_pretrained(tmp_path)
    assert "sdpa_float32" not in (tmp_path / "config.json").read_text()  # it is this package's, and not the model's
    exact = FastPolicy(model, copy.deepcopy(model), eos=(0,), prompts=PROMPTS)
    low = FastPolicy(copy.deepcopy(model), copy.deepcopy(model), eos=(0,), prompts=PROMPTS, bfloat16=True)
    mine, theirs = (policy.score(policy.pad(PROMPTS, RESPONSES)).logits for policy in (low, exact))
    assert mine.dtype == torch.float32
    assert not torch.equal(mine, theirs)
    torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)
    assert low.sample(PROMPTS, torch.rand(4, 2), Sampling(2)).logprobs.dtype == torch.float32


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu").type == "cpu"
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(UserError, match=f"model.device={name}: .*; use auto or cpu"):
            resolve_device(name)
    with pytest.raises(UserError, match=r"reward.device=cuda:99: .*; use auto or cpu"):
        resolve_device("cuda:99", "reward.device")


@pytest.mark.parametrize(
    ("files", "problem"),
    [([], "no config.json"), (["config.json"], "no \\*.safetensors")],
)
def test_a_folder_that_is_no_model(tmp_path: Path, files: list[str], problem: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=problem):
        check_model(ModelSettings(path=str(tmp_path)))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there(path: str) -> None:
    with pytest.raises(UserError, match=f"model.path={path}: no such folder"):
        check_model(ModelSettings(path=path))


def test_the_shipped_child() -> None:
    """DESIGN: GPT-2 architecture, own byte-level BPE, 3-8 M parameters, float16 safetensors of at most 16 MB."""
    from safetensors import safe_open

    weights = SHIPPED / "model.safetensors"
    assert weights.stat().st_size <= 16e6
    with safe_open(weights, "pt") as file:
        assert {str(file.get_slice(key).get_dtype()) for key in file.keys()} == {"F16"}  # noqa: SIM118
    model = load_model(ModelSettings(), CPU)
    assert model.config.model_type == "gpt2"
    assert 3e6 <= sum(p.numel() for p in model.parameters()) <= 8e6
    assert next(model.parameters()).dtype == torch.float32
    codec = Codec(load_tokenizer(ModelSettings()))
    assert codec.eos == (model.config.eos_token_id,)
    for text in ("The opposite of 'hot' is ", "naïve 猫 💡"):
        assert codec.decode([codec.encode(text)])[0] == [text]


# Text


def test_prompts_are_encoded_with_the_tokenizers_beginning_and_no_end(model_folders: dict[str, Path]) -> None:
    for architecture, first in (("gpt2", None), ("llama", 1), ("qwen2", None)):
        codec = Codec(load_tokenizer(ModelSettings(path=str(model_folders[architecture]))))
        ids = codec.encode("The opposite of 'hot' is ")
        assert codec.eos == (0,)
        assert 0 not in ids
        assert (ids[0] == 1) == (first == 1)
        assert codec.decode([ids])[0] == ["The opposite of 'hot' is "]


def test_offsets_are_characters_also_where_a_character_spans_tokens(tiny: Path) -> None:
    codec = Codec(load_tokenizer(ModelSettings(path=str(tiny))))
    ids = [*codec.encode("hot 💡x"), 0]
    ((text,), (offsets,)) = codec.decode([ids])
    assert text == "hot 💡x"
    assert len(offsets) == len(ids) > 6  # the emoji was not in the training text: four bytes, four tokens
    assert offsets[-1] == (len(text), len(text))  # EOS writes nothing
    assert offsets[0][0] == 0
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert all(a[1] == b[0] for a, b in pairwise(offsets))
    start, end = offsets[ids.index(codec.encode("x")[0])]
    assert text[start:end] == "x"


def test_bytes_that_are_no_text_decode_too(tiny: Path) -> None:
    """A young policy writes half characters: still a text, and offsets within it."""
    codec = Codec(load_tokenizer(ModelSettings(path=str(tiny))))
    ids = torch.randint(1, 290, (200, 5), generator=torch.Generator().manual_seed(0)).tolist()
    texts, offsets = codec.decode(ids)
    assert any("\ufffd" in text for text in texts)
    for text, spans, row in zip(texts, offsets, ids, strict=True):
        assert len(spans) == len(row)
        assert all(0 <= start <= end <= len(text) for start, end in spans)


def test_decoding_tidies_nothing_up(tiny: Path) -> None:
    """Wrong version: clean_up_tokenization_spaces turns "hot ." into "hot.", and offsets are off by one."""
    codec = Codec(load_tokenizer(ModelSettings(path=str(tiny))))
    assert codec.decode([codec.encode("hot . don 't")])[0] == ["hot . don 't"]


def test_many_prompts_are_read_in_chunks(load_policy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: all prompts of a task in one forward pass, however many there are."""
    prompts = [[5, 6, *range(10, 10 + length)] for length in range(1, 8)]
    responses = [[7, 8, 0]] * len(prompts)
    whole = load_policy(prompts=prompts)
    logits, contexts = whole.score_reference(whole.pad(prompts, responses))
    greedy = whole.greedy(prompts, 4)
    for module in (base, fast_policy):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    policy, rows = load_policy(prompts=prompts), []
    for model in (policy.model, policy.reference):
        model.register_forward_pre_hook(lambda m, a, kw: rows.append(kw["input_ids"].shape[0]), with_kwargs=True)
    two, contexts_of_two = policy.score_reference(policy.pad(prompts[:2], responses[:2]))
    torch.testing.assert_close(two[contexts_of_two.place], logits[contexts.place[:2]])
    assert policy.greedy(prompts, 4) == greedy
    assert max(rows) == 3


def test_rows_that_repeat_get_the_sum_of_their_gradients() -> None:
    tensor, index = torch.rand(3, 2, 4, requires_grad=True), torch.tensor([2, 0, 2, 2])
    weights = torch.rand(4, 2, 4)
    (mine,) = torch.autograd.grad((take_rows(tensor, index) * weights).sum(), tensor)
    (theirs,) = torch.autograd.grad((tensor[index] * weights).sum(), tensor)
    torch.testing.assert_close(mine, theirs)
    assert not mine[1].any()


def gradients_of_two_passes(model: Any, run: Callable[..., Any], ids: torch.Tensor) -> Sequence[torch.Tensor]:
    """Of all trained weights; the tokens of the second pass occur in the first one too."""
    past = run(input_ids=ids, use_cache=True).past_key_values
    logits = run(input_ids=ids[:, 1:3], past_key_values=past).logits
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(logits.float().log_softmax(-1)[..., 9].sum(), trained)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("frozen", [(), ("lm_head", "wte", "embed"), ("mlp",), ("bias",), ("weight",)], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "biased output"])
def test_gradients_of_weights_that_several_passes_use(
    load_policy: LoadPolicy, architecture: str, frozen: tuple[str, ...], bias: bool
) -> None:
    """Wrong versions: one pass is lost, a frozen layer lets nothing through, a bias is forgotten."""
    policy, ids = load_policy(architecture), torch.tensor([[5, 6, 5, 7]])
    model = policy.model
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.rand(model.lm_head.out_features))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return  # Llama has no biases
    theirs = gradients_of_two_passes(model, model, ids)
    for _ in range(2):  # the second graph has nothing of the first
        policy._forward.matrices.restart()
        torch.testing.assert_close(gradients_of_two_passes(model, policy._forward.run, ids), theirs)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_gradients_in_bfloat16_are_autocasts(load_policy: LoadPolicy, architecture: str) -> None:
    """Up to the rounding of a sum of gradients; wrong version: a pass that is lost or counted twice."""
    policy, ids = load_policy(architecture, bfloat16=True), torch.tensor([[5, 6, 5, 7]])
    with torch.autocast("cpu", torch.bfloat16):
        theirs = gradients_of_two_passes(policy.model, policy.model, ids)
    policy._forward.matrices.restart()
    mine = gradients_of_two_passes(policy.model, policy._forward.run, ids)
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).norm() <= 0.02 * b.norm() + 1e-6


@pytest.mark.usefixtures("width")
def test_what_gradients_are_made_of_is_let_go(load_policy: LoadPolicy) -> None:
    """Wrong versions: factors that live as long as the losses do, or that hold their own graph until Python looks for cycles."""
    policy = load_policy(prompts=PROMPTS)
    matrices = policy._forward.matrices
    gc.disable()
    try:
        for backward in (True, False):
            scores = policy.score(policy.pad(PROMPTS, [[7, 8, 9]] * len(PROMPTS)))
            if backward:
                scores.logits.sum().backward()
                assert not any(uses.products or uses.rows for uses in matrices._uses.values())
            held = [weakref.ref(uses) for uses in matrices._uses.values()]
            assert held
            del scores
            policy.weights_changed()
            assert not any(each() is not None for each in held)
    finally:
        gc.enable()


def test_bfloat16_weights_are_made_once_an_update(load_policy: LoadPolicy) -> None:
    """And again when the weights have changed; wrong version: the next update runs on those before it."""
    policy = load_policy(prompts=PROMPTS, bfloat16=True)
    sampled = policy.sample(PROMPTS, torch.full((4, 3), 0.7), Sampling(3), with_graph=True)
    made = dict(policy._forward.matrices._copies)
    assert policy.model.lm_head in made
    batch = policy.pad(PROMPTS, sampled.responses)
    before = policy.score(batch, None, sampled.prefill).logits.detach()
    policy.score_reference(batch)
    now = policy._forward.matrices._copies
    assert now.keys() == made.keys() and all(now[layer][0] is made[layer][0] for layer in made)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 1.1
    policy.weights_changed()
    assert not torch.allclose(policy.score(batch).logits, before, atol=0.01)
    gradients = torch.autograd.grad(
        policy.score(batch).logits.sum(), list(policy.model.parameters()), allow_unused=True
    )
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)


def test_bfloat16_copies_of_frozen_weights_stay(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS, bfloat16=True)
    policy.model.transformer.h[0].mlp.c_fc.requires_grad_(False)
    policy.greedy(PROMPTS, 2)
    frozen = policy._forward.matrices._copies[policy.model.transformer.h[0].mlp.c_fc]
    policy.weights_changed()
    assert policy._forward.matrices._copies == {policy.model.transformer.h[0].mlp.c_fc: frozen}


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="needs torch's oneDNN")
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("offset", [None, torch.rand(7)], ids=["plain", "offset"])
def test_products_by_either_library(monkeypatch: pytest.MonkeyPatch, by_row: bool, offset: torch.Tensor | None) -> None:
    left, right = torch.rand(3, 5), torch.rand(5, 7) if by_row else torch.rand(7, 5).T
    usual = matmul.multiply(left, right, offset)
    calls = []
    by_onednn = matmul.by_onednn
    monkeypatch.setattr(matmul, "by_onednn", lambda *factors: calls.append(factors) or by_onednn(*factors))
    monkeypatch.setattr(matmul, "onednn_pays", lambda *_: True)
    for a in (left, left.T.contiguous().T):
        torch.testing.assert_close(matmul.multiply(a, right, offset), usual)
    assert len(calls) == 2
    torch.testing.assert_close(usual, left @ right + (0 if offset is None else offset))
    assert matmul.multiply(left.double(), right.double()).dtype == torch.float64


FIRST = torch.empty(234, 768)  # hidden states of the prompts
BY_ROWS, BY_COLUMNS = torch.empty(768, 3072), torch.empty(3072, 768).T
VOCABULARY = torch.empty(8192, 192).T  # of an output layer, as nano's


@pytest.mark.parametrize(
    ("left", "right", "with_avx512", "without"),
    [
        (FIRST, BY_ROWS, True, False),
        (FIRST, BY_COLUMNS, True, True),
        (torch.empty(13, 768), BY_COLUMNS, True, True),
        (torch.empty(234, 3072), torch.empty(768, 3072).T, True, False),  # few columns
        (torch.empty(297, 768).T, torch.empty(297, 3072), True, False),  # a weight's gradient
        (torch.empty(234, 192), torch.empty(192, 768), False, False),
        (torch.empty(50, 192), VOCABULARY, True, True),
        (torch.empty(5, 192), VOCABULARY, False, False),
        (torch.empty(50, 8192), VOCABULARY.T, True, False),
        (torch.empty(50, 8192).T, torch.empty(50, 192), False, False),
    ],
)
def test_onednn_for_the_products_in_which_it_is_the_quicker_one(
    monkeypatch: pytest.MonkeyPatch, left: torch.Tensor, right: torch.Tensor, with_avx512: bool, without: bool
) -> None:
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)
    for has, pays in ((True, with_avx512), (False, without)):
        monkeypatch.setattr(matmul, "has_avx512", lambda has=has: has)
        assert matmul.onednn_pays(left, right) is pays
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: False)
    assert not matmul.onednn_pays(left, right)
