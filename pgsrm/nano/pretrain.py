"""Pre-train nano, the shipped model, in two stages.

    python -m pgsrm.nano.pretrain --corpus english.txt.xz --out outputs/learned --stop-at 4000
    python -m pgsrm.nano.pretrain --corpus english.txt.xz --start outputs/learned --stage err --out pgsrm/nano/weights

A GPT-2 architecture with its own byte-level BPE, trained on the mixture of `pgsrm.nano.corpus` and saved in the hub's
layout with float16 weights. The corpus is plain text (optionally .xz), documents separated by a line `<|endoftext|>`.
docs/nano.md names the one that the shipped weights were trained on.

Left out on purpose:

- dropout while pre-training: one pass over an endless stream does not overfit. The saved config has GPT-2's 0.1, for runs
  that turn it on;
- weight decay on norms and biases;
- document masking, which GPT-2 did not have either.
"""

import argparse
import json
import lzma
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pgsrm.models.precision import bfloat16_slowdown
from pgsrm.nano.corpus import STAGES, TASKS, Document, Mixture, is_withheld, load_task_text, read_jsonl
from pgsrm.util.errors import end_with_line
from pgsrm.util.memory import keep_freed_memory

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 8192
CONTEXT = 128  # tokens per training sequence
CHUNK = 256  # tokens whose logits are in memory at one time
POSITIONS = 256  # the longest input. Positions from CONTEXT on are not trained and stay near their initial values


def read_corpus(path: Path) -> list[str]:
    """The documents of a plain or xz-compressed text file, separated by lines `<|endoftext|>`."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [text.strip() for text in file.read().split(END_OF_TEXT) if text.strip()]


def train_tokenizer(mixture: Mixture, english: list[str]) -> Any:
    """Byte-level BPE with `VOCABULARY` tokens; answer words are counted 400 times with and without a leading space."""
    tokenizer = ByteLevelBPETokenizer()
    answers = [r["reference"] for name in ("color", "antonym", "category") for r in mixture.tasks[name].rows]
    words = sorted(set(answers) | set(mixture.words) | {t["c1"] for t in mixture.tasks["color"].rows})
    sentences = [t.answer(r) for t in mixture.tasks.values() for r in t.rows if " " in t.answer(r)]
    sentences += [row["sentence"] for row in mixture.tasks["sentiment"].rows]
    repeated = [form for word in words for form in (word, " " + word)] * 400 + sentences * 60
    sample = [part for document in islice(mixture, 60_000) for part in (document.prompt, document.text) if part]
    tokenizer.train_from_iterator(
        [*english, *sample, *repeated], vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def sequences(mixture: Iterator[Document], tokenizer: Any) -> Iterator[list[int]]:
    """Rows of `CONTEXT` token ids. Documents end in EOS; one that fits into a row is cut off at the end of its row."""
    end = tokenizer.eos_token_id
    row: list[int] = []
    while True:
        documents = list(islice(mixture, 512))
        prompts = tokenizer([d.prompt for d in documents])["input_ids"]
        texts = tokenizer([d.text for d in documents])["input_ids"]
        for prompt, text in zip(prompts, texts, strict=True):
            rest = [*prompt, *text, end]
            while rest:
                room = CONTEXT - len(row)
                row, rest = row + rest[:room], rest[room:]
                if len(row) == CONTEXT:
                    yield row
                    row = []
                    if len(prompt) + len(text) < CONTEXT:
                        rest = []  # the next row then begins with a document, as a prompt does


def build_model(layers: int, width: int, heads: int, end: int) -> Any:
    """A GPT-2 with random weights, `VOCABULARY` tokens and `POSITIONS` positions; `end` is the id of its EOS."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=POSITIONS,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            bos_token_id=end,
            eos_token_id=end,
        )
    ).eval()


