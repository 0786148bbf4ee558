"""Evaluate finished runs again: `python -m pgsrm.evaluation RUN ...` prints one line of JSON per run.

It is for runs of an earlier version, which lacked a metric of this one. RUN is a run's folder. Its saved model is
measured as its config says, by a reward that remembers what it did at the end of the run, and nothing is written. With --best it is
the model of the best evaluation (`stop.keep_best`).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgsrm.record import RunFolder
from pgsrm.util.objects import attach_object, remember, state_of


def evaluate_run(folder: RunFolder, best: bool = False) -> dict[str, float]:
    """The metrics `eval/*` of a finished run's model: those of its last update, or of its best evaluation."""
    import msgspec

    from pgsrm.config.plan import build_evaluation, build_objects, load_settings
    from pgsrm.evaluation.evaluation import Evaluation
    from pgsrm.models.load import load_codec, load_model, resolve_device
    from pgsrm.policy.choose import build_policy
    from pgsrm.policy.sampling import Sampling
    from pgsrm.reward.scorer import Scorer

    settings, config = load_settings(folder)
    task, reward = build_objects(config)
    saved = msgspec.structs.replace(settings.model, path=str(folder.saved_model(best)), revision=None, lora=None)
    model = load_model(saved, resolve_device(saved.device))
    codec = load_codec(saved, model)
    prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train + task.holdout}
    reference = load_model(settings.model, model.device) if settings.evaluation.measures else None
    policy = build_policy(
        model,
        reference,
        codec.eos,
        [prompt_ids[example.prompt] for example in task.train],
        task.max_new_tokens,
        saved,
        settings.ppo.padding,
        settings.ppo.dropout,
    )
    attach_object(reward, policy, codec)
    evaluated_with = build_evaluation(settings)
    _remember(folder, reward, evaluated_with.measures)
    scorer = Scorer(reward, task.checker, codec.eos)
    sampling = Sampling(task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k)
    updates = (folder.status() or {}).get("best_update" if best else "update", settings.ppo.updates)
    evaluate = Evaluation(task, policy, codec, prompt_ids, scorer, sampling, settings.seed, evaluated_with)
    metrics = evaluate(int(updates))
    return {name: value for name, value in metrics.items() if name.startswith("eval/")}


def _remember(folder: RunFolder, reward: Any, measures: Mapping[str, Any]) -> None:
    """Put rewards where the run left them; a line on standard error where it did not keep that."""
    state = folder.reward_state()
    if state is not None:
        remember(reward, measures, state)
    elif any(state_of(one) is not None for one in (reward, *measures.values())):
        print(
            f"{folder.path}: has no {folder.reward.name}, as a run of an earlier version: a reward that scales by earlier batches "
            "does so by this evaluation's answers, and its numbers are not those of the run",
            file=sys.stderr,
            flush=True,
        )


def main() -> None:
    """The command line; exit code 2, before anything is evaluated, where a folder has no such model."""
    from pgsrm.config.messages import ending_with_line

    parser = argparse.ArgumentParser(prog="python -m pgsrm.evaluation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--best", action="store_true", help="the model of the best evaluation, of runs with stop.keep_best"
    )
    args = parser.parse_args()
    with ending_with_line("pgsrm", "interrupted"):
        folders = [RunFolder(run) for run in args.runs]
        for folder in folders:
            folder.saved_model(args.best)
        for folder in folders:
            line = {"run": folder.path.resolve().name, **evaluate_run(folder, args.best)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
