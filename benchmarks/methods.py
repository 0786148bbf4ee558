"""One method of making an update, timed in a process of its own: `python -m benchmarks.methods METHOD SETUP`.

`benchmarks.update` starts these. SETUP is a `Setup` in JSON. The process loads its model, makes one update that is not
timed, prints READY, waits for a line on its standard input, makes updates for `Setup.seconds`, at least one, and prints what it
measured in a line of JSON.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import count_work, gemm_flops, synchronize

READY = "@ready"
SEED = 0


@dataclass(frozen=True)
class Setup:
    """What all methods are given. `model` is a folder in the hub's layout with a tokenizer."""

    model: str
    task: str
    batch: int
    new_tokens: int
    dtype: str
    device: str
    threads: int | None  # None: torch's own choice
    seconds: float  # to measure for
    any_order: bool = False  # of sums on a GPU
    ppo: str = "sound"  # or per_token
    cpu_time: bool = False  # seconds of the process's CPU time, all threads together, in the place of the wall's

    @property
    def clock(self) -> Callable[[], float]:
        """What updates are timed by."""
        return time.process_time if self.cpu_time else time.perf_counter


@dataclass(frozen=True)
class Measured:
    """What a process found."""

    seconds: list[float]  # of each update
    peak_gib: float  # most resident memory, or most memory of the GPU
    work: dict[str, int] | None = None  # the last update's `arithmetic.Work`, of `fast` alone
    parts: dict[str, float] | None = None  # seconds per update (mean) of each of `PARTS`, of `fast` on a CPU alone


# updates to warm up by: in the first ones the allocator takes most of what it needs from the system, which on a virtual machine
# can take longer than the arithmetic (GPT-2 Small's second update waited 1 s for it, the third 0.1 s)
WARM_UP = 3


class Stopwatch:
    """Times updates: the first ones are for warming up, then the process waits to be told to go on."""

    def __init__(self, setup: Setup, when_warm: Callable[[], None] | None = None) -> None:
        self.setup, self.when_warm, self.seconds = setup, when_warm, list[float]()
        self._left, self._started, self._end = WARM_UP, 0.0, 0.0

    def start(self) -> None:
        synchronize(self.setup.device)
        self._started = self.setup.clock()

    def stop(self) -> bool:
        """The update is over; returns whether that was the last one."""
        synchronize(self.setup.device)
        if not self._left:
            self.seconds.append(self.setup.clock() - self._started)
            return time.perf_counter() >= self._end
        self._left -= 1
        if not self._left:
            if self.when_warm:
                self.when_warm()
            print(READY, flush=True)
            sys.stdin.readline()
            self._end = time.perf_counter() + self.setup.seconds
        return False

    def repeat(self, update: Callable[[], None]) -> None:
        done = False
        while not done:
            self.start()
            update()
            done = self.stop()

    def measured(self, work: dict[str, int] | None = None, parts: dict[str, float] | None = None) -> Measured:
        return Measured(self.seconds, peak_gib(self.setup.device), work, parts)


def reward(token_ids: Sequence[Sequence[int]]) -> list[float]:
    """A number for each response that costs nothing: its ids' sum, modulo 101, as a share of 100."""
    return [sum(ids) % 101 / 100 for ids in token_ids]


