"""Which metrics are measurements of the machine: they differ between two runs that are otherwise the same, bit for bit."""

MEASURED = ("time/", "memory/")  # the beginnings of their names


def is_measured(name: str) -> bool:
    """Whether the metric says how long something took, or how much memory, and not what was computed."""
    return name.startswith(MEASURED)
