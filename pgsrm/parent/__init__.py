"""Who answers: `python -m pgsrm.parent task=... parent=openai|transformers` makes a task's references, once and offline.

A training run reads them from a file and knows no parent.
"""

from pgsrm.parent.files import default_references, find_references, parent_command
from pgsrm.parent.settings import ParentSettings

__all__ = ["ParentSettings", "default_references", "find_references", "parent_command"]
