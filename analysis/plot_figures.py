"""`python analysis/plot_figures.py ...`, the same as `python -m pgsrm.analysis ...`: figures, tables, claims and a report."""

import sys

from pgsrm.analysis.plot_figures import main

if __name__ == "__main__":
    sys.exit(main())
