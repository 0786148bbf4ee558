"""What an evaluation costs: `python -m benchmarks.evaluation [--rounds 3] [--threads 1] task=antonym model=smollm2`.

Seconds of CPU time of its parts, of the untrained policy of the run that the words name. Greedy and sampled answers to all
prompts are made in two ways, in turn in one process: each after a pass of its own over the prompts, and both after one pass.
The answers must be equal. Printed are medians, and the median of the rounds' ratios. Nothing is trained.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pgsrm.evaluation.evaluation import perplexity
from pgsrm.policy.base import greedily
from pgsrm.trainer import Trainer
from pgsrm.util.errors import UserError


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time of all threads, and what was returned."""
    started = time.process_time()
    returned = call()
    return time.process_time() - started, returned


def rounds_of(run: Trainer, rounds: int) -> dict[str, list[float]]:
    """Part of an evaluation -> seconds in each round."""
    policy, how, evaluation = run.policy, run.sampling, run.evaluate
    prompts = [run.prompt_ids[example.prompt] for example in evaluation.greedy_examples]
    uniforms = torch.rand(len(prompts), how.max_new_tokens, dtype=torch.float64)
    ways = [greedily(len(prompts), how.max_new_tokens), (uniforms, how)]
    times: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        apart, one_by_one = timed(lambda: [policy.answers(prompts, [way])[0] for way in ways])
        together, both = timed(lambda: policy.answers(prompts, ways))
        if one_by_one != both:
            sys.exit("the two ways have different answers")
        measured = {"answers, a pass over the prompts each": apart, "answers, one pass for both": together}
        if evaluation.windows is not None:
            measured["perplexity of the text"] = timed(partial(perplexity, policy, evaluation.windows))[0]
        measured["a whole evaluation"] = timed(lambda: evaluation(0))[0]
        for name, seconds in measured.items() if turn else ():  # the first warms up
            times.setdefault(name, []).append(seconds)
    return times


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options, words = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as outputs:
        try:
            run = Trainer.build(*words, "tracking=none", f"paths.outputs={outputs}")
        except UserError as error:
            sys.exit(str(error))
        times = rounds_of(run, options.rounds)
    print(f"{' '.join(words) or 'as a run is by default'}, {len(run.evaluate.greedy_examples)} prompts")
    for name, seconds in times.items():
        print(f"{name:40}{statistics.median(seconds):8.3f} s")
    apart, together = times["answers, a pass over the prompts each"], times["answers, one pass for both"]
    ratio = statistics.median(b / a for a, b in zip(apart, together, strict=True))
    print(f"{'one pass for both / one each':40}{ratio:8.2f}")


if __name__ == "__main__":
    main()
