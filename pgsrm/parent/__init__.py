"""Who answers: `python -m pgsrm.parent task=... parent=openai|transformers` makes a task's references, once and offline.

A training run reads them from a file and knows no parent.
"""
