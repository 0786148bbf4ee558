"""`python -m pgsrm.algorithm sft|best_of_n task=... model=... out=... [key=value ...]`: what is not PPO, and no run."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from pgsrm.config.schema import Settings
    from pgsrm.task import Task

USAGE = """\
python -m pgsrm.algorithm sft       task=NAME model=NAME out=FOLDER [key=value ...]
python -m pgsrm.algorithm best_of_n task=NAME reward=NAME model=NAME out=FILE.csv [samples=64] [key=value ...]

sft, supervised fine-tuning, trains a model on a task's training prompts and their references, and saves it. A run starts from it:
  python -m pgsrm.run task=NAME model=NAME model.path=FOLDER

  out=FOLDER         where weights and tokenizer go, in the hub's layout; a new folder, or an empty one
  sft.epochs=N       passes over the training prompts
  sft.lr=X           learning rate
  sft.batch_size=N   prompts per gradient step; sft.micro_batch=N: at once in memory
  seed=N             order of the prompts
  --config-dir DIR   more choices, of your own

docs/summary.md has an example. Nothing is saved before the end: a training of hours is better a run, which has checkpoints
(python -m pgsrm.run algorithm=sft).

best_of_n trains nothing: it samples the model as it comes, and says what the best of n = 1, 2, 4, ... samples by the reward is
worth, in right answers too, and how far from the model it is (KL). The figure of over-optimisation shows it as a line:
  python -m pgsrm.analysis --best-of-n FILE.csv

  out=FILE.csv       where the table goes; a new file
  samples=N          responses to each prompt, and the largest n; 64
  seed=N             what is sampled
  evaluation.prompts=N   at most so many prompts of each split; null: all
  --config-dir DIR   more choices, of your own

docs/algorithms.md has an example. All other words are those of python -m pgsrm.run."""
COMMAND = "python -m pgsrm.algorithm"
# Groups of the config that decide what a reward pays.
_OF_REWARD = ("reward", "embedder", "critic", "parent")


def sft(words: Sequence[str]) -> None:
    """Fine-tune as the words say; what would not work is said before the model is loaded."""
    from pgsrm.config.command_line import own_words
    from pgsrm.config.plan import build_task, check_prompts, check_references
    from pgsrm.record.new_folder import new_folder

    own, others = own_words(words, ("out",))
    out = new_folder(own.get("out", ""))
    settings, resolved, _ = _composed(others, "sft")
    task = build_task(resolved)
    check_references(settings, task.train + task.holdout, "sft")
    check_prompts(settings, task)
    _train(settings, task, out)


def _composed(words: Sequence[str], command: str) -> tuple["Settings", dict[str, Any], dict[str, str]]:
    """The settings that the words give a command, the config that they are of, resolved, and its choices."""
    from pgsrm.config.compose import compose_words
    from pgsrm.config.plan import resolve
    from pgsrm.config.schema import read_settings
    from pgsrm.models.settings import check_model
    from pgsrm.util.errors import UserError

    config, choices = compose_words(words, f"{COMMAND} {command}")
    settings = read_settings(config)
    if settings.processes > 1 or settings.model.shard:
        raise UserError(f"processes: {command} is one process; leave processes and model.shard as they are")
    check_model(settings.model)
    return settings, resolve(config, choices), choices


def _train(settings: "Settings", task: "Task", out: Path) -> None:
    import torch

    from pgsrm.algorithm.sft import check_fit, encode_pairs, mean_loss, tune
    from pgsrm.models.load import load_codec, load_model, resolve_device
    from pgsrm.models.lora import add_adapters, merged
    from pgsrm.models.tuning import steps
    from pgsrm.policy.choose import build_policy
    from pgsrm.record.progress import TrainingProgress
    from pgsrm.util.memory import keep_freed_memory

    keep_freed_memory()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)  # draws adapters
    model = load_model(settings.model, resolve_device(settings.model.device))
    codec = load_codec(settings.model, model)
    if settings.model.lora is not None:
        model = add_adapters(model, settings.model.lora)
    pairs, held_out = encode_pairs(codec, task.train), encode_pairs(codec, task.holdout)
    prompts = [pair.prompt for pair in pairs]
    policy = build_policy(model, None, codec.eos, prompts, task.max_new_tokens, settings.model)
    check_fit(pairs + held_out, policy.positions)
    numbers = {"references_longer_than_a_response": sum(len(p.answer) > task.max_new_tokens for p in pairs)}
    print(_first_line(settings, task, numbers["references_longer_than_a_response"]), flush=True)

    measured, on = (held_out, "held-out") if held_out else (pairs, "training")
    before = mean_loss(policy, measured)
    print(f"{on} loss before: {before:.3f} nats per token", flush=True)
    with TrainingProgress(settings.sft.epochs, steps(len(pairs), settings.sft)) as progress:
        tune(policy, pairs, settings.sft, settings.seed, progress.epoch, progress.show)
    after = mean_loss(policy, measured)
    print(f"{on} loss after: {after:.3f} nats per token", flush=True)
    card = {"task": task.digest, "seed": settings.seed, f"{on} loss": [before, after], **numbers}
    _save(policy.model if settings.model.lora is None else merged(policy.model), codec.tokenizer, out, card)
    print(f"saved to {out}; train from it: python -m pgsrm.run ... model.path={out}")


def _first_line(settings: "Settings", task: "Task", cut: int) -> str:
    s = settings.sft
    prompts = f"{counted(len(task.train), 'prompt')}, {len(task.holdout)} held out"
    line = f"{prompts}; {counted(s.epochs, 'epoch')}, batches of {s.batch_size}, lr {s.lr:g}"
    longer = "reference is" if cut == 1 else "references are"
    longer = f"; {cut} {longer} longer than task.max_new_tokens={task.max_new_tokens}, which ends a response"
    return line + (longer if cut else "")


def _save(model: Any, tokenizer: Any, out: Path, card: dict[str, Any]) -> None:
    from pgsrm.record.new_folder import written_whole

    with written_whole(out) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        (work / "sft.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def best_of_n(words: Sequence[str]) -> None:
    """Sample and judge as the words say; what would not work is said before the model is loaded."""
    from omegaconf import OmegaConf

    from pgsrm.config.command_line import own_words
    from pgsrm.config.plan import Shared, build_objects, check_prompts, keys_as_written
    from pgsrm.config.schema import read_settings
    from pgsrm.record.model_name import model_name
    from pgsrm.reward.check import check_comparable

    own, others = own_words(words, ("out", "samples"))
    out, samples = _new_table(own.get("out", "")), _samples(own.get("samples", "64"))
    _, resolved, choices = _composed(others, "best_of_n")
    settings = read_settings(OmegaConf.create(resolved))  # paths of its measures as they are read
    task, reward = build_objects(resolved)
    check_comparable(reward)
    check_prompts(settings, task)
    with keys_as_written(resolved):
        Shared().check(resolved, settings, task, reward)
    about = {
        "task": choices.get("task", "custom"),
        "reward": _reward_label(choices, others),
        "model": model_name(resolved | {"choices": choices}),
        "samples": str(samples),
        "seed": str(settings.seed),
    }
    _sample(settings, task, reward, samples, about, out)


def _new_table(name: str) -> Path:
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import check_writable, local_path

    if not name:
        raise UserError("out: missing; name a new file that ends in .csv")
    out = local_path(name, "out")
    if out.suffix != ".csv" or out.exists():
        problem = "is there already" if out.is_file() else "names no CSV file"
        raise UserError(f"out={name}: {problem}; name a new file that ends in .csv")
    check_writable(out, "out")
    return out


def _samples(text: str) -> int:
    from pgsrm.util.errors import UserError

    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"samples={text}: is no number of samples; give a whole number from 1")
    return int(text)


def _reward_label(choices: Mapping[str, str], words: Sequence[str]) -> str:
    """The reward's choice, and what was set of it and of what it asks: `pgsrm, alpha=8`."""
    set_to = [word.removeprefix("reward.") for word in words if word.startswith(tuple(f"{g}." for g in _OF_REWARD))]
    chosen = [word for word in words if word.startswith(tuple(f"{g}=" for g in _OF_REWARD[1:]))]
    return ", ".join([choices.get("reward", "custom"), *chosen, *set_to])


