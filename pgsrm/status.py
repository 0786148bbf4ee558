"""`python -m pgsrm.status [FOLDER ...] [--unfinished]`: the command; what it does is in `pgsrm.launch.status`."""

from pgsrm.launch.status import main

if __name__ == "__main__":
    main()
