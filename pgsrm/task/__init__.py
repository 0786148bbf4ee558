"""What is asked: prompts, references, the split into train and holdout, and what counts as right."""

from pgsrm.task.checkers import NormalizedEquality, SentimentInversion, normalize
from pgsrm.task.references import reference_problem
from pgsrm.task.several import accepts, every_reference, reference_columns
from pgsrm.task.table import SHIPPED, Row, find_data, read_lines, read_objects, read_table
from pgsrm.task.task import Checker, Example, LacksReferencesError, Task, load_inputs, load_task, task_digest
from pgsrm.task.template import placeholders, render

__all__ = [
    "SHIPPED",
    "Checker",
    "Example",
    "LacksReferencesError",
    "NormalizedEquality",
    "Row",
    "SentimentInversion",
    "Task",
    "accepts",
    "every_reference",
    "find_data",
    "load_inputs",
    "load_task",
    "normalize",
    "placeholders",
    "read_lines",
    "read_objects",
    "read_table",
    "reference_columns",
    "reference_problem",
    "render",
    "task_digest",
]