def peak_gib(device: str) -> float:
    """Most memory that this process has held, GiB."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def words(setup: Setup) -> list[str]:
    """The overrides of a run of this setup. Its reward is one that the task allows; `load_run` puts another in its place."""
    reward = "sparse" if setup.ppo == "per_token" else "binary"
    task = [f"task={setup.task}", f"task.max_new_tokens={setup.new_tokens}", "task.min_new_tokens=null"]
    task += [f"reward={reward}", "tracking=none"]
    model = [f"model.path={setup.model}", f"model.dtype={setup.dtype}", f"model.device={setup.device}"]
    return [*task, *model, f"ppo={setup.ppo}", f"ppo.batch_size={setup.batch}", f"seed={SEED}"]


def load_run(setup: Setup, policy: str = "fast", own: Sequence[str] = ()) -> Any:
    """A `Trainer` as a run of this setup would have it, with `reward` in the place of its own."""
    from pgsrm.trainer import Trainer
    from pgsrm.util.memory import keep_freed_memory

    keep_freed_memory()
    run = Trainer.build(*words(setup), f"model.policy={policy}", *own)
    run.policy.in_one_order &= not setup.any_order
    run.score.reward = lambda *, token_ids, **_: reward(token_ids)
    return run


def update_once(run: Any) -> Any:
    """The steps of `pgsrm.train.train`, without record and evaluation; returns the rollout."""
    rollout = run.sample(run.draw_prompts())
    run.learn(rollout, run.score(rollout))
    return rollout


# of an update: the policy's pass over the prompts, sampling's steps, both models' log-probabilities, gradients, clipping
# and AdamW, rewards (here free: text and bookkeeping), and what is left
PARTS = ("prefill", "decode", "score", "backward", "optimiser", "reward", "rest")


class Parts:
    """Seconds of each of `PARTS` but the rest, without what is measured inside of it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.seconds = clock, dict.fromkeys(PARTS[:-1], 0.0)
        self._inside = [0.0]

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time counts as that of `part`."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            started = self.clock()
            try:
                return call(*arguments, **named)
            finally:
                took = self.clock() - started
                self.seconds[part] += took - self._inside.pop()
                self._inside[-1] += took

        return wrapped

    def watch(self, run: Any) -> None:
        """Measure the updates of a `Trainer` from here on, in this process."""
        import torch

        from pgsrm.ppo import update

        owners = {
            "prefill": [(run.policy, "_prefill")],
            "decode": [(run.policy, "_generate")],
            "reward": [(run, "score")],
        }
        owners["score"] = [(update, "score_tokens"), (update, "keep_reference")]
        owners["backward"] = [(torch.Tensor, "backward")]
        owners["optimiser"] = [(update, "clip_grad_norm_")]
        owners["optimiser"] += [(getattr(run.learner, f"{name}_optimizer"), "step") for name in ("actor", "critic")]
        for part, calls in owners.items():
            for owner, name in calls:
                setattr(owner, name, self.timed(part, getattr(owner, name)))

    def of(self, seconds: Sequence[float]) -> dict[str, float]:
        """Seconds per update of each part, of updates that took `seconds`."""
        parts = {part: total / len(seconds) for part, total in self.seconds.items()}
        return {**parts, "rest": sum(seconds) / len(seconds) - sum(parts.values())}


def ours(setup: Setup, policy: str = "fast", own: Sequence[str] = ()) -> Measured:
    """This package, with one of its policies, and overrides of the method's own."""
    from pgsrm.policy.fast.batch import common_prefix

    run, last = load_run(setup, policy, own), list[Any]()  # the last rollout
    # a GPU works on while the host has gone on to the next part
    parts = Parts(setup.clock) if policy == "fast" and setup.device == "cpu" else None

    def update() -> None:
        last[:] = [update_once(run)]

    stopwatch = Stopwatch(setup, when_warm=(lambda: parts.watch(run)) if parts else None)
    stopwatch.repeat(update)
    (rollout,) = last
    prefix = common_prefix([run.prompt_ids[example.prompt] for example in run.task.train])
    work = count_work(prefix, rollout.prompt_ids, rollout.response_ids, run.settings.ppo.epochs)
    return stopwatch.measured(asdict(work), parts.of(stopwatch.seconds) if parts else None)


def micro_batches(setup: Setup) -> list[str]:
    """Five micro-batches an update."""
    return [f"ppo.micro_batch={max(1, setup.batch // 5)}"]


# the CUDA runtime's calls, by what they are for: launches of kernels (or whole graphs), waits, copies
CUDA_CALLS = {"launches": "Launch", "waits": "Synchronize", "copies": "cudaMemcpy"}


