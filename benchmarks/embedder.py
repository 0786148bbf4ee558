"""What embedders cost: `python -m benchmarks.embedder [--updates 100] [--task copy] [--embedders static,numberbatch,...]`.

Two tables of one run:

Loading. A file of word vectors in Numberbatch's format and of English Numberbatch's size, with random numbers, is read for the
first time (and converted) and then again, by one process and by four at once. Memory is a process's own share of it (PSS: what
several processes map counts in parts) beyond what it had before, when all have embedded a batch; and its highest (RSS), most of
which is the system's cache of the file, that it can take back.

Updates. The first updates of a run of nano, as a run makes them, with each embedder; those with a cache first with an empty
one, then again with the one so filled, which answers every text. The embedder's share is the time inside `embed` over the time
of sampling, scoring and update, in CPU time of one thread, which other work on the machine does not lengthen. numberbatch is the
file above, whose vectors mean nothing. reference: the scoring of the responses by the reference model, which needs no reward and
could be done while a server embeds.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NUMBERBATCH = (516_782, 300)  # words and dimensions of numberbatch-en-19.08
BATCH = 50
MB = 1e6
# name -> whether it has a cache
EMBEDDERS = {"static": False, "numberbatch": False, "sentence_transformer": True}


def write_vectors(path: Path, words: int, dimension: int) -> None:
    """A gzipped text file of word vectors as ConceptNet publishes Numberbatch's; the shipped vectors' words come first."""
    from pgsrm.embedder.vector_files import read_vectors
    from pgsrm.embedder.word_vectors import SHIPPED

    draw = random.Random(0)
    numbers = [f"{draw.gauss(0, 0.06):.4f}" for _ in range(5000)]
    known = dict.fromkeys(word for word in read_vectors(SHIPPED)[0] if word.isalpha())
    while len(known) < words:
        known["".join(draw.choices(string.ascii_lowercase, k=draw.randint(6, 14)))] = None
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.write(f"{words} {dimension}\n")
        for word in list(known)[:words]:
            file.write(f"{word} {' '.join(draw.choices(numbers, k=dimension))}\n")


# Loading


def load(path: str) -> None:
    """A process that reads the file: says when it has imported, loads at a line from above, and measures at the next."""
    import numpy  # noqa: F401

    from pgsrm.embedder import WordVectors

    batch = _texts(BATCH)
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what there is now
    before = _memory()
    print("imported", flush=True)
    input()
    started, worked = time.perf_counter(), time.process_time()
    vectors = WordVectors(path)
    vectors.embed(["dog"])
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    vectors.embed(batch)
    print("loaded", flush=True)
    input()
    after = _memory()
    measured = {
        "seconds": seconds,
        "cpu": cpu,
        "share": after["Pss"] - before["Pss"],
        "peak": after["VmHWM"] - before["Rss"],
    }
    print(json.dumps(measured), flush=True)


def _memory() -> dict[str, float]:
    """MB of this process: Rss and Pss, and VmHWM, the highest Rss so far. Linux alone tells."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    lines += [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(amount) * 1024 / MB for name, amount, *_ in fields}


def _texts(count: int) -> list[str]:
    from pgsrm.embedder.vector_files import read_vectors
    from pgsrm.embedder.word_vectors import SHIPPED

    words = [word for word in read_vectors(SHIPPED)[0][:2000] if word.isalpha()]
    return [" ".join(random.Random(number).choices(words, k=5)) for number in range(count)]


