"""What a model's own code raises where a policy tries whether it takes the model, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgsrm.util.errors import UserError, reason
from pgsrm.util.memory import is_lack_of_memory

# What models raise for arguments, caches and shapes that they do not know.
_RAISED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Within it, what is raised becomes the UserError `what (its reason); remedy`; a lack of memory stays what it is."""
    try:
        yield
    except _RAISED as error:
        if isinstance(error, UserError) or is_lack_of_memory(error):
            raise
        raise UserError(f"{what} ({reason(error)}); {remedy}") from error