def _sample(settings: "Settings", task: "Task", reward: Any, samples: int, about: Mapping[str, str], out: Path) -> None:
    import numpy as np
    import torch

    from pgsrm.algorithm.judged_samples import Sampler
    from pgsrm.analysis.best_of_n import HELD_OUT, TRAINED, table, with_columns
    from pgsrm.config.plan import build_evaluation
    from pgsrm.evaluation.evaluation import chosen
    from pgsrm.evaluation.reference_samples import reference_samples
    from pgsrm.models.load import load_codec, load_model, resolve_device
    from pgsrm.policy.choose import build_policy
    from pgsrm.policy.sampling import Sampling
    from pgsrm.record.files import replace
    from pgsrm.record.progress import CountProgress
    from pgsrm.reward.scorer import Scorer
    from pgsrm.util.errors import under, writing_to
    from pgsrm.util.objects import attach_object, standardise_object

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = load_model(settings.model, resolve_device(settings.model.device))
    codec = load_codec(settings.model, model)
    prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train + task.holdout}
    policy = build_policy(model, None, codec.eos, list(prompt_ids.values()), task.max_new_tokens, settings.model)
    attach_object(reward, policy, codec)
    evaluated_with = build_evaluation(settings)
    how = Sampling(task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k)
    drawn = cache(lambda: reference_samples(policy, codec, task, prompt_ids, how, settings.seed))
    of_measures = {f"evaluation.measures.{name}": measure for name, measure in evaluated_with.measures.items()}
    for key, target in {"reward": reward, **of_measures}.items():
        with under(key):
            standardise_object(target, drawn)
    splits = {
        name: chosen(examples, evaluated_with.prompts)
        for name, examples in ((TRAINED, task.train), (HELD_OUT, task.holdout))
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    sampler = Sampler(
        policy,
        codec,
        prompt_ids,
        how,
        task.min_new_tokens,
        Scorer(reward, task.checker, codec.eos),
        evaluated_with.measures,
    )
    draws, done = np.random.default_rng([settings.seed, 0, 3]), 0  # of its own: no run's
    with CountProgress("responses", samples * sum(map(len, splits.values()))) as progress:

        def tell(added: int) -> None:
            nonlocal done
            done += added
            progress.show(done)

        judged = {name: sampler(examples, samples, draws, tell) for name, examples in splits.items() if examples}
    result = table(judged, samples)
    print(f"\n{result.markdown()}", flush=True)
    with writing_to("out", out):
        replace(out, with_columns(about, result).csv().encode())
    print(f"saved to {out}; a figure shows it: python -m pgsrm.analysis --best-of-n {out}")


COMMANDS = {"sft": sft, "best_of_n": best_of_n}


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import HELP
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.errors import UserError

    words = sys.argv[1:]
    with ending_with_line("pgsrm.algorithm", "interrupted; nothing was saved"):
        if not words or any(word in HELP for word in words):
            print(USAGE)
        elif words[0] not in COMMANDS:
            raise UserError(
                f"{words[0]}: no such algorithm; there are {', '.join(COMMANDS)}: {COMMAND} sft task=... out=FOLDER"
            )
        else:
            COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
