"""Runs as jobs of a Slurm cluster: what they ask for, how they are submitted, what squeue knows of them, what a job does."""
