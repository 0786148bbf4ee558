"""What a local parent costs: `python -m benchmarks.parent --model FOLDER|FILE.gguf [--task antonym] [--prompts 32]`.

The same prompts are answered twice in one run, in CPU time of one thread, which other work on the machine does not lengthen:
one at a time by transformers' `generate`, each reading its instruction again, until a stop string comes; and by
`parent=transformers`, which reads the instruction once and answers `parent.batch_size` prompts together. Loading is left out.

A GGUF file (needs the package gguf) is turned into a folder of float32 weights beside it first.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STOPS = ['"}', '" }', '"\n']


def unpacked(path: Path) -> Path:
    """A folder with the weights and tokenizer of a GGUF file; any other path as it is."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if path.suffix != ".gguf":
        return path
    folder = path.with_suffix("")
    if not (folder / "config.json").is_file():
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        packed: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        packed.config.__dict__.pop("quantization_config", None)
        model = type(packed)(packed.config)  # one that isn't known as quantised: only such can be saved
        model.load_state_dict(packed.state_dict())
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return folder


def one_at_a_time(parent: Any, loaded: tuple[Any, Any, set[int]], asked: list[str]) -> list[str | None]:
    """The answers by `generate`, the whole prompt each time."""
    from pgsrm.parent.clean import BadAnswer
    from pgsrm.parent.local import _Reading

    model, tokenizer, ends = loaded
    answers: list[str | None] = []
    for question, prompt in zip(asked, parent._prompts(tokenizer, asked), strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=parent._settings.max_tokens,
                stop_strings=STOPS,
                tokenizer=tokenizer,
                pad_token_id=0,
            )
        try:
            answers.append(
                parent._questions.read(question, _Reading(tokenizer, ends).value(made[0, len(prompt) :].tolist()))
            )
        except BadAnswer:
            answers.append(None)
    return answers


def measured(work: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """What the work gives, and its CPU seconds."""
    before = time.process_time()
    return work(), time.process_time() - before


def main() -> None:
    from omegaconf import OmegaConf

    from pgsrm.parent.local import LocalParent
    from pgsrm.parent.question import Questions
    from pgsrm.parent.settings import ParentSettings
    from pgsrm.util.paths import conf_folder

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--task", default="antonym")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / f"{args.task}.yaml"))
    questions = Questions(task)
    model = str(unpacked(args.model))
    settings = ParentSettings(kind="transformers", model=model, device="cpu", batch_size=args.batch_size, max_tokens=64)
    parent = LocalParent(settings, questions)
    loaded = parent._load()
    parent._load = lambda: loaded  # type: ignore[method-assign]
    asked = questions.asked[: args.prompts]
    together, quick = measured(lambda: [answer.reference for answer in parent.answers(asked)])
    alone, slow = measured(lambda: one_at_a_time(parent, loaded, asked))
    same = sum(first == second for first, second in zip(together, alone, strict=True))
    print(f"{args.task}, {len(asked)} prompts, CPU seconds per prompt:")
    print(f"  one at a time, generate          {slow / len(asked):8.3f}")
    print(f"  parent=transformers, {args.batch_size:3} together {quick / len(asked):8.3f}")
    print(f"  ratio {slow / quick:.1f}; {same} of {len(asked)} answers are the same")


if __name__ == "__main__":
    main()