def time_loading(path: Path, processes: int) -> list[dict[str, float]]:
    """So many processes read the file at once."""
    command = [sys.executable, "-m", "benchmarks.embedder", "--load", str(path)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for answer in ("imported", "loaded"):
        for process in started:
            assert process.stdout and process.stdout.readline().strip() == answer
        for process in started:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def loading_table(path: Path) -> str:
    lines = [f"{'loading':26}{'seconds':>9}{'CPU s':>8}{'share MB':>10}{'peak MB':>9}    (the slowest, the largest)"]
    for processes in (1, 4):
        path.with_name(f"{path.name}.en.vectors").unlink(missing_ok=True)
        for start in ("first", "later"):
            measurements = time_loading(path, processes)
            most = {key: max(measurement[key] for measurement in measurements) for key in measurements[0]}
            name = f"{start} start, " + ("alone" if processes == 1 else "four at once")
            lines.append(f"{name:26}{most['seconds']:9.3f}{most['cpu']:8.3f}{most['share']:10.0f}{most['peak']:9.0f}")
    return "\n".join(lines)


# Updates


def train(overrides: Sequence[str], updates: int) -> dict[str, float]:
    """Means over the first updates of a run: CPU seconds, those inside the embedder and of the reference, texts no cache had."""
    from pgsrm.embedder import WordVectors
    from pgsrm.embedder.cached import CachedEmbedder
    from pgsrm.policy.fast.policy import FastPolicy
    from pgsrm.trainer import Trainer

    run = Trainer.build(*overrides, "tracking=none")
    spent = {"embedder": 0.0, "reference": 0.0, "unseen": 0.0}
    _count(WordVectors, CachedEmbedder, spent)
    FastPolicy.score_reference = _timed(FastPolicy.score_reference, spent, "reference")
    seconds = 0.0
    for update in range(updates + 1):
        if update == 1:  # the first one loads what is loaded at first use
            spent |= dict.fromkeys(spent, 0.0)
            seconds = 0.0
        started = time.process_time()
        rollout = run.sample(run.draw_prompts())
        run.learn(rollout, run.score(rollout))
        seconds += time.process_time() - started
    return {"seconds": seconds / updates, **{key: value / updates for key, value in spent.items()}}


def _timed(method: Any, spent: dict[str, float], name: str) -> Any:
    """The method, adding its CPU seconds to spent[name]."""

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return method(*arguments, **options)
        finally:
            spent[name] += time.process_time() - started

    return timed


def _count(words: Any, cached: Any, spent: dict[str, float]) -> None:
    """Have both kinds of embedders add up what they do."""

    def counted(checked: Any) -> Any:
        def count(self: Any, texts: Sequence[str], vectors: Any) -> Any:
            spent["unseen"] += len(texts)
            return checked(self, texts, vectors)

        return count

    words.embed, cached.embed = (_timed(embedder.embed, spent, "embedder") for embedder in (words, cached))
    cached._checked = counted(cached._checked)


def updates_table(folder: Path, vectors: Path, embedders: Sequence[str], task: str, updates: int) -> str:
    lines = [f"{'updates':26}{'cache':>8}{'CPU ms':>8}{'embedder ms':>13}{'share':>8}{'reference':>11}{'unseen':>8}"]
    for name in embedders:
        overrides = [f"task={task}", f"embedder={name}", f"paths.outputs={folder}", "threads=1"]
        overrides += [f"embedder.path={vectors}"] if name == "numberbatch" else []
        overrides += [f"embedder.cache={folder / 'cache'}"] if EMBEDDERS[name] else []
        for cache in ("empty", "filled") if EMBEDDERS[name] else ("-",):
            command = [sys.executable, "-m", "benchmarks.embedder", "--updates", str(updates), "--train", *overrides]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            share = measured["embedder"] / measured["seconds"]
            lines.append(
                f"{name:26}{cache:>8}{measured['seconds'] * 1e3:8.0f}{measured['embedder'] * 1e3:13.1f}{share:8.1%}"
                f"{measured['reference'] / measured['seconds']:11.1%}"
                f"{measured['unseen']:8.1f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=100, help="of each run")
    parser.add_argument("--task", default="copy")
    parser.add_argument("--embedders", default=",".join(EMBEDDERS), help="whose updates are timed")
    parser.add_argument("--tables", choices=["both", "loading", "updates"], default="both")
    parser.add_argument("--words", type=int, default=NUMBERBATCH[0], help="of the synthetic file")
    parser.add_argument("--dimension", type=int, default=NUMBERBATCH[1])
    parser.add_argument(
        "--keep", type=Path, help="folder in which the synthetic file is made, or is from an earlier call"
    )
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
    elif args.train:
        print(json.dumps(train(args.train, args.updates)))
    else:
        folder = Path(tempfile.mkdtemp())
        try:
            vectors = (args.keep or folder) / f"numberbatch-{args.words}-{args.dimension}.txt.gz"
            if not vectors.exists():
                vectors.parent.mkdir(parents=True, exist_ok=True)
                write_vectors(vectors, args.words, args.dimension)
            print(
                f"{args.words:,} words in {args.dimension} dimensions, {vectors.stat().st_size / MB:,.0f} MB as .txt.gz"
            )
            if args.tables != "updates":
                print(loading_table(vectors), flush=True)
            if args.tables != "loading":
                print(updates_table(folder, vectors, args.embedders.split(","), args.task, args.updates), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
