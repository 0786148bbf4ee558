"""Every causal language model of transformers, small and with random weights: which policy takes it, and with equal numbers.

`make test-slow` runs it; docs/fast-path.md has what comes out.
"""

import copy
import gc
from typing import Any

import pytest
import torch
from test_simple_policy import PROMPTS, assert_equal_training, ppo_settings
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pgsrm.models.settings import ModelSettings
from pgsrm.policy.choose import build_policy
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.simple import SimplePolicy
from pgsrm.util.errors import UserError

pytestmark = pytest.mark.slow

VOCABULARY = 60
LARGEST = 30_000_000  # parameters
# By the names that one architecture or another has for them.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "model_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "mamba_d_head"), 16),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads", "mamba_expand", "num_experts_per_tok"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_n_heads", "rotary_dim", "conv_kernel", "time_step_rank"), 4),
    "moe_intermediate_size": 32, "word_embed_proj_dim": 32, "lru_width": 32, "attention_window_size": 64,
    "vocab_size_per_layer_input": VOCABULARY, "num_nextn_predict_layers": 0, "vocab_size": VOCABULARY,
    "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
OWN_SIZES: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8},
    "roc_bert": {"initializer_range": 0.5},  # or what it sees of later tokens is below the threshold
}

# Their state is no cache of keys and values, or what they read on top of one differs.
ON_THE_SIMPLE_POLICY = {
    "axk2", "bailing_hybrid", "bamba", "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "deepseek_v32",
    "deepseek_v4", "dots3_note_text", "falcon_mamba", "glm_moe_dsa", "granitemoehybrid", "hy_v4", "inkling2_text",
    "inkling_text", "jamba", "kimi_linear", "lfm3", "mamba", "mamba2", "marian", "mbart", "minimax", "mpt", "mvp",
    "nemotron_h", "olmo_hybrid", "openai-gpt", "pegasus", "plbart", "prophetnet", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma", "rwkv", "trocr", "whisper", "xlstm",
}  # fmt: skip
# They see later tokens.
REFUSED = {
    "bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text", "electra", "ernie",
    "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet",
}  # fmt: skip


def small(kind: str) -> Any:
    """A model of this kind; skips the test where the sizes above don't make a small one."""
    try:
        default = AutoConfig.for_model(kind)
        sizes = {name: size for name, size in SIZES.items() if _has(default, name)} | OWN_SIZES.get(kind, {})
        config = AutoConfig.for_model(kind, **sizes)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if parameters > LARGEST:
            pytest.skip(f"{parameters:,} parameters with these sizes")
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()
    except Exception as error:  # each architecture checks its sizes in its own way
        pytest.skip(f"not with these sizes: {type(error).__name__}: {str(error).splitlines()[0][:100]}")


def _has(config: Any, name: str) -> bool:
    """A few architectures raise where a size is asked for that differs from layer to layer, or can't be set."""
    try:
        setattr(copy.deepcopy(config), name, getattr(config, name))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_a_policy_takes_it_with_the_numbers_of_the_simple_one(kind: str) -> None:
    """Responses, log-probabilities, metrics, weights and gradients of an update; or a line that says why not."""
    model = small(kind)
    gc.collect()
    try:
        policy = build_policy(model, copy.deepcopy(model), (0,), PROMPTS, 3, ModelSettings())
    except UserError as error:
        if "can't compute a response" in str(error):
            pytest.skip(str(error)[:160])
        assert kind in REFUSED, str(error)
        assert "otherwise beside others than alone" in str(error)
        return
    assert kind not in REFUSED
    assert isinstance(policy, SimplePolicy if kind in ON_THE_SIMPLE_POLICY else FastPolicy)
    other = copy.deepcopy(model)
    simple = SimplePolicy(other, copy.deepcopy(other), eos=(0,))
    assert_equal_training(policy, simple, ppo_settings("sound"), 1e-4, count=1)
