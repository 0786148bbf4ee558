"""`python -m pgsrm.reward_model pairs|train|judge ... [key=value ...]`: preference pairs, and reward models from them."""

import hashlib
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from pgsrm.analysis.tables import Table
    from pgsrm.config.schema import Settings
    from pgsrm.models.reward_model import Card, RewardModel
    from pgsrm.models.settings import ModelSettings
    from pgsrm.reward_model.pairs import Labels, Preference
    from pgsrm.task import Example, Task

USAGE = """\
python -m pgsrm.reward_model pairs pairs=SOURCE out=FILE.jsonl [task=NAME model=NAME key=value ...]
python -m pgsrm.reward_model train pairs=SOURCE out=FOLDER     [task=NAME model=NAME key=value ...]
python -m pgsrm.reward_model judge FOLDER pairs=SOURCE         [policies=RUN,... task=NAME key=value ...]

pairs writes preference pairs, train trains a reward model on them and judges it, judge judges one. A run is then trained on it:
  python -m pgsrm.reward_model train task=antonym pairs=reference out=outputs/judge
  python -m pgsrm.run task=antonym reward=learned reward.path=outputs/judge

  pairs=reference    the parent's answers over the policy's own samples, on the task's training prompts
  pairs=gold         two samples of the policy, ordered by the checker's label: right over wrong
  pairs=reward       two samples of the policy, ordered by the reward that reward=... chooses
  pairs=FILE         a JSONL or CSV file with the columns prompt, chosen, rejected and, where known, margin
  pairs=FOLDER       people's ratings: files NAME_GroundTruth.txt and NAME_anonDataRatings.txt (docs/reward_models.md)
  policies=RUN,...   judge also on samples of these runs' final models, or of model folders
  reward_model.KEY=  samples, pairs, holdout, epochs, batch_size, micro_batch, lr, margin, center_coef
  seed=N             what is drawn: samples, the head, the order of the pairs
  --config-dir DIR   more choices, of your own

All other words are those of python -m pgsrm.run. docs/reward_models.md has a recipe."""
SAMPLED = ("reference", "gold", "reward")
MOVING = 32  # samples to a prompt of each policy that a model is judged on, at most


@dataclass(frozen=True)
class Composed:
    """What a command's words say of policy, task and reward; the task is read where it is needed."""

    settings: "Settings"
    config: dict[str, Any]
    names_task: bool

    @cached_property
    def task(self) -> "Task":
        """The task, whose prompts fit the model."""
        from pgsrm.config.plan import build_task, check_prompts

        task = build_task(self.config)
        check_prompts(self.settings, task)
        return task

    def labels(self, kind: str, one_call: bool = True) -> "Labels":
        """What responses are worth by the task's checker (`gold`), or by the configured `reward`. Raises UserError, as a run.

        one_call: whether numbers are compared within one call of it alone, so that a reward scaled by its batch will do.
        """
        from pgsrm.config.plan import build_reward
        from pgsrm.reward.calling import check_before
        from pgsrm.reward.check import NoPolicy, check_comparable, rewards_of
        from pgsrm.task import accepts
        from pgsrm.util.errors import UserError, under
        from pgsrm.util.objects import attach_object

        checker = self.task.checker
        if kind == "gold":
            if checker is None:
                raise UserError("pairs=gold: the task has no checker; take pairs=reward, with reward=... to order by")
            return lambda examples, texts: [
                float(accepts(checker, text, example)) for example, text in zip(examples, texts, strict=True)
            ]
        reward = build_reward(self.config)
        if not one_call:
            check_comparable(reward)
        with under("reward"):
            attach_object(reward, NoPolicy(), NoPolicy())
            check_before(reward, [example.references for example in self.task.train])
        return lambda examples, texts: rewards_of(reward, examples, texts)

    def draw(self, model: "ModelSettings", examples: "Sequence[Example]", count: int) -> list[list[str]]:
        """`count` samples of a policy for each example, at the temperature of training."""
        from pgsrm.policy.sampling import Sampling
        from pgsrm.reward_model.samples import draw

        ppo, task = self.settings.ppo, self.task
        how = Sampling(task.max_new_tokens, ppo.temperature, ppo.top_k)
        return draw(model, examples, how, count, self.settings.seed, task.min_new_tokens)


def pairs_command(words: Sequence[str]) -> None:
    """Write pairs to `out`."""
    from pgsrm.config.command_line import own_words
    from pgsrm.record.files import replace
    from pgsrm.reward_model.pairs import as_lines
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import check_writable, local_path

    own, others = own_words(words, ("pairs", "out"))
    out = local_path(own.get("out", ""), "out")
    if not own.get("out") or out.suffix != ".jsonl" or out.exists():
        problem = f"={out}: is there already" if out.is_file() else f"={own.get('out', '')}: names no file"
        raise UserError(f"out{problem}; name a new file that ends in .jsonl")
    check_writable(out, "out")
    pairs = _pairs(own.get("pairs", "reference"), _composed(others, "pairs"))
    replace(out, as_lines(pairs).encode())
    print(f"{counted(len(pairs), 'pair')} in {out}")


