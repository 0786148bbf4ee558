"""How the runs were configured and made: what differs between settings, and the commits and versions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pgsrm.analysis.tables import Table
from pgsrm.analysis.variants import Variant

NAMED = 4  # variants that have a value
NOT_SHOWN = ("task.instruction", "task.parent_input")  # long, and the same wherever the task is


def differences(variants: Sequence[Variant]) -> Table:
    """A row for each value of each setting that is not the same in all variants of a task, and who has it."""
    rows: list[list[str]] = []
    for task in dict.fromkeys(variant.task for variant in variants):
        chosen = [variant for variant in variants if variant.task == task]
        names = sorted({name for variant in chosen for name in variant.runs[0].settings})
        for name in names:
            values: dict[str, list[Variant]] = {}
            for variant in chosen:
                values.setdefault(variant.runs[0].settings.get(name, "(not set)"), []).append(variant)
            # What one reward has and another has not is the reward, not a setting.
            if len(values) > 1 and not name.startswith(NOT_SHOWN) and not _is_of_one_reward(name, chosen):
                rows += [
                    [task, name, value, where] for value, where in zip(values, _where(values.values()), strict=True)
                ]
    return Table("configs", "Settings that differ within a task", ["task", "setting", "value", "where"], rows, left=4)


def _where(groups: Collection[Sequence[Variant]]) -> list[str]:
    """Each group in a few words: a setting once for all rewards, the largest of several groups as what is left."""
    names = [list(dict.fromkeys(variant.settings for variant in group)) for group in groups]
    if len({name for group in names for name in group if name}) < sum(map(len, names)):  # the reward tells them apart
        names = [[variant.title for variant in group] for group in groups]
    largest = max(names, key=len)
    return [
        "all others" if group_names is largest and len(group_names) > NAMED else _few(group_names)
        for group_names in names
    ]


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_of_one_reward(name: str, variants: Sequence[Variant]) -> bool:
    if not name.startswith("reward."):
        return False
    by_reward: dict[str, set[str]] = {}
    for variant in variants:
        by_reward.setdefault(variant.reward, set()).add(variant.runs[0].settings.get(name, "(not set)"))
    return all(len(values) == 1 for values in by_reward.values())


def environments(variants: Sequence[Variant]) -> Table:
    """A row for each commit, device and set of versions that runs were made with."""
    counts: dict[tuple[str, str, str], int] = {}
    for run in (run for variant in variants for run in variant.runs):
        versions = run.status.get("versions")
        packages = (
            ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else "-"
        )
        key = str(run.status.get("commit") or "-")[:16], str(run.status.get("device") or "-"), packages
        counts[key] = counts.get(key, 0) + 1
    rows = [[str(count), *key] for key, count in counts.items()]
    return Table("environments", "Commits and versions", ["runs", "commit", "device", "versions"], rows, left=4)
