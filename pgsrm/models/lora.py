"""Low-rank adapters (LoRA, Hu et al. 2021), by the `peft` library: small matrices are trained, the model stays as it is.

The reference is then the same model without them, so that a run holds the weights once, and optimiser states for the
adapters alone.
"""

import warnings
from pathlib import Path
from typing import Any

from transformers.pytorch_utils import Conv1D

from pgsrm.models.settings import LoraSettings
from pgsrm.util.errors import UserError


def add_adapters(model: Any, settings: LoraSettings) -> Any:
    """A `peft.PeftModel` around `model`, whose adapters alone can be trained; torch's generator draws their A.

    Raises:
        UserError: for targets that the model has not, or that can't be merged into its weights in the end.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it, whatever its annotation says
        target_modules=settings.targets,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2's weights are transposed
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's use of transformers' older names
            adapted = get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(
            f"model.lora.targets={settings.targets}: can't be used ({reason}); name linear layers of the model"
        ) from error
    if any(hasattr(layer, "base_layer") for layer in (model.get_input_embeddings(), model.get_output_embeddings())):
        # often one tensor: what is merged into the one would change the other
        raise UserError(f"model.lora.targets={settings.targets}: embeddings and output layer can't be among them")
    return adapted


def save_adapters(model: Any, folder: Path) -> None:
    """Write the adapters of a `peft.PeftModel` as peft does, for `PeftModel.from_pretrained(base, folder)`."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a template of a card, with nothing filled in


def merged(model: Any) -> Any:
    """The plain model with the adapters' products added to its weights; the adapters are gone afterwards."""
    return model.merge_and_unload()
