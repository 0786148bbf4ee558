"""The `sft` config section: checked without loading anything."""

import msgspec

from pgsrm.util.numbers import Count, Positive


class SFTSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Supervised fine-tuning, `python -m pgsrm.algorithm sft`."""

    # Passes over the training prompts.
    epochs: Count = 3
    # Prompts per gradient step.
    batch_size: Count = 16
    # Prompts that a forward pass holds at once (memory); null = all of a batch. Results are equal up to rounding.
    micro_batch: Count | None = None
    # AdamW's learning rate at the first step; it falls linearly to 0 at the last.
    lr: Positive = 5e-5