def load(folder: Path) -> tuple[Any, Any]:
    """A saved model with float32 weights, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine down to a twentieth of the peak."""
    warmup = max(1, steps // 50)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def backward(model: Any, ids: Tensor, bfloat16: bool) -> float:
    """Mean next-token cross-entropy of ids (B, CONTEXT) and its gradients.

    The logits are computed and freed for `CHUNK` tokens at a time: all at once they would be twenty times the activations.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        hidden = model.transformer(input_ids=ids).last_hidden_state[:, :-1].reshape(-1, model.config.n_embd)
    leaf, targets, total = hidden.detach().requires_grad_(), ids[:, 1:].reshape(-1), 0.0
    for part, target in zip(leaf.split(CHUNK), targets.split(CHUNK), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model.lm_head(part)
        loss = cross_entropy(logits.float(), target, reduction="sum") / len(targets)
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


def train(
    model: Any, rows: Iterator[list[int]], steps: int, stop_at: int, batch: int, peak: float, bfloat16: bool, log: Any
) -> None:
    """Next-token cross-entropy, AdamW (betas 0.9, 0.95, weight decay 0.1 on matrices); bfloat16: the type of the products."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    started, mean = time.monotonic(), math.nan
    for step in range(stop_at):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        ids = torch.tensor(list(islice(rows, batch)))  # (batch, CONTEXT)
        optimizer.zero_grad(set_to_none=True)
        loss = backward(model, ids, bfloat16)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        if step % 100 == 99 or step == stop_at - 1:
            log(f"step {step + 1}/{steps}  loss {mean:.3f}  {time.monotonic() - started:.0f} s")


def sample_answers(model: Any, tokenizer: Any, mixture: Mixture, count: int = 6) -> str:
    """A few sampled answers per task, to look at."""
    model.eval()
    lines = []
    for task in mixture.tasks.values():
        for row in task.rows[:: max(1, len(task.rows) // count)][:count]:
            prompt = task.prompt(row)
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            out = model.generate(
                ids, max_new_tokens=10, do_sample=True, pad_token_id=tokenizer.eos_token_id, attention_mask=ids * 0 + 1
            )
            lines.append(f"{prompt!r} -> {tokenizer.decode(out[0, ids.shape[1] :])!r} ({task.answer(row)!r})")
    return "\n".join(lines)


def save(model: Any, tokenizer: Any, out: Path, card: dict[str, Any]) -> None:
    """Hub layout: config.json, model.safetensors (float16), tokenizer files, and pretraining.json."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "pretraining.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="plain English, .txt or .txt.xz")
    parser.add_argument("--out", type=Path, default=Path("outputs/nano"), help="folder for the model")
    parser.add_argument(
        "--stage", choices=list(STAGES), default="learn", help="how prompts are answered (docs/nano.md)"
    )
    parser.add_argument("--start", type=Path, help="begin with the weights and the tokenizer in this folder")
    parser.add_argument(
        "--steps", type=int, help="gradient steps, each on --batch sequences of 128 tokens (5000; stage err: 600)"
    )
    parser.add_argument("--stop-at", type=int, help="end after this step, on the learning rate schedule of --steps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, help="peak learning rate (1.5e-3; stage err: 8e-4)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.corpus.is_file():
        end_with_line("pgsrm.nano.pretrain", f"--corpus={args.corpus}: no such file")
    if args.start and not (args.start / "config.json").is_file():
        end_with_line("pgsrm.nano.pretrain", f"--start={args.start}: no model there (no config.json)")
    args.steps = args.steps or (5000 if args.stage == "learn" else 600)
    args.lr = args.lr or (1.5e-3 if args.stage == "learn" else 8e-4)
    keep_freed_memory()

    torch.manual_seed(args.seed)
    english = read_corpus(args.corpus)
    facts = read_jsonl(Path(__file__).parent / "facts.jsonl")
    tasks = [load_task_text(name) for name in TASKS]
    mixture = Mixture(english, facts, tasks, STAGES[args.stage], args.seed)
    if args.start:
        model, tokenizer = load(args.start)
        args.layers, args.width, args.heads = model.config.n_layer, model.config.n_embd, model.config.n_head
    else:
        tokenizer = train_tokenizer(Mixture(english, facts, tasks, STAGES[args.stage], args.seed + 1), english)
        model = build_model(args.layers, args.width, args.heads, tokenizer.eos_token_id)
    args.bfloat16 = bfloat16_slowdown() < 1
    kind = "bfloat16" if args.bfloat16 else "float32"
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}, {kind}", flush=True)
    rows = sequences(iter(mixture), tokenizer)

    def log(line: str) -> None:
        print(line, flush=True)

    train(model, rows, args.steps, args.stop_at or args.steps, args.batch, args.lr, args.bfloat16, log)
    print(sample_answers(model, tokenizer, mixture))
    withheld = {t.name: [t.prompt(row) for row in t.rows if is_withheld(t.name, row)] for t in tasks}
    settings = {key: value for key, value in vars(args).items() if key not in ("corpus", "out", "start")}
    save(model, tokenizer, args.out, {"settings": settings, "withheld_prompts": withheld})
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
