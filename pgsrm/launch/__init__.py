"""Many run folders at once: `local` on this machine, `slurm` on a cluster; `sweep` says what each needs, `status` how far it is."""
