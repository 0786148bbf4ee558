"""What is not PPO: how else a run learns, and `python -m pgsrm.algorithm sft` and `best_of_n`, which are no runs."""