def profile(setup: Setup, policy: str = "fast") -> dict[str, Any]:
    """Where the device's time goes over updates of `setup.seconds` in all, with one of this package's policies.

    `shares`: operators of `ours` and their shares of the device's time, the largest first. On a GPU also, of an update: `busy`,
    the share of the time in which the device computes, and the number of calls of each of `CUDA_CALLS`.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    run, on_gpu, updates = load_run(setup, policy), setup.device.startswith("cuda"), 0
    for _ in range(WARM_UP):
        update_once(run)
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        begin = time.perf_counter()
        while time.perf_counter() < begin + setup.seconds:
            update_once(run)
            updates += 1
        synchronize(setup.device)
        took = time.perf_counter() - begin
    events = profiler.key_averages()
    if on_gpu:  # its kernels alone: operators have the times of theirs once more
        times = {event.key: event.self_device_time_total for event in events if event.device_type == DeviceType.CUDA}
    else:
        times = {event.key: event.self_cpu_time_total for event in events}
    total = sum(times.values())
    shares = sorted(((name, time / total) for name, time in times.items()), key=lambda row: -row[1])
    if not on_gpu:
        return {"shares": shares}
    calls = {
        kind: sum(event.count for event in events if event.key.startswith("cu") and part in event.key) / updates
        for kind, part in CUDA_CALLS.items()
    }
    return {"shares": shares, "busy": total / 1e6 / took, **calls}


@dataclass(frozen=True)
class Material:
    """What the methods other than `fast` begin with: the same model, prompts and settings as its own."""

    load_model: Callable[[], Any]
    eos: int
    settings: Any  # PPOSettings
    draw: Callable[[], list[list[int]]]  # the next batch of prompts, as `fast` draws them

    @staticmethod
    def of(setup: Setup) -> "Material":
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from pgsrm.config.compose import plan_words
        from pgsrm.config.plan import build_objects
        from pgsrm.models.precision import multiply_in_tf32

        multiply_in_tf32(torch.device(setup.device), setup.dtype == "tfloat32")
        logging.disable_progress_bar()
        torch.manual_seed(SEED)
        this = plan_words(*words(setup))
        tokenizer = AutoTokenizer.from_pretrained(setup.model)
        task, _ = build_objects(this.config)
        prompts = [tokenizer(example.prompt)["input_ids"] for example in task.train]
        generator = torch.Generator().manual_seed(2 * SEED)
        return Material(
            lambda: AutoModelForCausalLM.from_pretrained(setup.model, dtype=torch.float32).to(setup.device),
            tokenizer.eos_token_id,
            this.settings.ppo,
            lambda: [prompts[i] for i in torch.randint(len(prompts), (setup.batch,), generator=generator).tolist()],
        )


def transformers_alone(setup: Setup, rows: int) -> Measured:
    """Only transformers and torch, `rows` prompts at once."""
    from benchmarks.baselines import TransformersLearner

    given, bfloat16 = Material.of(setup), setup.dtype == "bfloat16"
    learner = TransformersLearner(given.load_model(), given.load_model(), given.settings, given.eos, rows, bfloat16)

    def update() -> None:
        prompts = given.draw()
        responses = learner.sample(prompts, setup.new_tokens)
        learner.learn(prompts, responses, reward(responses))

    stopwatch = Stopwatch(setup)
    stopwatch.repeat(update)
    return stopwatch.measured()


def plain(setup: Setup) -> Measured:
    """The plain reference that the fast path is tested against (`pgsrm.ppo.plain`), sampling one prompt at a time."""
    import torch

    from benchmarks.baselines import TransformersLearner
    from pgsrm.ppo.plain import PlainLearner
    from pgsrm.rollout import at_last_token

    given = Material.of(setup)
    learner = PlainLearner(given.load_model(), (given.eos,), given.settings)
    sampler = TransformersLearner(learner.policy, learner.reference, given.settings, given.eos, rows=1)

    def update() -> None:
        prompts = given.draw()
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.dtype == "bfloat16"):
            responses = sampler.sample(prompts, setup.new_tokens)
            learner.step(prompts, responses, at_last_token(reward(responses), responses))

    stopwatch = Stopwatch(setup)
    stopwatch.repeat(update)
    return stopwatch.measured()


def trl(setup: Setup, algorithm: str) -> Measured:
    """TRL's GRPO or RLOO trainer: a training step with a KL term and so a reference; no checkpointing of activations.

    Its groups are as small as the batch allows, so that its prompts are as many as they can be.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    import pgsrm
    from pgsrm.config.compose import plan_words

    task, settings = pgsrm.load_task(*words(setup)), plan_words(*words(setup)).settings.ppo
    group = next(size for size in range(2, setup.batch + 1) if setup.batch % size == 0)
    make_config, make_trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[algorithm]
    stopwatch = Stopwatch(setup)

    class Timing(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % settings.epochs == 0:
                stopwatch.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % settings.epochs == 0:
                control.should_training_stop = stopwatch.stop()

    with tempfile.TemporaryDirectory() as outputs:
        config = make_config(
            output_dir=outputs,
            per_device_train_batch_size=setup.batch,
            num_generations=group,
            max_completion_length=setup.new_tokens,
            max_steps=100_000,
            num_iterations=settings.epochs,
            beta=0.01,
            learning_rate=1e-5,
            bf16=setup.dtype == "bfloat16",
            use_cpu=setup.device == "cpu",
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            seed=SEED,
        )
        make_trainer(
            model=setup.model,
            reward_funcs=lambda completion_ids, **_: reward(completion_ids),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": example.prompt} for example in task.train]),
            callbacks=[Timing()],
        ).train()
    return stopwatch.measured()


METHODS: dict[str, Callable[[Setup], Measured]] = {
    "fast": ours,
    "simple": lambda setup: ours(setup, "simple"),
    "graphed": lambda setup: ours(setup, "graphed"),
    "micro": lambda setup: ours(setup, own=micro_batches(setup)),
    "micro-whitened": lambda setup: ours(setup, own=[*micro_batches(setup), "ppo.whiten_advantages=true"]),
    "plain": plain,
    "batched": lambda setup: transformers_alone(setup, setup.batch),
    "one_by_one": lambda setup: transformers_alone(setup, 1),
    "trl-grpo": lambda setup: trl(setup, "grpo"),
    "trl-rloo": lambda setup: trl(setup, "rloo"),
}


def save_random_model(shape: dict[str, Any], tokenizer: str, folder: str) -> None:
    """A GPT-2 or Llama of the given `arithmetic.Shape` with random weights, and the tokenizer, in the hub's layout."""
    import torch
    from transformers import (
        AutoTokenizer,
        GPT2Config,
        GPT2LMHeadModel,
        GPT2TokenizerFast,
        LlamaConfig,
        LlamaForCausalLM,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    complete = (Path(tokenizer) / "tokenizer_config.json").is_file()
    loaded = (AutoTokenizer if complete else GPT2TokenizerFast).from_pretrained(tokenizer)
    torch.manual_seed(SEED)
    sizes = {
        "vocab_size": shape["vocabulary"],
        "max_position_embeddings": shape["positions"],
        "hidden_size": shape["width"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "bos_token_id": loaded.eos_token_id,
        "eos_token_id": loaded.eos_token_id,
    }
    if shape["gated"]:
        llama = {"num_key_value_heads": shape["key_heads"], "intermediate_size": shape["gated"]}
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes, **llama, tie_word_embeddings=True))
    else:
        model = GPT2LMHeadModel(GPT2Config(**sizes))
    model.save_pretrained(folder)
    loaded.save_pretrained(folder)


def main() -> None:
    command, argument = sys.argv[1], json.loads(sys.argv[2])
    if command == "save":
        save_random_model(**argument)
        return
    import torch

    threads = argument.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    if command == "gemm":
        print(json.dumps(gemm_flops(**argument)))
        return
    if command == "profile":
        policy = argument.pop("policy")
        print(json.dumps(profile(Setup(**argument, threads=threads), policy)))
        return
    print(json.dumps(asdict(METHODS[command](Setup(**argument, threads=threads)))))


if __name__ == "__main__":
    main()
