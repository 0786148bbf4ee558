"""A run's state and its steps; `pgsrm.train` reads as the loop over them.

What flows: prompts and references (task) -> `Rollout` (policy) -> `Scored` (reward) -> update (ppo, algorithm) -> record.
"""

import copy
import random
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from pgsrm.algorithm.budget import budget
from pgsrm.algorithm.learner import OtherLearner
from pgsrm.algorithm.selection import Pair
from pgsrm.algorithm.settings import DistillAlgorithm, PPOAlgorithm
from pgsrm.algorithm.sft import check_fit, encode_pairs
from pgsrm.algorithm.teacher import load_teacher
from pgsrm.config.compose import plan_words
from pgsrm.config.plan import build_evaluation, build_objects, check_unchanged, load_settings
from pgsrm.config.schema import Settings
from pgsrm.evaluation import Evaluated
from pgsrm.evaluation.equilibrium import predict_entropy
from pgsrm.evaluation.evaluation import Evaluation
from pgsrm.evaluation.reference_samples import reference_samples
from pgsrm.evaluation.workload import expected_calls
from pgsrm.models.load import load_codec, load_model, resolve_device
from pgsrm.models.lora import add_adapters, merged, save_adapters
from pgsrm.models.server import ServerError
from pgsrm.models.text import Codec
from pgsrm.policy.choose import build_policy, check_lengths
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling
from pgsrm.ppo.settings import GROUP_BASELINES
from pgsrm.ppo.update import Learner, step
from pgsrm.record import RunFolder, best, checkpoint
from pgsrm.record.files import whole_folder, writing
from pgsrm.reward import Reward
from pgsrm.reward.scorer import Scorer
from pgsrm.rollout import Rollout, Scored
from pgsrm.stopping import Stopping
from pgsrm.task import Example, Task
from pgsrm.training_state import TrainingState
from pgsrm.util.distributed import ALONE, Processes, local_device, shard, undivided
from pgsrm.util.errors import under
from pgsrm.util.memory import peak_memory
from pgsrm.util.objects import attach_object, is_standardised, remembered_by, standardise_object
from pgsrm.util.words import mask_of


