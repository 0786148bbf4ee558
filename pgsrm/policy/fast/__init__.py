"""The fast policy: what several rows share is computed once. Which models it takes: `policy.FastPolicy` (docs/fast-path.md)."""
