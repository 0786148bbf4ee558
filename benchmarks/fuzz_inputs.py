"""Damaged inputs and random configs: `python -m benchmarks.fuzz_inputs [--seed 0] [--files 200] [--configs 500]`.

Files are valid data, word vectors and YAML, damaged at random: bytes flipped, cut, lines swapped, fields doubled, encodings
changed. Configs are random choices of groups and random values, right and wrong, for known keys; each is composed and
planned, none is trained. For every one of them it must hold that

- it is accepted, or refused in one line that can be printed (no traceback);
- it takes less than `SECONDS` (no hang);
- what is accepted makes sense: prompts and references that can be written, rewards in [0, 1], and a reward of 0 for an empty
  response, one of no word, and one that is longer than every word;
- a vectors file of garbage alone gives no reward at all.

Prints what was tried and what came of it, and every case that broke a rule; exit code 1 if there was one.
"""

import argparse
import csv
import io
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from pgsrm.config.messages import one_line
from pgsrm.embedder import WordVectors
from pgsrm.record.config_file import config_text
from pgsrm.reward import SemanticReward
from pgsrm.task import load_task
from pgsrm.task.table import SHIPPED
from pgsrm.util.paths import conf_folder

SECONDS = 60
NO_ANSWERS = ["", " ", "\u200b", "x" * 500, "4711", "\ud83d", "_"]
WORDS = ["hot", "cold", "warm", "red", "blue", "green", "dog", "cat", "bird", "up", "down", "left", "right", "good"]
SPECIAL = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud83d",
    b"\r",
    b'"',
    b"'",
    b"{",
    b"}",
    b"\t",
    b"::",
    b"${",
    b"&a *a",
    b"\xe2\x80\x8b",
]

ODD_WORDS = [
    "ppo.lr=1",
    "=",
    "a=b=c",
    "task",
    "task=",
    "+new=1",
    "~task",
    "seed=[",
    "reward.alpha=${no}",
    "'",
    "seed=1,2",
]

Mutation = Callable[[bytes, random.Random], bytes]


class BrokenRuleError(Exception):
    """What must hold of an accepted input did not."""


# Damage


def flip_bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 20) if content else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def swap_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def double_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def drop_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.pop(rng.randrange(len(lines)))
    return b"\n".join(lines)


