"""The definition of a run's tenths, for the tables of the terminal, the status, the report and the claims."""


def tenth_bounds(planned: int) -> list[tuple[int, int]]:
    """The tenths of the planned updates 1..planned as (after, up to): the k-th holds the updates after < u <= up to.

    Below ten updates each update is a window of its own.
    """
    windows = max(1, min(10, planned))
    return [(round(k * planned / windows), round((k + 1) * planned / windows)) for k in range(windows)]
