"""The policy: a causal language model that answers, its frozen reference, and what both say about given responses.

`protocol.py` says what an update asks of a policy. `simple.py` does it with whole forward passes and reads in one sitting;
`fast/` computes nothing twice (docs/fast-path.md). `choose.py` takes the one that suits a model.
"""
