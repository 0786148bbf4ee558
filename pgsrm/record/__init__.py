"""The record of a run: its folder, which is the truth, and what mirrors or shows that folder."""

from pgsrm.record.files import DiskFull
from pgsrm.record.run_folder import Onlooker, RunFolder

__all__ = ["DiskFull", "Onlooker", "RunFolder"]
