"""The typed schema of the `ppo` config group. docs/fidelity.md says what each switch changes."""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count, Fraction, NonNegative, Positive

GROUP_BASELINES = ("group_mean", "leave_one_out")


class PPOSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Hyperparameters of one update; the comment above each field is its help text."""

    # Responses a run samples in all (single-step episodes, paper 4.4); updates = episodes / batch_size.
    episodes: Count
    # Responses per update.
    batch_size: Count
    # Passes over each batch. More than one needs clip_range.
    epochs: Count = 1
    # Gradient steps per pass; the batch is split at random.
    minibatches: Count = 1
    # Rows a forward pass holds at once (memory); null = all of a minibatch. Results are equal up to rounding.
    micro_batch: Count | None = None
    # AdamW learning rate of the policy.
    actor_lr: Positive
    # AdamW learning rate of the value head.
    critic_lr: Positive
    # AdamW decoupled weight decay, both optimisers (docs/fidelity.md, D15).
    weight_decay: NonNegative = 0.01
    # AdamW epsilon, both optimisers (docs/fidelity.md, D15).
    adam_eps: Positive = 1e-8
    # Gradient norm limit, each optimiser apart; null = none.
    max_grad_norm: Positive | None = 1.0
    # Weight of the entropy bonus.
    entropy_coef: NonNegative
    # Weight of the value loss (it scales the critic's gradient before clipping).
    value_coef: NonNegative = 0.5
    # Responses per prompt; rows of a group follow one another. batch_size counts responses.
    group_size: Count = 1
    # What is subtracted from the return (docs/fidelity.md, D2); token_values: GAE with a value before each token.
    baseline: Literal[
        "prompt_value", "response_value", "token_values", "batch_mean", "group_mean", "leave_one_out", "none"
    ]
    # Discount per token.
    gamma: Fraction = 1.0
    # GAE's lambda, for token_values.
    gae_lambda: Fraction = 1.0
    # Whether advantages are divided by the standard deviation of their group's returns (GRPO).
    scale_by_group: bool = False
    # Whether advantages get zero mean and unit variance over the batch.
    whiten_advantages: bool
    # Ratio clipping range; null = -log pi A, no ratio (docs/fidelity.md, D7).
    clip_range: Positive | None = None
    # How far a value may move from what it was when the batch was sampled before the value loss stops to gain; null = any.
    value_clip: Positive | None = None
    # A gradient step whose mean ratio is above this is left out and counted; null = none is. Needs clip_range.
    ratio_limit: Positive | None = None
    # First KL coefficient.
    kl_coef: NonNegative
    # How the coefficient moves: fixed, paper (docs/fidelity.md, D13) or ziegler.
    kl_control: Literal["fixed", "paper", "ziegler"] = "fixed"
    # KL that an adaptive coefficient aims at, nats per token (paper) or per response (ziegler); null = fixed.
    kl_target: Positive | None = None
    # Episodes over which `ziegler` adapts.
    kl_horizon: Positive = 10_000.0
    # What the KL is measured against: the initial model, or the policy before the last update (docs/fidelity.md, D6).
    kl_reference: Literal["initial", "previous"] = "initial"
    # Estimator of the KL term (docs/fidelity.md, D14).
    kl_estimator: Literal["k1", "k2", "k3", "exact"]
    # Whether the KL term is a term of the loss, or is taken from each token's reward.
    kl_in: Literal["loss", "reward"] = "loss"
    # Whether a sampled EOS is in the loss (docs/fidelity.md, D3).
    train_eos: bool
    # Side on which prompts are padded in the log-probabilities' pass (docs/fidelity.md, D4).
    padding: Literal["left", "right"] = "left"
    # Whether the policy's own dropout is on, in sampling and in log-probabilities (docs/fidelity.md, D5).
    dropout: bool = False
    # Sampling temperature.
    temperature: Positive = 1.0
    # Sampling keeps this many tokens; 0 keeps all (docs/fidelity.md, D9).
    top_k: Annotated[int, Meta(ge=0)] = 0
    # The distribution of a sampled token's log-probability: the one it was drawn from, or all (docs/fidelity.md, D9).
    scored_distribution: Literal["sampled", "full"] = "sampled"

    def check(self) -> None:
        """Raise UserError where fields contradict each other."""
        if self.epochs * self.minibatches > 1 and self.clip_range is None:
            raise UserError(
                f"ppo.epochs={self.epochs}, ppo.minibatches={self.minibatches}: several steps on one batch leave the "
                "policy that sampled it; set ppo.clip_range (0.2 is usual)"
            )
        if self.ratio_limit is not None and self.clip_range is None:
            raise UserError(
                f"ppo.ratio_limit={self.ratio_limit}: without ppo.clip_range there is no ratio; set that, or ppo.ratio_limit=null"
            )
        if self.minibatches > self.batch_size:
            raise UserError(f"ppo.minibatches={self.minibatches}: more than ppo.batch_size={self.batch_size}; lower it")
        if self.batch_size % self.group_size:
            raise UserError(
                f"ppo.group_size={self.group_size}: ppo.batch_size={self.batch_size} is no multiple of it; change either"
            )
        if self.group_size == 1 and (self.baseline in GROUP_BASELINES or self.scale_by_group):
            key = "scale_by_group=true" if self.scale_by_group else f"baseline={self.baseline}"
            raise UserError(f"ppo.{key}: a group of one response has nothing to compare; set ppo.group_size")
        if self.gae_lambda != 1 and self.baseline != "token_values":
            raise UserError(
                f"ppo.gae_lambda={self.gae_lambda}: means something with ppo.baseline=token_values alone; set that, or 1"
            )
        if self.baseline == "batch_mean" and self.batch_size == 1:
            raise UserError("ppo.baseline=batch_mean: the mean of one response is itself; raise ppo.batch_size")
        if self.kl_coef == 0 and self.kl_control != "fixed" and self.kl_target is not None:
            raise UserError(
                f"ppo.kl_coef=0: ppo.kl_control={self.kl_control} multiplies it, so that it stays 0; "
                "set it above 0, or ppo.kl_control=fixed"
            )
        if self.episodes < self.batch_size:
            raise UserError(f"ppo.episodes={self.episodes}: less than one batch; set it to {self.batch_size} or more")

    @property
    def draws_what_it_scores(self) -> bool:
        """Whether the loss is of all tokens that are drawn, from the very distribution that the KL is measured on."""
        return self.temperature == 1 and self.top_k == 0 and self.train_eos and not self.dropout

    @property
    def equilibrium_temperature(self) -> float | None:
        """T of the distribution ref^(1/T) / Z to which a policy converges where all rewards are equal (docs/equilibrium.md).

        T = 1 + entropy_coef / kl_coef. 1 is the reference itself. Infinity is the uniform distribution: nothing pulls the
        policy back (no KL term; k1 in the loss, whose expected gradient is zero; a reference that follows the policy).

        None where the equilibrium is not of this form: k3 in the loss (`pgsrm.ppo.equilibrium` has it); a KL term in the
        reward, which whitening scales and which counts for earlier tokens too; k1 or k2 in the loss of tokens that are not
        those which the policy draws (`draws_what_it_scores`), whose expected gradients are others.
        """
        in_loss = self.kl_coef > 0 and self.kl_in == "loss"
        if in_loss and self.kl_estimator == "k1" and not self.draws_what_it_scores:
            return None  # it pulls then, but not to the reference
        if self.entropy_coef == 0:
            return 1.0
        if self.kl_coef == 0 or self.kl_reference == "previous":
            return math.inf
        if self.kl_in == "reward":
            return None
        if self.kl_estimator == "k1":
            return math.inf
        by_formula = self.kl_estimator == "exact" or (self.kl_estimator == "k2" and self.draws_what_it_scores)
        return 1 + self.entropy_coef / self.kl_coef if by_formula else None

    @property
    def updates(self) -> int:
        """Number of updates of a run; a last incomplete batch is not drawn."""
        return self.episodes // self.batch_size
