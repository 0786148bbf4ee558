"""`python -m pgsrm.algorithm sft task=... model=... out=FOLDER [key=value ...]`: training that is not PPO."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from pgsrm.config.schema import Settings
    from pgsrm.task import Task

USAGE = """\
python -m pgsrm.algorithm sft task=NAME model=NAME out=FOLDER [key=value ...]

Supervised fine-tuning: trains a model on a task's training prompts and their references, and saves it. A run starts from it:
  python -m pgsrm.run task=NAME model=NAME model.path=FOLDER

  out=FOLDER         where weights and tokenizer go, in the hub's layout; a new folder, or an empty one
  sft.epochs=N       passes over the training prompts
  sft.lr=X           learning rate
  sft.batch_size=N   prompts per gradient step; sft.micro_batch=N: at once in memory
  seed=N             order of the prompts
  --config-dir DIR   more choices, of your own

All other words are those of python -m pgsrm.run. docs/summary.md has an example. Nothing is saved before the end: a training of
hours is better a run, which has checkpoints (python -m pgsrm.run algorithm=sft)."""
COMMAND = "python -m pgsrm.algorithm sft"


def sft(words: Sequence[str]) -> None:
    """Fine-tune as the words say; what would not work is said before the model is loaded."""
    from pgsrm.config.command_line import own_words
    from pgsrm.config.compose import compose_words
    from pgsrm.config.plan import build_task, check_prompts, check_references, resolve
    from pgsrm.config.schema import read_settings
    from pgsrm.models.settings import check_model
    from pgsrm.record.new_folder import new_folder
    from pgsrm.util.errors import UserError

    own, others = own_words(words, ("out",))
    out = new_folder(own.get("out", ""))
    config, choices = compose_words(others, COMMAND)
    settings = read_settings(config)
    if settings.processes > 1 or settings.model.shard:
        raise UserError("processes: sft is one process; leave processes and model.shard as they are")
    check_model(settings.model)
    resolved = resolve(config, choices)
    task = build_task(resolved)
    check_references(settings, task.train + task.holdout, "sft")
    check_prompts(settings, task)
    _train(settings, task, out)


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


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import HELP
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.errors import UserError

    words = sys.argv[1:]
    with ending_with_line("pgsrm.algorithm", "interrupted; nothing was saved"):
        if not words or any(word in HELP for word in words):
            print(USAGE)
        elif words[0] != "sft":
            raise UserError(f"{words[0]}: no such algorithm; there is sft: {COMMAND} task=... out=FOLDER")
        else:
            sft(words[1:])


if __name__ == "__main__":
    main()
