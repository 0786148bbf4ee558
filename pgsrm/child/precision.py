"""bfloat16 arithmetic on float32 weights: the weights' bfloat16 copies, made once and not at every use.

Autocast alone casts every weight in every forward pass, and an update makes a dozen (prompts, each sampled token,
responses): for GPT-2 Small each is 0.75 GB of memory traffic. Embeddings stay float32, and with them the residual stream.
"""

from typing import Any


class Bfloat16Weights:
    """The matrices of a model in bfloat16, with the casts in their graph: gradients reach the float32 weights.

    They are made at first use, in whatever grad mode, and must be forgotten when the weights change.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._copies: dict[str, Any] | None = None

    def forget(self) -> None:
        """To be called when the weights have changed."""
        self._copies = None

    def run(self, inputs: dict[str, Any]) -> Any:
        """The model's forward pass on the copies; everything else as autocast has it."""
        import torch
        from torch.func import functional_call

        if self._copies is None:
            with torch.enable_grad():
                self._copies = self._cast()
        device = inputs["input_ids"].device.type
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            # not tied: an output layer is cast, the embedding that it shares its weights with is not
            return functional_call(self.model, self._copies, kwargs=inputs, tie_weights=False)

    def _cast(self) -> dict[str, Any]:
        import torch

        embeddings = {
            f"{path}.weight" for path, module in self.model.named_modules() if isinstance(module, torch.nn.Embedding)
        }
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {
            name: parameter.to(torch.bfloat16)
            for name, parameter in parameters
            if parameter.dim() >= 2 and name not in embeddings
        }


def attend_in_float32(model: Any) -> None:
    """Let a model's attention, and that alone, compute in float32; for bfloat16 on a CPU.

    There the backward pass of torch's bfloat16 attention takes ten times as long as float32's, and attention is one
    hundredth of an update's arithmetic at a prompt's length. Models without torch's attention stay as they are.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        kind = query.dtype
        with torch.autocast(query.device.type, enabled=False):
            out, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
        return out.to(kind), weights

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register("sdpa_float32", attend)
        AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
        model.set_attn_implementation("sdpa_float32")