class Trainer:
    """One run in memory. Two generators are all the randomness: one draws prompts, one samples tokens."""

    def __init__(
        self,
        folder: RunFolder,
        settings: Settings,
        task: Task,
        reward: Reward,
        policy: Policy,
        codec: Codec,
        evaluated_with: Evaluated = Evaluated(),  # noqa: B008  (frozen)
        processes: Processes = ALONE,
        teacher: Policy | None = None,
    ) -> None:
        """evaluated_with: what the policy is measured by besides its reward. teacher: of `algorithm=distill`."""
        self.folder, self.settings, self.task = folder, settings, task
        self.policy, self.codec, self.processes = policy, codec, processes
        by_group = settings.algorithm.needs_groups
        if isinstance(settings.algorithm, PPOAlgorithm):
            by_group = settings.ppo.baseline in GROUP_BASELINES
        group_size = settings.ppo.group_size if by_group else None
        self.score = Scorer(reward, task.checker, codec.eos, processes, group_size=group_size)
        # no generator of one seed is one of another seed's
        self.data_rng = torch.Generator().manual_seed(2 * settings.seed)
        self.sampling_rng = torch.Generator().manual_seed(2 * settings.seed + 1)
        torch.manual_seed(settings.seed)  # dropout, where a run turns it on
        random.seed(settings.seed)  # a reward of the user's own may draw
        np.random.seed(settings.seed)
        self.learner = self._new_learner(teacher)
        attach_object(reward, policy, codec)
        self.prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train + task.holdout}
        self.sampling = Sampling(task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k)
        check_lengths(policy.positions, list(self.prompt_ids.values()), task.max_new_tokens)
        self.evaluate = Evaluation(
            task, policy, codec, self.prompt_ids, self.score, self.sampling, settings.seed, evaluated_with
        )
        self._masked = mask_of(settings.task.mask)
        self.update, self.updates = 0, settings.ppo.updates
        self._began: tuple[int, float] | None = None  # the update at which this start began, and when
        self._stopping = Stopping(settings.stop)
        self.stopped_early: str | None = None  # why, once `stop.metric` has ended the run
        self._unrecorded: dict[str, Any] | None = None  # an update's line and samples, while its evaluation is made
        generators = {"data": self.data_rng, "sampling": self.sampling_rng}
        self._state = TrainingState(self.learner, generators, settings, reward, self.evaluate.measures)
        self._restorable = self._state.outside_weights()  # from here an outage leaves the run resumable

    @classmethod
    def build(
        cls,
        *overrides: str | DictConfig,
        reward: Callable[..., Any] | None = None,
        folder: str | Path | None = None,
    ) -> "Trainer":
        """A trainer for a loop of your own, from the words of the command line; docs/python.md has such a loop.

        Args:
            *overrides: as in `pgsrm.train`.
            reward: as in `pgsrm.train`.
            folder: where metrics, samples and checkpoints are written; by default a temporary one, which goes with the
                trainer. Not the folder of the run that `pgsrm.train` makes of this config: another loop is another run.

        Raises:
            UserError: for what you can mend, in one line.
        """
        this = plan_words(*overrides, reward=reward)
        path = Path(tempfile.mkdtemp(prefix="pgsrm-") if folder is None else folder)
        replace(this, folder=RunFolder(path), beginning=None).freeze()
        trainer = cls.from_folder(RunFolder(path))
        trainer.standardise()
        if folder is None:
            weakref.finalize(trainer, shutil.rmtree, path, ignore_errors=True)
        return trainer

    @classmethod
    def from_folder(cls, folder: RunFolder, processes: Processes = ALONE) -> "Trainer":
        """Load task, reward, model and tokenizer as the folder's config says; policy and reference begin equal."""
        settings, config = load_settings(folder)
        task, reward = build_objects(config)
        check_unchanged(folder, settings, config, task, reward)
        device = resolve_device(settings.model.device)
        if processes.count > 1:
            device = local_device(device)
        sharded = settings.model.shard
        model = load_model(settings.model, torch.device("cpu") if sharded else device)
        codec, reference = load_codec(settings.model, model), None
        if settings.model.lora is None:
            reference = copy.deepcopy(model)
        else:
            torch.manual_seed(settings.seed)  # draws the adapters
            model = add_adapters(model, settings.model.lora)
        if sharded:
            model, reference = shard(model, device, processes), shard(reference, device, processes)
        prompts = [codec.encode(example.prompt) for example in task.train]
        policy = build_policy(
            model,
            reference,
            codec.eos,
            prompts,
            task.max_new_tokens,
            settings.model,
            settings.ppo.padding,
            settings.ppo.dropout,
            sharded_with=processes if sharded else None,
            trained_alone=processes.count == 1,
        )
        evaluated_with = build_evaluation(settings)
        teacher = None
        if isinstance(settings.algorithm, DistillAlgorithm):
            of_teacher = settings.algorithm.model(settings.model)
            teacher = load_teacher(of_teacher, policy, codec, prompts, task.max_new_tokens, settings.ppo.padding)
        return cls(folder, settings, task, reward, policy, codec, evaluated_with, processes, teacher)

    def _new_learner(self, teacher: Policy | None) -> Learner | OtherLearner:
        """What learns by the run's algorithm, at its beginning."""
        algorithm, ppo = self.settings.algorithm, self.settings.ppo
        if isinstance(algorithm, PPOAlgorithm):
            return Learner(self.policy, ppo, self.sampling_rng, self.processes)
        references: dict[str, Pair] = {}
        if algorithm.needs_references:
            pairs = encode_pairs(self.codec, self.task.train)
            references = {example.prompt: pair for example, pair in zip(self.task.train, pairs, strict=True)}
            check_fit(pairs, self.policy.positions)
        return OtherLearner(self.policy, ppo, algorithm, references, teacher)

    def standardise(self) -> None:
        """Have reward and measures see what the policy writes before its first update, where they are counted from that.

        Of several processes the first alone calls them.
        """
        samples = cache(
            lambda: reference_samples(
                self.policy, self.codec, self.task, self.prompt_ids, self.sampling, self.settings.seed
            )
        )
        measures = {f"evaluation.measures.{name}": measure for name, measure in self.evaluate.measures.items()}
        targets = {"reward": self.score.reward, **measures}

        def call() -> None:
            for key, target in targets.items():
                with under(key):
                    standardise_object(target, samples)

        if self.settings.model.shard and any(map(is_standardised, targets.values())):
            samples()  # by all processes together: none of them has the whole policy
        self.processes.from_first(call)

    @property
    def done(self) -> bool:
        """Whether the run has made all its updates, or has stopped early."""
        return self.update >= self.updates or self.stopped_early is not None

    # one update, in the order of the loop

    def draw_prompts(self) -> list[Example]:
        """A batch of training prompts, drawn with replacement as the released code does; each of a group is the same."""
        ppo = self.settings.ppo
        drawn = torch.randint(len(self.task.train), (ppo.batch_size // ppo.group_size,), generator=self.data_rng)
        return [self.task.train[i] for i in drawn.repeat_interleave(ppo.group_size).tolist()]

    def sample(self, examples: Sequence[Example]) -> Rollout:
        """One sampled response for each prompt."""
        size = len(examples), self.sampling.max_new_tokens
        uniforms = torch.rand(size, generator=self.sampling_rng, dtype=torch.float64)
        with_graph = self.learner.reuses_prefill(len(examples))
        share = self.processes.share(torch.arange(len(examples))) if self.processes.count > 1 else None
        prompt_ids = [self.prompt_ids[example.prompt] for example in examples]
        sampled = self.policy.sample(prompt_ids, uniforms, self.sampling, with_graph, share)
        ids = self.processes.join_lists(sampled.responses)
        if self.task.min_new_tokens is not None:
            limits = torch.randint(
                self.task.min_new_tokens, self.task.max_new_tokens + 1, (len(ids),), generator=self.sampling_rng
            )
            ids = [row[:limit] for row, limit in zip(ids, limits.tolist(), strict=True)]
        texts, offsets = self.codec.decode(ids)
        return Rollout(examples, prompt_ids, ids, texts, offsets, sampled.prefill)

    def learn(self, rollout: Rollout, scored: Scored) -> dict[str, float]:
        """One update by the run's algorithm; returns its metrics."""
        learner, ppo = self.learner, self.settings.ppo
        if isinstance(learner, Learner):
            texts = rollout.prompt_ids, rollout.response_ids
            metrics = step(learner, *texts, scored.token_rewards, rollout.prefill)
            read = ppo.epochs * sum(len(ids) for part in texts for ids in part)
        else:
            metrics, read = learner.update(rollout, scored)
        return metrics | budget(self.settings.algorithm, ppo.group_size, rollout, read)

    def record(self, rollout: Rollout, scored: Scored, metrics: dict[str, float], started: float) -> dict[str, float]:
        """Append this update's line, and at every `evaluation.every`-th its evaluation and samples."""
        self.update += 1
        line: dict[str, float] = {"update": self.update, "episodes": self.update * self.settings.ppo.batch_size}
        line |= {**scored.metrics, **metrics}
        line["time/update"] = time.perf_counter() - started
        line["time/left"] = self._seconds_left(started, started + line["time/update"])
        line["time/tokens_per_second"] = sum(map(len, rollout.response_ids)) / line["time/update"]
        line |= peak_memory(self.policy.device)
        self._look_for_end(line)
        if self.update % self.settings.evaluation.every == 0 or self.done:
            self._unrecorded = {"line": line, "samples": self._samples(rollout, scored)}
            return self._write_record()
        self.folder.append_metrics(line)
        return line

    def _seconds_left(self, started: float, now: float) -> float:
        """Until all updates are made, by the mean of those since this start, with what was done between them."""
        self._began = self._began or (self.update - 1, started)
        before, began = self._began
        return (now - began) / (self.update - before) * (self.updates - self.update)

    def _write_record(self) -> dict[str, float]:
        """The line of an update at which an evaluation is due, and its samples."""
        assert self._unrecorded is not None
        self._restorable = self._state.outside_weights()
        evaluated = self.evaluate(self.update)
        line: dict[str, float] = self._unrecorded["line"] | evaluated
        self._look_for_end({"update": self.update, **evaluated})
        self.folder.append_samples(self._unrecorded["samples"])
        self.folder.append_metrics(line)
        self._unrecorded = None
        return line

    def _look_for_end(self, line: dict[str, float]) -> None:
        """Count `stop.metric` of a new line, and say whether it ends the run: in one way to all of the run's processes."""
        if self.settings.stop.metric is None:
            return
        if self.update <= 1:
            self._stopping.check(line)
        improved = self._stopping.see(line)
        if self.settings.stop.keep_best and self.agreed(improved):
            self._keep_best()
        if self.stopped_early is None and self.agreed(self._stopping.due):
            self.stopped_early = self._stopping.reason

    @contextmanager
    def checkpoint_on_outage(self) -> Iterator[None]:
        """Around an update: where an embedder's server stays away, a resumed run loses and repeats nothing.

        Before the weights change, what was drawn is taken back; after it, the update's line that lacks its evaluation goes
        into the checkpoint. Either way the run ends with the numbers of one that had no outage.
        """
        self._restorable = self._state.outside_weights()
        try:
            yield
        except ServerError as error:
            self._state.set_outside_weights(*self._restorable)
            self.save_checkpoint()
            raise ServerError(f"{error}; checkpoint written at update {self.update}") from error

    def agreed(self, here: bool) -> bool:
        """What the first of the run's processes says: a clock or a signal must not part them."""
        return self.processes.from_first(lambda: here)

    def record_evaluation(self) -> None:
        """The evaluation before the first update, as line 0, and where the policy would go without a reward."""
        predicted: dict[str, float] = {}
        if isinstance(self.settings.algorithm, PPOAlgorithm):
            prompts = [self.prompt_ids[example.prompt] for example in self.task.train]
            predicted = predict_entropy(self.policy, prompts, self.sampling, self.settings.ppo, self.settings.seed)
        line = {"update": 0, "episodes": 0, **self.evaluate(0), **predicted}
        self._look_for_end(line)
        self.folder.append_metrics(line)

    def _samples(self, rollout: Rollout, scored: Scored) -> list[dict[str, Any]]:
        """The lines of samples.jsonl: the first `evaluation.samples` responses of this update."""
        rows = range(min(self.settings.evaluation.samples, len(rollout)))
        examples, texts = [rollout.examples[row] for row in rows], [rollout.texts[row] for row in rows]
        correct = self.score.correct(examples, texts)
        return [
            {
                "update": self.update,
                "prompt": self._masked(examples[row].prompt),
                "reference": _one_or_all([self._masked(text) for text in examples[row].all_taught]),
                "response": self._masked(texts[row]),
                "reward": scored.totals[row],
                **({"exact_match": correct[row]} if correct else {}),
                **_details(rollout, scored, row),
            }
            for row in rows
        ]

    # checkpoints

    def save_checkpoint(self) -> None:
        """All that decides what comes next: weights, optimisers, KL coefficient, every generator, the reward's memory."""
        tensors, state = self._state.save()
        if self.processes.first:
            checkpoint.save(self.folder, self.update, tensors, {**state, "unrecorded": self._unrecorded})
        self.folder.write_status(update=self.update, episodes=self.update * self.settings.ppo.batch_size)

    def resume(self) -> None:
        """Resume from the latest checkpoint that can be read, or start; the record is cut back to match."""
        loaded = checkpoint.load_latest(self.folder)
        if loaded is None:
            self._cut_back(-1)
            self._announce_calls()
            self.standardise()
            return
        self.update, tensors, state = loaded
        self._unrecorded = state.get("unrecorded")
        self._cut_back(self.update if self._unrecorded is None else self.update - 1)
        self._state.restore(tensors, state)
        self._resume_stopping()
        self._announce_calls()
        if self._unrecorded is not None:
            self._write_record()

    def _cut_back(self, update: int) -> None:
        """Remove from the folder what was written after `update`."""
        self.folder.truncate_after(update)
        if self.processes.first:
            best.cut_back(self.folder, update)

    def _resume_stopping(self) -> None:
        """See the metrics up to the checkpoint again."""
        if self.settings.stop.metric is None:
            return
        last = self.update if self._unrecorded is None else self.update - 1
        rows = [row for row in self.folder.read_metrics() if row["update"] <= last]
        self._stopping.begin([*rows, *([] if self._unrecorded is None else [self._unrecorded["line"]])])
        if self.agreed(self._stopping.due):
            self.stopped_early = self._stopping.reason

    def _announce_calls(self) -> None:
        """Say what the calls of servers come to, where reward or measures make any."""
        if not self.processes.first:
            return
        every, reward = self.settings.evaluation.every, self.score.reward
        for line in expected_calls(self.task, reward, self.evaluate, self.settings.ppo, every, self.update):
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Save the weights and the tokenizer in the hub's layout: adapters beside them, and merged into them."""
        if not self._has_part_in_saving:
            return
        lora = self.settings.model.lora is not None
        if lora and self.processes.first:
            with writing(self.folder.path), whole_folder(self.folder.adapter) as empty:
                save_adapters(self.policy.model, empty)
        model = self._whole(merged(self.policy.model) if lora else self.policy.model)
        if not self.processes.first:
            return
        self.folder.write_reward_state(remembered_by(self.score.reward, self.evaluate.measures))
        with writing(self.folder.path):
            with whole_folder(self.folder.model) as empty:
                self._save(model, empty)
            kept, update = best.finish(self.folder, self._stopping.best_update), self._stopping.best_update
        if self.settings.stop.keep_best and update is not None and not kept:
            print(
                f"{self.folder.name}: no best model is kept; the best evaluation, at update {update}, came before "
                "stop.keep_best=true was set",
                file=sys.stderr,
                flush=True,
            )

    def _keep_best(self) -> None:
        """Save the model of the evaluation that was just made in the layout of what `pgsrm.push` makes."""
        if not self._has_part_in_saving:
            return
        adapted = self.policy.model if self.settings.model.lora is not None else None
        model = self._whole(self.policy.model if adapted is None else merged(copy.deepcopy(adapted)))

        def write(folder: Path) -> None:
            self._save(model, folder)
            if adapted is not None:
                save_adapters(adapted, folder / self.folder.adapter.name)

        if self.processes.first:
            best.save(self.folder, self.update, write)

    @property
    def _has_part_in_saving(self) -> bool:
        """Whether this process saves the model: the first one does, and with sharded weights none can do without the others."""
        return self.processes.first or self.settings.model.shard

    def _whole(self, model: Any) -> Any:
        """The model as one process has it. Several processes call this together."""
        if not self.settings.model.shard:
            return model
        weights = {name: undivided(tensor).cpu() for name, tensor in model.state_dict().items()}
        model = load_model(self.settings.model, torch.device("cpu"))
        model.load_state_dict(weights)
        model.generation_config.eos_token_id = list(self.codec.eos)
        return model

    def _save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)


def _one_or_all(references: list[str]) -> str | list[str]:
    """References as the data has them: a text, or a list of several."""
    return references[0] if len(references) == 1 else references


def _details(rollout: Rollout, scored: Scored, row: int) -> dict[str, Any]:
    """What a sample's line says besides: rewards per token with the characters of each token, and annotations."""
    details: dict[str, Any] = {}
    if scored.per_token:
        details = {"token_rewards": scored.token_rewards[row], "offsets": [list(pair) for pair in rollout.offsets[row]]}
    if scored.annotations:
        details["annotations"] = scored.annotations[row].plain()
    return details
