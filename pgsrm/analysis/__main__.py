"""`python -m pgsrm.analysis ...`: the same as `python analysis/plot_figures.py ...`, for those who have the wheel alone."""

import sys

from pgsrm.analysis.plot_figures import main

if __name__ == "__main__":
    sys.exit(main())