def train_command(words: Sequence[str]) -> None:
    """Train a reward model on pairs, judge it, standardise it and save it to `out`, as a whole or not at all."""
    from pgsrm.config.command_line import own_words
    from pgsrm.record.new_folder import new_folder
    from pgsrm.reward_model.pairs import split
    from pgsrm.util.errors import UserError
    from pgsrm.util.memory import keep_freed_memory

    own, others = own_words(words, ("pairs", "out"))
    out, source = new_folder(own.get("out", "")), own.get("pairs", "reference")
    composed = _composed(others, "train")
    keep_freed_memory()
    margins = composed.settings.reward_model.margin
    pairs = [] if margins and source == "reference" else _pairs(source, composed)
    if margins and all(pair.margin is None for pair in pairs):
        raise UserError(f"reward_model.margin=true: no pair of pairs={source} has a margin; leave it out")
    train, held_out = split(pairs, composed.settings.reward_model.holdout)
    _train(composed, train, held_out, out)


def _train(composed: Composed, train: "Sequence[Preference]", held_out: "Sequence[Preference]", out: Path) -> None:
    from pgsrm.models.reward_model import CARD, RewardModel
    from pgsrm.models.settings import identify_model
    from pgsrm.record.new_folder import written_whole
    from pgsrm.reward_model.judge import judge
    from pgsrm.reward_model.pairs import SPLIT, as_lines

    settings = composed.settings
    card: dict[str, Any] = {
        "mean": 0.0,
        "std": 1.0,
        "chat_template": settings.model.chat_template,
        "system_prompt": settings.model.system_prompt,
        "model": identify_model(settings.model),
        "pairs": hashlib.sha256(as_lines([*train, *held_out]).encode()).hexdigest(),
        "training_pairs": len(train),
        "held_out_pairs": len(held_out),
        "split": SPLIT,
        "seed": settings.seed,
        "settings": _plain(settings.reward_model),
    }
    with written_whole(out) as work:
        _tune(settings, train, len(held_out), work)
        (work / CARD).write_text(json.dumps(card), encoding="utf-8")
        model = RewardModel(str(work), device=settings.model.device)
        judged = judge(model.outputs, train, held_out)
        mean, std, on = _standard(composed, model, train)
        card |= {"mean": mean, "std": std, "standardised_on": on, "judged": judged}
        if composed.names_task:
            card["task"] = composed.task.digest
        (work / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"outputs of {on}: mean {mean:.3f}, standard deviation {std:.3f}\n\n{_table(judged).markdown()}")
    print(f"saved to {out}; train on it: python -m pgsrm.run ... reward=learned reward.path={out}")


