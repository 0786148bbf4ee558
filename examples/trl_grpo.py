"""TRL's GRPO trainer with a reward of this package, on the shipped model: two minutes on a CPU (`pip install trl`).

python examples/trl_grpo.py [--steps N] [--trl-defaults] [WORD ...]

The words are those of `python -m pgsrm.run`: task=, reward=, embedder= and their keys. At the end the same checker as in a
run of this package says how many greedy answers are right (docs/trl.md).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import pgsrm
import pgsrm.trl
from pgsrm.task import accepts

parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1])
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--trl-defaults", action="store_true", help="dropout and a falling learning rate, as TRL has them")
parser.add_argument("words", nargs="*", default=["task=antonym", "reward=pgsrm", "task.holdout=0.2"])
options = parser.parse_args()

weights = Path(pgsrm.__file__).parent / "nano" / "weights"
task = pgsrm.load_task(*options.words)
tokenizer: Any = AutoTokenizer.from_pretrained(weights)
tokenizer.pad_token = tokenizer.eos_token
model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)  # the file has float16


def right(prompts: list[Any]) -> float:
    """Share of greedy answers that the task's checker accepts."""
    answers = []
    for example in prompts:
        ids = tokenizer(example.prompt, return_tensors="pt").input_ids
        new = {"max_new_tokens": task.max_new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), **new)
        answers.append(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
    assert task.checker is not None  # a task whose answers are right or wrong
    return sum(accepts(task.checker, a, e) for e, a in zip(prompts, answers, strict=True)) / len(prompts)


if not options.trl_defaults:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
print(f"right before: {right(task.train):.3f} trained, {right(task.holdout):.3f} held out", flush=True)
with tempfile.TemporaryDirectory() as outputs:
    config = GRPOConfig(
        output_dir=outputs,
        per_device_train_batch_size=48,
        num_generations=8,
        max_completion_length=task.max_new_tokens,
        max_steps=options.steps,
        learning_rate=1e-5,
        lr_scheduler_type="linear" if options.trl_defaults else "constant",
        beta=0.04,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        logging_steps=20,
        save_strategy="no",
        seed=0,
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=pgsrm.trl.reward_function(*options.words),
        args=config,
        train_dataset=Dataset.from_list(pgsrm.trl.dataset_rows(*options.words)),
    )
    started = time.monotonic()
    trainer.train()
model.eval()
print(f"right after {options.steps} steps: {right(task.train):.3f} trained, {right(task.holdout):.3f} held out")
print(f"{(time.monotonic() - started) / options.steps:.2f} s per step")
