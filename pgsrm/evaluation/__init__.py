"""What a run is measured by beside its training: docs/metrics.md has the formulas."""

from pgsrm.evaluation.inputs import AUSTEN, Evaluated, build_object, other_reward, read_text

__all__ = ["AUSTEN", "Evaluated", "build_object", "other_reward", "read_text"]