def double_field(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    separator = rng.choice([b",", b" ", b": "])
    fields = lines[place].split(separator)
    lines[place] = separator.join([*fields, rng.choice(fields)])
    return b"\n".join(lines)


def other_separator(content: bytes, rng: random.Random) -> bytes:
    return content.replace(rng.choice([b",", b" ", b".", b": "]), rng.choice([b"\t", b";", b",", b"  ", b""]))


def other_encoding(content: bytes, rng: random.Random) -> bytes:
    text = content.decode(errors="replace").replace("o", "ö")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32"]), errors="replace")


def insert_special(content: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.choice(SPECIAL) * rng.randint(1, 3) + content[place:]


def huge_field(content: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + b"x" * 200_000 + content[place:]


def odd_numbers(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"0", rng.choice([b"nan", b"1e400", b"inf", b"-", b"0,5", b"9" * 50]), rng.randint(1, 5))


def tag_words(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b" ", b"_ADJ ") if rng.random() < 0.5 else content.replace(b"\n", b"_1\n")


def nothing(content: bytes, rng: random.Random) -> bytes:
    return b""


MUTATIONS: list[Mutation] = [
    flip_bytes, cut, swap_lines, double_line, drop_line, double_field, other_separator, other_encoding,
    insert_special, huge_field, odd_numbers, tag_words, nothing,
]  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The names of one to three kinds of damage, and what they make of a file."""
    kinds = rng.choices(MUTATIONS, k=rng.choice([1, 1, 1, 2, 3]))
    for kind in kinds:
        content = kind(content, rng)
    return " ".join(kind.__name__ for kind in kinds), content


# Valid files, and what is done with a damaged one


def valid_data(rng: random.Random) -> tuple[str, bytes]:
    rows = [{"word": a, "reference": b} for a, b in zip(WORDS[::2], WORDS[1::2], strict=False)]
    if rng.random() < 0.5:
        name = rng.choice(["antonym.jsonl", "color.jsonl"])
        lines = (SHIPPED / name).read_bytes() if rng.random() < 0.5 else b""
        return "data.jsonl", lines or "\n".join(map(json.dumps, rows)).encode()
    text = io.StringIO()
    table = csv.DictWriter(text, ["word", "reference"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return "data.csv", text.getvalue().encode()


def try_data(path: Path) -> None:
    task = load_task(
        {"data": str(path), "template": "The opposite of '{word}' is ", "max_new_tokens": 2, "holdout": 0.2}
    )
    for example in task.train + task.holdout:
        if not example.reference.strip():
            raise BrokenRuleError(f"an empty reference: {example}")
        (example.prompt + example.reference + json.dumps(example.inputs, ensure_ascii=False)).encode()


def valid_vectors(rng: random.Random) -> tuple[str, bytes]:
    rows = [(word, [round(rng.gauss(0, 1), 4) for _ in range(4)]) for word in WORDS]
    form = rng.choice(["plain.txt", "headed.txt", "vectors.bin", "vectors.kv"])
    if form == "vectors.kv":
        import numpy as np
        from gensim.models import KeyedVectors

        keyed = KeyedVectors(4)
        keyed.add_vectors(WORDS, np.array([row for _, row in rows], dtype=np.float32))
        saved = io.BytesIO()
        keyed.save(saved)
        return form, saved.getvalue()
    header = b"" if form == "plain.txt" else f"{len(rows)} 4\n".encode()
    if form == "vectors.bin":
        import numpy as np

        return form, header + b"".join(w.encode() + b" " + np.array(row, dtype="<f4").tobytes() for w, row in rows)
    return form, header + "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows).encode()


def garbage_vectors(rng: random.Random) -> tuple[str, bytes]:
    """A vectors file without one usable word, of every format."""
    form = rng.choice(["tagged", "numbers", "bytes", "words", "zeros", "pickle"])
    if form == "tagged":
        return "tagged.txt", "".join(
            f"{word}_{rng.choice(['N', 'ADJ', '1'])} 1 {rng.random()}\n" for word in WORDS
        ).encode()
    if form == "numbers":
        return "numbers.txt", "".join(f"{n} {rng.random()} 1 2\n" for n in range(20)).encode()
    if form == "bytes":
        return rng.choice(["b.txt", "b.bin", "b.kv"]), rng.randbytes(rng.randint(1, 5000))
    if form == "words":
        return "words.txt", "\n".join(" ".join(rng.choices(WORDS, k=5)) for _ in range(20)).encode()
    if form == "zeros":
        return "zeros.txt", "".join(f"{word} 0 0 0\n" for word in WORDS).encode()
    return "p.kv", b"\x80\x04" + rng.randbytes(rng.randint(1, 500))


def try_vectors(path: Path) -> None:
    reward = SemanticReward(WordVectors(str(path)))
    known = [word for word in WORDS if WordVectors(str(path)).embed([word]).any()]
    reference = known[0] if known else "cold"
    reward.check([reference])
    responses = [*NO_ANSWERS, *WORDS]
    rewards = list(reward(references=[reference] * len(responses), responses=responses)[0])  # type: ignore[arg-type]
    if any(rewards[: len(NO_ANSWERS)]):
        raise BrokenRuleError(f"a reward for no answer: {dict(zip(NO_ANSWERS, rewards, strict=False))}")
    if not all(-1e-6 <= value <= 1 + 1e-6 for value in rewards):
        raise BrokenRuleError(f"a reward out of [0, 1]: {rewards}")


def try_garbage(path: Path) -> None:
    try_vectors(path)
    raise BrokenRuleError("a reward of garbage alone")


def valid_yaml(rng: random.Random) -> tuple[str, bytes]:
    choices = [
        file
        for group in ("task", "reward", "embedder", "ppo", "model")
        for file in (conf_folder() / group).glob("*.yaml")
    ]
    quick = [file for file in choices if file.stem not in ("openai", "sentence_transformer")]
    file = rng.choice(sorted(quick))
    return f"{file.parent.name}/mutant.yaml", file.read_bytes()


def try_yaml(path: Path) -> None:
    group = path.parent.name
    plan_words([f"--config-dir={path.parent.parent}", f"{group}=mutant"])


def plan_words(words: list[str]) -> None:
    """Compose and plan a run, as `dry_run=true` does."""
    from hydra.core.global_hydra import GlobalHydra

    from pgsrm.config.compose import compose_words
    from pgsrm.config.plan import plan

    GlobalHydra.instance().clear()
    try:
        this = plan(*compose_words(words, "the fuzz"))
        json.dumps(this.config)
        config_text(this.config)
    finally:
        GlobalHydra.instance().clear()


# Random configs


def random_words(rng: random.Random, keys: dict[str, Any]) -> list[str]:
    """Some choices of groups and some values for keys, most of them possible, as words of the command line."""
    groups = {
        "task": ["color", "antonym", "category", "copy", "sentiment"],
        "reward": ["pgsrm", "binary"],
        "ppo": sorted(file.stem for file in (conf_folder() / "ppo").glob("*.yaml")),
        "model": ["nano", "nano", "nano", "gpt2_small"],
        "embedder": ["static", "numberbatch", "auto"],
        "parent": ["curated", "openai", "transformers"],
        "tracking": ["none", "mlflow"],
        "ablation": ["none", "kl_coef", "d3_eos"],
        "nonsense": ["a"],
    }
    chosen = [name for name in groups if rng.random() < (0.02 if name == "nonsense" else 0.3)]
    words = [
        f"{name}={rng.choice([*groups[name], 'no_such']) if rng.random() < 0.1 else rng.choice(groups[name])}"
        for name in chosen
    ]
    for key in rng.sample(sorted(keys), rng.randint(0, 3)):
        words.append(f"{key}={random_value(rng, keys[key])}")
    if rng.random() < 0.1:
        words.append(
            rng.choice(
                ["ppo.lr=1", "=", "a=b=c", "task", "task=", "+new=1", "~task", "seed=[", "reward.alpha=${no}", "'"]
            )
        )
    rng.shuffle(words)
    return words


def random_value(rng: random.Random, value: Any) -> str:
    """A value for a key: near its own in most cases, of any kind in the others."""
    if rng.random() < 0.6:
        if isinstance(value, bool):
            return rng.choice(["true", "false"])
        if isinstance(value, int):
            return str(rng.choice([value, value + 1, value * 2, 1]))
        if isinstance(value, float):
            return str(rng.choice([value, value / 2, value * 2, 0.5]))
        return (
            "null"
            if value is None
            else "'" + str(value).replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"
        )
    odd = ["-1", "0", "1e999", "nan", "null", "true", "''", "abc", "[1,2]", "{a: 1}", "1e-9", "99999999999999999999"]
    return rng.choice(
        [*odd, "'é\u0301'", "'\ud83d'", "'a b'", "'~/x'", "/no/such/file", "'${seed}'", "'a%b?c#d'", "???"]
    )


def known_keys() -> dict[str, Any]:
    """Key -> value of the default config, without those of places and of machines."""
    from pgsrm.config.compose import compose_words

    config, _ = compose_words([], "the fuzz")
    flat: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, f"{path}.{name}" if path else str(name))
        else:
            flat[path] = node

    walk(OmegaConf.to_container(config, resolve=False), "")
    return {key: value for key, value in flat.items() if not key.startswith(("paths.", "cluster."))}


# Trying


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise BrokenRuleError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(work: Callable[[], None]) -> tuple[str, str]:
    """accepted, refused or BROKEN, and the line or traceback that came with it."""
    try:
        with time_limit(SECONDS):
            work()
        return "accepted", ""
    except BrokenRuleError as error:
        return "BROKEN", str(error)
    except Exception as error:
        line = one_line(error)
        if line is None:
            return "BROKEN", traceback.format_exc()
        if "\n" in line.strip() or len(line) > 2000 or not line.strip():
            return "BROKEN", f"no single line: {line[:3000]!r}"
        return "refused", line


FILES: dict[str, tuple[Callable[[random.Random], tuple[str, bytes]], Callable[[Path], None], bool]] = {
    "data": (valid_data, try_data, True),
    "vectors": (valid_vectors, try_vectors, True),
    "garbage vectors": (garbage_vectors, try_garbage, False),
    "YAML": (valid_yaml, try_yaml, True),
}


def fuzz_files(seed: int, count: int, folder: Path, show: Callable[[str], None] = print) -> Counter[tuple[str, str]]:
    """Try `count` damaged files; returns how often each kind had each outcome."""
    outcomes: Counter[tuple[str, str]] = Counter()
    kinds = list(FILES)
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind = kinds[number % len(kinds)]
        make, attempt, damage = FILES[kind]
        name, content = make(rng)
        how = name
        if damage:
            how, content = damaged(content, rng)
        path = folder / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        result, line = outcome(lambda attempt=attempt, path=path: attempt(path))  # type: ignore[misc]
        outcomes[kind, result] += 1
        if result == "BROKEN":
            show(f"BROKEN file {number} ({kind}, {name}, {how}): {line}")
        elif os.environ.get("FUZZ_LINES"):
            show(f"{kind} {name} {how}: {result} {line[:300]}")
    return outcomes


def fuzz_configs(seed: int, count: int, show: Callable[[str], None] = print) -> Counter[tuple[str, str]]:
    """Compose and plan `count` random configs; returns how often each outcome was."""
    outcomes: Counter[tuple[str, str]] = Counter()
    keys = known_keys()
    for number in range(count):
        words = random_words(random.Random(f"{seed} config {number}"), keys)
        sys.argv[1:] = words
        result, line = outcome(lambda words=words: plan_words(words))  # type: ignore[misc]
        outcomes["configs", result] += 1
        if result == "BROKEN":
            show(f"BROKEN config {number} ({words!a}): {line}")
        elif os.environ.get("FUZZ_LINES"):
            show(f"config {words!a}: {result} {ascii(line)[:300]}")
    return outcomes


def table(outcomes: Counter[tuple[str, str]]) -> str:
    """A line a kind: how many were tried, accepted, refused, and broke a rule."""
    lines = [f"{'':18}{'tried':>8}{'accepted':>10}{'refused':>10}{'broken':>8}"]
    for kind in dict.fromkeys(kind for kind, _ in outcomes):
        counts = [outcomes[kind, result] for result in ("accepted", "refused", "BROKEN")]
        lines.append(f"{kind:18}{sum(counts):8}{counts[0]:10}{counts[1]:10}{counts[2]:8}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--configs", type=int, default=500)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HYDRA_FULL_ERROR": "1"}
    os.environ.pop("OPENAI_API_KEY", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.chdir(folder)
        outcomes = fuzz_files(args.seed, args.files, Path(folder) / "files")
        print(f"seed {args.seed}: {args.files} damaged files", flush=True)
        if args.configs:
            outcomes += fuzz_configs(args.seed, args.configs)
            print(f"seed {args.seed}: {args.configs} random configs", flush=True)
        print(table(outcomes))
    sys.exit(any(result == "BROKEN" for _, result in outcomes))


if __name__ == "__main__":
    main()
