"""What several test files share: tiny models in the hub's layout, made here, and the command line in a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[1]
END = "<|endoftext|>"
ARCHITECTURES = ("gpt2", "llama", "qwen2")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums in one order, and no quarrel over cores."""
    import torch

    torch.set_num_threads(1)


# Tiny models


def _tokenizer(with_bos: bool) -> Any:
    """A byte-level BPE of 300 tokens, trained on the shipped prompts' words. EOS is id 0, and there is no pad token."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = [END, "<s>"] if with_bos else [END]
    text = ["The opposite of 'hot' is cold.", "Mix the two colors: red and blue is => purple", "café naïve 猫"] * 3
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text, vocab_size=300, min_frequency=1, special_tokens=special, show_progress=False)
    if with_bos:  # as Llama's does
        trained._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"eos_token": END, "bos_token": "<s>"} if with_bos else {"eos_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **names)


def _model(architecture: str, vocabulary: int) -> Any:
    """Two layers of width 32. Weights ten times the usual size: a wrong mask or position shows in the second digit."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    torch.manual_seed(7)
    common = {"vocab_size": vocabulary, "initializer_range": 0.2, "eos_token_id": 0, "bos_token_id": None}
    if architecture == "gpt2":  # its dropout of 0.1 stays: no test may notice it unless it asks for it
        config = GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=4, **common)
        model: Any = GPT2LMHeadModel(config)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "attention_dropout": 0.1}
        model = (
            LlamaForCausalLM(LlamaConfig(**sizes, **common))
            if architecture == "llama"
            else Qwen2ForCausalLM(Qwen2Config(**sizes, **common))
        )
    with torch.no_grad():  # biases start at zero and norms at one: a lost one would not show
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Architecture -> a folder in the hub's layout, with a generation_config whose sampling settings must have no say."""
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp("models") / architecture
        tokenizer = _tokenizer(with_bos=architecture == "llama")
        model = _model(architecture, len(tokenizer))
        model.generation_config.update(do_sample=True, temperature=0.3, top_k=3, top_p=0.5)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session")
def tiny(model_folders: dict[str, Path]) -> Path:
    """The tiny GPT-2's folder."""
    return model_folders["gpt2"]


@pytest.fixture(scope="session")
def load_policy(model_folders: dict[str, Path]) -> Callable[..., Any]:
    """`load_policy(architecture, prompts=(), double=False, **policy_options)`: a fresh FastPolicy of a tiny model."""

    def load(architecture: str = "gpt2", double: bool = False, **options: Any) -> Any:
        import copy

        import torch

        from pgsrm.models.load import load_model
        from pgsrm.models.settings import ModelSettings
        from pgsrm.policy.fast.policy import FastPolicy

        model = load_model(ModelSettings(path=str(model_folders[architecture])), torch.device("cpu"))
        if double:
            model = model.double()
        return FastPolicy(model, copy.deepcopy(model), eos=(0,), **options)

    return load


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 throughout: `.float()` is `.double()`, and RMSNorm does not go through float32."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def norm(self: Any, hidden: Any) -> Any:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for each in (LlamaRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(each, "forward", norm)


@pytest.fixture(params=["narrow", "wide"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models as they are, and treated as the wide ones are: gradients held back, float32 products by oneDNN."""
    if request.param == "wide":
        import torch

        from pgsrm.policy.fast import matmul, matrices

        monkeypatch.setattr(matmul, "WIDE", 1)
        monkeypatch.setattr(matrices, "WIDE", 1)
        monkeypatch.setattr(matmul, "prefers_onednn", lambda: hasattr(torch.ops.mkldnn, "_linear_pointwise"))
        monkeypatch.setattr(matmul, "has_avx512", lambda: True)


def spread(scores: Any) -> Any:
    """Logits (B, T, V) of a `Scores`, each row its own; at padding they mean nothing."""
    return scores.logits[scores.contexts.place]


# The command line


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The only line on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        return lines[0]


def environment(pythonpath: Path | None = None) -> dict[str, str]:
    """This process's environment with one thread, no network, and the checkout (then `pythonpath`) to import from."""
    paths = [str(ROOT), str(ROOT / "launchers"), *([str(pythonpath)] if pythonpath else [])]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **one_thread, **offline, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def start_cli(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`start_cli(*arguments, module="pgsrm.run", pythonpath=None)`: the command in a process, started in `tmp_path`."""
    started = []

    def start(
        *arguments: str, module: str = "pgsrm.run", pythonpath: Path | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment(pythonpath),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_cli(start_cli: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., Result]:
    """As `start_cli`, waiting for the end."""

    def run(*arguments: str, timeout: float = 120, **options: Any) -> Result:
        process = start_cli(*arguments, **options)
        out, err = process.communicate(timeout=timeout)
        return Result(process.returncode, out, err)

    return run


def exit_code(main: Callable[[], Any]) -> Any:
    """With what a command's `main` ends the process, 0 if it returns."""
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture
def call_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """`python -m pgsrm.run` without a process of its own, for what must fail before anything starts: 0.1 s, not 1 s."""

    def call(*arguments: str) -> Result:
        from hydra.core.global_hydra import GlobalHydra

        from pgsrm import run

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["pgsrm.run", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        GlobalHydra.instance().clear()
        try:
            code = exit_code(run.main)
        finally:
            GlobalHydra.instance().clear()
        written = capfd.readouterr()
        return Result(code, written.out, written.err)

    return call


SHIPPED_TEXT = ("evaluation.text=austen.txt",)  # its perplexity takes longer than an update of `small`


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Sequence[str]:
    """Overrides for a run of four updates of four responses on the tiny model, without MLflow."""
    return [
        f"model.path={tiny}",
        f"paths.outputs={tmp_path / 'outputs'}",
        "tracking=none",
        "threads=1",
        "ppo.batch_size=4",
        "ppo.episodes=16",
        "task.holdout=0",
        "evaluation.every=2",
        "evaluation.samples=3",
        "evaluation.text=null",
    ]


@pytest.fixture
def resume() -> Iterator[Callable[..., None]]:
    """`resume(folder, end="finished")`: train the run of a RunFolder to its end in this process, in 0.3 s and not 5."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}

    def train(folder: Any, end: str = "finished") -> None:
        from pgsrm.train import run

        assert run(folder, show_progress=False) == end

    yield train
    for number, handler in before.items():
        signal.signal(number, handler)


def forget(folder: Path) -> None:
    """Remove what a run made, so that its command makes it again."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("config.yaml", "lock"):
            path.unlink()


def interrupt_at(update: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Have Ctrl-C come `times` in the middle of the learning after `update`."""
    from pgsrm.trainer import Trainer

    learn = Trainer.learn

    def interrupted(self: Trainer, *args: Any) -> Any:
        if self.update == update:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return learn(self, *args)

    monkeypatch.setattr(Trainer, "learn", interrupted)


def interrupt_again(folder: Path, words: Sequence[str], update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the run of these words made, train it again, and press Ctrl-C in the update after `update`."""
    import pgsrm

    forget(folder)
    with monkeypatch.context() as patched:
        interrupt_at(update, patched)
        with pytest.raises(KeyboardInterrupt, match="stopped; the same call resumes it"):
            pgsrm.train(*words, progress=False)


def whole_and_resumed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The metrics of a run that was not cut, and those of the same one that was cut in its second update and resumed."""
    import pgsrm

    run = pgsrm.train(*words, progress=False)
    whole = run.metrics
    interrupt_again(run.folder, words, 1, monkeypatch)
    return whole, pgsrm.train(*words, progress=False).metrics
