"""Teaching nano to reply: fine-tuning on pairs of what it reads and what it writes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel

from pgsrm.models.settings import SHIPPED
from pgsrm.nano.minimise import minimise

Pairs = Sequence[tuple[str, str]]


def load_nano() -> tuple[Any, Any]:
    """The tokenizer and the model of nano, in float32."""
    return AutoTokenizer.from_pretrained(SHIPPED), GPT2LMHeadModel.from_pretrained(SHIPPED, dtype=torch.float32).eval()


def fine_tune(batch: Callable[[], Pairs], steps: int, rate: float, folder: Path) -> None:
    """Fine-tune nano on `steps` batches of (text, reply), the loss on the reply and its end alone; save it in float16."""
    tokenizer, model = load_nano()

    def loss() -> Tensor:
        ids, labels = _rows(tokenizer, batch())
        value: Tensor = model(ids, labels=labels).loss
        return value

    minimise(model, loss, steps, rate)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _rows(tokenizer: Any, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Ids (B, T) of texts with their replies, padded on the right, and labels (B, T), -100 where there is no loss."""
    asked = [tokenizer(text)["input_ids"] for text, _ in pairs]
    replies = [[*tokenizer(reply)["input_ids"], tokenizer.eos_token_id] for _, reply in pairs]
    width = max(len(a) + len(r) for a, r in zip(asked, replies, strict=True))
    ids = torch.full((len(pairs), width), tokenizer.eos_token_id)
    labels = torch.full((len(pairs), width), -100)
    for row, (before, reply) in enumerate(zip(asked, replies, strict=True)):
        end = len(before) + len(reply)
        ids[row, :end] = torch.tensor([*before, *reply])
        labels[row, len(before) : end] = torch.tensor(reply)
    return ids, labels
