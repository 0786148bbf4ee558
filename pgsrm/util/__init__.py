"""What every room may use: paths, errors, digests, numbers, memory, secrets, several processes."""
