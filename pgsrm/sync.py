"""`python -m pgsrm.sync [FOLDER ...]`: the command; what it does is in `pgsrm.launch.sync`."""

from pgsrm.launch.sync import main

if __name__ == "__main__":
    main()