def _plain(struct: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(struct)


def _tune(settings: "Settings", train: "Sequence[Preference]", held_out: int, work: Path) -> None:
    """Train a model on the pairs and save it with its tokenizer."""
    import torch

    from pgsrm.models.lengths import longest_read
    from pgsrm.models.load import load_codec, load_model, resolve_device
    from pgsrm.models.reward_model import encode
    from pgsrm.models.tuning import steps
    from pgsrm.record.progress import TrainingProgress
    from pgsrm.reward_model.training import Encoded, tune, with_scalar_head

    torch.manual_seed(settings.seed)  # draws the head
    causal = load_model(settings.model, resolve_device(settings.model.device))
    codec = load_codec(settings.model, causal)
    model = with_scalar_head(causal, codec, settings.model.path)
    longest = longest_read(model.config, codec.tokenizer)
    encoded, cut = [], 0
    for pair in train:
        chosen, rejected = (encode(codec, pair.prompt, text) for text in (pair.chosen, pair.rejected))
        cut += sum(len(row) > longest for row in (chosen, rejected))
        encoded.append(Encoded(chosen[-longest:], rejected[-longest:], pair.margin or 0.0))
    s = settings.reward_model
    which = "text is" if cut == 1 else "texts are"
    longer = f"; {cut} {which} longer than the model's {longest} tokens, the beginning is cut off" if cut else ""
    print(
        f"{counted(len(train), 'pair')}, {held_out} held out; batches of {s.batch_size}, lr {s.lr:g}{longer}",
        flush=True,
    )
    with TrainingProgress(s.epochs, steps(len(encoded), s)) as progress:
        tune(model, encoded, s, settings.seed, progress.epoch, progress.show)
    model.save_pretrained(work)
    codec.tokenizer.save_pretrained(work)


def _standard(composed: Composed, model: "RewardModel", train: "Sequence[Preference]") -> tuple[float, float, str]:
    """Mean and deviation of a model's outputs for the reference policy's samples, and what was measured on."""
    from pgsrm.reward.learned import moments, standardised_on

    if not composed.names_task:
        texts = [(pair.prompt, text) for pair in train for text in (pair.chosen, pair.rejected)]
        outputs = model.outputs([prompt for prompt, _ in texts], [text for _, text in texts])
        return *moments(outputs), f"the {counted(len(texts), 'text')} of the training pairs"
    examples = standardised_on(composed.task.train)
    responses = [text for (text,) in composed.draw(composed.settings.model, examples, 1)]
    outputs = model.outputs([example.prompt for example in examples], responses)
    return *moments(outputs), f"{counted(len(responses), 'sample')} of the reference policy"


def judge_command(words: Sequence[str]) -> None:
    """Judge a reward model on held-out pairs, and on samples of `policies`."""
    from pgsrm.config.command_line import own_words
    from pgsrm.models.reward_model import RewardModel
    from pgsrm.reward_model.judge import judge
    from pgsrm.reward_model.pairs import split
    from pgsrm.util.errors import UserError

    if not words or "=" in words[0]:
        raise UserError("judge: names no reward model; put its folder first: judge FOLDER pairs=...")
    own, others = own_words(words[1:], ("pairs", "policies"))
    composed = _composed(others, "judge")
    folders = _policies(own.get("policies", ""))
    if folders and not composed.names_task:
        raise UserError(f"policies={own['policies']}: which prompts? add task=NAME")
    source = own.get("pairs", "reference")
    kind = "gold" if folders and composed.task.checker and source != "reward" else "reward"
    labels = composed.labels(kind, one_call=False) if folders else None  # what is wrong with it is told first
    model = RewardModel(words[0], device=composed.settings.model.device)
    share = composed.settings.reward_model.holdout
    if reason := _may_have_seen(model.card, share):
        print(f"{words[0]}: {reason}", file=sys.stderr, flush=True)
    train, held_out = split(_pairs(source, composed), share)
    print(
        f"{counted(len(held_out), 'held-out pair')}\n\n{_table(judge(model.outputs, train, held_out)).markdown()}",
        flush=True,
    )
    if model.card is None and composed.names_task:
        mean, std, on = _standard(composed, model, train)
        print(f"outputs of {on}: reward.mean={mean:.4g} reward.std={std:.4g}\n")
    if labels:
        print(_moving(composed, model, folders, labels, kind).markdown())


def _may_have_seen(card: "Card | None", share: float) -> str | None:
    """Why a reward model may have been trained on some of the pairs that are held out by `share`; None if it was not."""
    from pgsrm.reward_model.pairs import SPLIT

    if card is None:
        return None
    if card.split != SPLIT:
        return (
            "was trained by an earlier version, which kept other pairs out: it may have seen held-out pairs of today; "
            "train it again to judge it"
        )
    kept_out = None if card.settings is None else card.settings.holdout
    if kept_out is not None and kept_out < share:
        return (
            f"was trained with reward_model.holdout={kept_out:g}, and {share:g} is held out now: it may have seen some of these "
            f"pairs; set reward_model.holdout={kept_out:g}"
        )
    return None


def _policies(names: str) -> dict[str, Path]:
    """The model folders of run folders or model folders, by name."""
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import local_path

    folders = {}
    for name in filter(None, names.split(",")):
        path = local_path(name, "policies")
        folder = path / "model" if (path / "model" / "config.json").is_file() else path
        if not (folder / "config.json").is_file():
            raise UserError(f"policies={name}: neither a finished run's folder nor a model's; name one")
        of_run = {"model": folder.parent.name, "best": f"{folder.parent.name}/best"}
        known = of_run.get(folder.name, folder.name)
        if known in folders:
            raise UserError(f"policies={names}: two are named {known}; rename a folder")
        folders[known] = folder
    return folders


def _moving(
    composed: Composed, model: "RewardModel", folders: Mapping[str, Path], labels: "Labels", kind: str
) -> "Table":
    """How well the model orders samples of policies on the task's training prompts, as the checker or another reward does."""
    import msgspec
    import numpy as np

    from pgsrm.analysis.tables import Table
    from pgsrm.reward_model.judge import differences
    from pgsrm.reward_model.measures import right, share
    from pgsrm.reward_model.pairs import ordered

    settings, examples = composed.settings, composed.task.train
    own = model.card
    rows = []
    for name, folder in {"reference policy": None, **folders}.items():
        policy = settings.model if folder is None else msgspec.structs.replace(settings.model, path=str(folder))
        samples = composed.draw(policy, examples, min(settings.reward_model.samples, MOVING))
        how = settings.reward_model
        pairs = ordered(examples, samples, labels, how.pairs, random.Random(settings.seed))
        each = [(example, text) for example, texts in zip(examples, samples, strict=True) for text in texts]
        outputs = model.outputs([example.prompt for example, _ in each], [text for _, text in each])
        reward = float(np.mean(outputs)) if own is None else float((np.mean(outputs) - own.mean) / own.std)
        label = float(np.mean(labels([example for example, _ in each], [text for _, text in each])))
        values = right(differences(model.outputs, pairs)) if pairs else None
        accuracy = "-" if values is None else _interval(share(values, [pair.group for pair in pairs]))
        rows.append([name, str(len(pairs)), accuracy, f"{reward:.2f}", f"{label:.3f}"])
    who, worth = ("checker", "right answers") if kind == "gold" else ("reward", "mean reward")
    head = ["samples of", f"pairs that the {who} orders", "accuracy", "mean learned reward", worth]
    return Table("policies", "A reward model on samples of policies", head, rows)


def _table(judged: Mapping[str, Mapping[str, Any]]) -> "Table":
    """A row for each that orders the pairs: accuracies with intervals, and the calibration error."""
    from pgsrm.analysis.tables import NONE, Table

    columns = list(next(iter(judged.values())))
    rows = [
        [name, *(NONE if (value := row.get(column)) is None else _interval(value) for column in columns)]
        for name, row in judged.items()
    ]
    return Table("reward_model", "Accuracy on held-out pairs", ["", *columns], rows)


def _interval(value: Any) -> str:
    """A share with its bounds; a plain number as it is."""
    return f"{value:.3f}" if isinstance(value, float) else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _composed(words: Sequence[str], command: str) -> Composed:
    """The checked config of a command's words. Raises UserError for what a reward model can't be trained with."""
    from pgsrm.config.compose import compose_words
    from pgsrm.config.plan import resolve
    from pgsrm.config.schema import read_settings
    from pgsrm.models.settings import check_model
    from pgsrm.util.errors import UserError

    config, choices = compose_words(words, f"python -m pgsrm.reward_model {command}")
    settings = read_settings(config)
    model = settings.model
    refused = {
        f"processes={settings.processes}": settings.processes > 1,
        "model.shard=true": model.shard,
        "model.lora": model.lora is not None,
        f"model.dtype={model.dtype}": model.dtype != "float32",
    }
    for given in (key for key, wrong in refused.items() if wrong):
        raise UserError(f"{given}: a reward model is trained in one process, whole and in float32; leave it out")
    check_model(model)
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    return Composed(
        settings, resolve(config, choices), any(word.startswith(("task=", "task.", "experiment=")) for word in words)
    )


def _pairs(source: str, composed: Composed) -> "list[Preference]":
    """The pairs that `pairs=` means: made of samples, read from a file, or made of people's ratings."""
    from pgsrm.reward_model.pairs import ordered, over_samples, read_pairs
    from pgsrm.reward_model.ratings import TEXTS, pairs_of, read_ratings
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import local_path

    if source not in SAMPLED:
        path = local_path(source, "pairs")
        if not path.exists():
            raise UserError(
                f"pairs={source}: no such file or folder; there are {', '.join(SAMPLED)}, files and folders"
            )
        if path.is_file() and not path.name.endswith(TEXTS):
            return read_pairs(path, "pairs")
        files, left_out = read_ratings(path, "pairs")
        print(
            f"{counted(sum(map(len, files)), 'rated text')}; {left_out} left out, whose ratings have another mean",
            flush=True,
        )
        return pairs_of(files, composed.settings.seed)
    settings, task = composed.settings, composed.task
    if source == "reference" and not all(example.reference for example in task.train):
        raise UserError("pairs=reference: some prompts of the task have no reference; take pairs=reward or a file")
    labels = None if source == "reference" else composed.labels(source)
    how = settings.reward_model
    samples, some = composed.draw(settings.model, task.train, how.samples), random.Random(settings.seed)
    if labels is None:
        pairs = over_samples(task.train, samples, how.pairs, some)
    else:
        pairs = ordered(task.train, samples, labels, how.pairs, some)
    if not pairs:
        problem = f"no two of {how.samples} samples to a prompt are worth more and less"
        raise UserError(f"pairs={source}: {problem}; draw more by reward_model.samples={8 * how.samples}")
    return pairs


COMMANDS = {"pairs": pairs_command, "train": train_command, "judge": judge_command}


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import HELP
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.errors import UserError

    words = sys.argv[1:]
    with ending_with_line("pgsrm.reward_model", "interrupted; nothing was saved"):
        if not words or any(word in HELP for word in words):
            print(USAGE)
        elif words[0] not in COMMANDS:
            raise UserError(f"{words[0]}: no such command; there are {', '.join(COMMANDS)}")
        else:
            COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
