"""`python -m pgsrm.push RUN (--to FOLDER | --hub ORG/NAME [--private]) [--best]`: a run's model with a model card, for others.

The card says what was trained, by which command, on what, and what came out, from the run's folder alone.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.record.model_name import algorithm_choice
from pgsrm.record.run_folder import RunFolder
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from pgsrm.analysis.runs import Run

# Metric of an evaluation -> what the card calls it.
_MEASURES = {
    "eval/train_exact_match": "right greedy answers, trained prompts",
    "eval/holdout_exact_match": "right greedy answers, held-out prompts",
    "eval/train_reward": "reward of greedy answers, trained prompts",
    "eval/holdout_reward": "reward of greedy answers, held-out prompts",
    "eval/holdout_extrinsic": "task's own reward of sampled answers, held-out prompts",
    "eval/holdout_gold": "gold measure of sampled answers, held-out prompts",
    "eval/perplexity": "perplexity of plain text",
}
# Choice of the group `model` -> the model's name on the hub and its licence.
_BASES = {
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "gpt2_small": ("openai-community/gpt2", "mit"),
    "gpt2_large": ("openai-community/gpt2-large", "mit"),
    "nano": (None, "apache-2.0"),
    "nano_both": (None, "apache-2.0"),
    "nano_1x64": (None, "apache-2.0"),
    "nano_2x96": (None, "apache-2.0"),
}


def read_finished(folder: Path, best: bool = False) -> "Run":
    """The run of a folder; raises UserError where there is none, or one without a final model, or the `best` one."""
    from pgsrm.analysis.runs import read_run

    RunFolder(folder).check_is_run()
    run, notes = read_run(folder, [*_MEASURES, "reward/mean", "policy/kl", "policy/entropy"])
    if run is None:
        raise UserError("; ".join(notes))
    RunFolder(folder).saved_model(best)
    return run


def model_card(run: "Run", name: str, best: bool = False) -> str:
    """The text of README.md of a model's repository. name: the repository's; best: of the run's best model."""
    from pgsrm.analysis.commands import run_command

    base, licence = _base(run)
    header = {"library_name": "transformers", "pipeline_tag": "text-generation", "license": licence, "base_model": base}
    lines = ["---", *(f"{key}: {value}" for key, value in header.items() if value)]
    lines += ["tags:", *(f"- {tag}" for tag in ("pgsrm", *_algorithm(run))), "---", ""]
    choices = run.choices
    until = int(run.status["best_update"]) if best else run.last_update
    model = base or f"`{choices.get('model')}`, the model that comes with pgsrm"
    lines += [
        f"# {name.rpartition('/')[2]}",
        "",
        f"{model}, trained on the task `{choices['task']}` under the reward `{choices['reward']}` "
        f"with `{'='.join(algorithm_choice(choices))}`, "
        f"seed {run.seed}: {counted(f'{until:,}', 'update')}, "
        f"{run.series('episodes')[1][run.metrics['update'] <= until][-1]:,.0f} sampled responses.",
        *(["", f"The run {run.status['reason']}."] if run.stopped_early else []),
        *(
            ["", f"Of its models this is that of the best evaluation by `{run.config['stop']['metric']}`."]
            if best
            else []
        ),
        "",
        f"The prompts of training look like this one: `{json.dumps(run.config['task']['template'], ensure_ascii=False)}`",
        "",
        "## What came out",
        "",
        _table(run, until),
        *_adapters(run, base, name),
        "## How it was made",
        "",
        "```sh",
        run_command(run),
        "```",
        "",
        *_own_choices(run),
        *_made_with(run.status),
        "One run with one seed: another seed gives other numbers. A model that was trained on a few hundred prompts answers these,",
        "and has forgotten a part of the rest.",
        "",
    ]
    return "\n".join(lines)


def _own_choices(run: "Run") -> list[str]:
    """What a reader of the card lacks for the command."""
    from pgsrm.analysis.commands import missing, own_choices, without_tracking

    run = without_tracking(run)  # as the command is
    own = own_choices(run)
    if not own:
        return []
    named = " and ".join(f"`{choice}`" for choice in own)
    files = (
        "is no choice of pgsrm's but one of its author's own" if len(own) == 1 else "are choices of its author's own"
    )
    return [f"{named} {files}.", *filter(None, [missing(run)]), ""]


def _adapters(run: "Run", base: str | None, name: str) -> list[str]:
    adapter = RunFolder(run.folder).adapter
    if not adapter.is_dir():
        return []
    return [
        "## Adapters",
        "",
        "The weights here have the LoRA adapters merged into them. The adapters alone are in the folder "
        f"`{adapter.name}`:",
        "",
        "```python",
        f'model = AutoModelForCausalLM.from_pretrained("{base or "BASE"}")',
        f'model = PeftModel.from_pretrained(model, "{name}", subfolder="{adapter.name}")',
        "```",
        "",
    ]


