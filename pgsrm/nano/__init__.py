"""nano, the shipped model: its weights, and how they were made. `corpus` draws the text, `pretrain` trains on it."""
