"""From run folders, or MLflow, to figures, tables, statistics, claims and a report.

Read runs: `runs`, `mlflow_runs`, `configs`, `samples`; as data frames: `frames`. Which runs are one curve: `variants`.
Numbers: `measures`, `curves`, `intervals`, `comparison`, `claims`, `verdicts`, `findings`, `experiments`.
Pages: `figures` and `dot_plot` (with their legends), `style`, `tables`, `results`, `paper_tables`, `overview`, `report`.
The command: `plot_figures`.
"""