def _algorithm(run: "Run") -> list[str]:
    """Tags of how the model was trained."""
    group, choice = algorithm_choice(run.choices)
    if group == "algorithm":
        return [str(run.config["algorithm"]["name"])]
    return ["reinforcement-learning", choice if choice in ("grpo", "rloo") else "ppo"]


def _base(run: "Run") -> tuple[str | None, str | None]:
    """The hub's name of the model that was trained, and its licence, where they are known."""
    choice = run.choices.get("model", "")
    path = run.config["model"].get("path")
    if choice == "hf" or choice not in _BASES:
        is_hub_name = isinstance(path, str) and path.count("/") == 1 and not path.startswith((".", "/", "~"))
        return (path if is_hub_name and not Path(path).exists() else None), None
    return _BASES[choice]


def _table(run: "Run", until: int) -> str:
    """The evaluations before training and after `until` updates, and what was measured between them."""
    from pgsrm.analysis.tables import Table

    rows = []
    for metric, title in _MEASURES.items():
        updates, values = run.series(metric)
        values = values[updates <= until]
        if len(values):
            rows.append([title, f"{values[0]:.3f}", f"{values[-1]:.3f}"])
    for metric, title in {
        "reward/mean": "reward of sampled answers",
        "policy/kl": "KL from the initial model, nats per token",
    }.items():
        updates, values = run.series(metric)
        values = values[updates <= until]
        if not len(values):  # the best was the model before training
            continue
        tenth = max(1, len(values) // 10)
        rows.append([f"{title}, first and last tenth", f"{values[:tenth].mean():.3f}", f"{values[-tenth:].mean():.3f}"])
    return Table("card", "", ["", "before", "after"], rows).markdown()


def _made_with(status: Mapping[str, Any]) -> Iterator[str]:
    versions = status.get("versions") or {}
    named = [
        f"{package} {versions[package]}" for package in ("pgsrm", "torch", "transformers") if versions.get(package)
    ]
    if named:
        yield f"With {', '.join(named)}; {status.get('seconds', 0):.0f} s on {status.get('device')}."
        yield ""


def push(
    folder: Path, to: Path | None = None, hub: str | None = None, private: bool = False, best: bool = False
) -> str:
    """Copy a run's model with its card to a folder, or upload it; returns where it is.

    best: the model of the best evaluation (`stop.keep_best`), not the last one.

    Raises:
        UserError: no finished run, a folder that is there already, a hub that does not take it.
    """
    run = read_finished(folder, best)
    if to is not None:
        if to.exists():
            raise UserError(f"--to={to}: is there already; name a new folder")
        _write(run, to, to.name, best)
        return str(to)
    assert hub is not None
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "model"
        _write(run, whole, hub, best)
        return _upload(whole, hub, private)


def _write(run: "Run", to: Path, name: str, best: bool) -> None:
    """The model's files and the card, readable for all as the process's umask lets them: safetensors writes for its owner alone."""
    card, folder = model_card(run, name, best), RunFolder(run.folder)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder.best if best else folder.model, to, copy_function=shutil.copyfile)
        (to / "README.md").write_text(card, encoding="utf-8")
        adapter = folder.adapter
        if adapter.is_dir():
            if not best:  # which has its own within
                shutil.copytree(adapter, to / adapter.name, copy_function=shutil.copyfile)
            file = to / adapter.name / "adapter_config.json"
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = _base(run)[0]  # a place on this machine is of no use to others
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{to}: can't be written ({error.strerror}); name a folder of yours") from error


def _upload(folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:  # one that was there stays as it was
            raise UserError(f"--private: {repository} is there already and is public; name a new repository")
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model and card of a run of pgsrm")
    except HFValidationError as error:
        raise UserError(f"--hub={repository}: not a name of the hub's; write ORG/NAME") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--hub={repository}: was not taken ({reason}); `hf auth login`, or set HF_TOKEN, and try again"
        ) from error
    return str(url)


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(
        prog="python -m pgsrm.push", description="A finished run's model with a model card, for others."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, one of outputs/runs")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--to", metavar="FOLDER", help="a new folder")
    place.add_argument(
        "--hub", metavar="ORG/NAME", help="a repository of the Hugging Face hub; the key is HF_TOKEN or `hf auth login`"
    )
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument(
        "--best", action="store_true", help="the model of the best evaluation (stop.keep_best), not the last one"
    )
    options = parser.parse_args()
    with ending_with_line("pgsrm", "interrupted"):
        to = None if options.to is None else local_path(options.to, "--to")
        print(push(options.run, to, options.hub, options.private, options.best))


if __name__ == "__main__":
    main()
