"""What tests/test_processes.py compares: a few updates of a tiny policy, alone or as one of several processes.

`python tests/several_processes.py MODEL OUT` does it in each process that torchrun's environment variables tell of.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch

from pgsrm.models.load import load_model
from pgsrm.models.settings import ModelSettings
from pgsrm.policy.fast import matrices
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import at_last_token
from pgsrm.util.distributed import ALONE, Processes, shard, together, undivided

PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 30, 31], [5, 6, 40]]
SOUND = PPOSettings(
    episodes=100,
    batch_size=8,
    actor_lr=1e-3,
    critic_lr=1e-3,
    entropy_coef=0.01,
    value_coef=0.5,
    max_grad_norm=0.5,
    kl_coef=0.1,
    kl_estimator="exact",
    kl_control="fixed",
    kl_target=0.8,
    kl_reference="initial",
    baseline="prompt_value",
    clip_range=None,
    epochs=1,
    minibatches=1,
    whiten_advantages=True,
    train_eos=True,
    padding="left",
    dropout=False,
    temperature=1.0,
    top_k=0,
    scored_distribution="full",
    weight_decay=0.01,
    adam_eps=1e-2,  # so that a gradient of rounding errors makes no step of the full size
    micro_batch=None,
)
CASES: dict[str, dict[str, Any]] = {
    "one pass": {},
    "micro-batches": {"micro_batch": 3},
    "epochs and minibatches": {
        "epochs": 2,
        "minibatches": 2,
        "clip_range": 0.2,
        "baseline": "token_values",
        "gae_lambda": 0.9,
        "kl_in": "reward",
        "kl_estimator": "k1",
    },
    "groups": {"baseline": "group_mean", "group_size": 4, "scale_by_group": True},
    "previous policy": {"kl_reference": "previous", "baseline": "response_value"},
}
SHARDED = ("one pass", "micro-batches", "epochs and minibatches")


def updates(folder: str, changes: dict[str, Any], processes: Processes, sharded: bool = False) -> dict[str, Any]:
    """Two updates on sampled responses: what was sampled, the metrics, and the weights in the end."""
    import msgspec

    settings = msgspec.structs.replace(SOUND, **changes)
    model = load_model(ModelSettings(path=folder), torch.device("cpu"))
    reference = copy.deepcopy(model)
    if sharded:
        matrices.WIDE = 1  # as for layers of a size that is worth sharding
        model, reference = (shard(whole, torch.device("cpu"), processes) for whole in (model, reference))
    policy = FastPolicy(model, reference, eos=(0,), prompts=PROMPTS, sharded_with=processes if sharded else None)
    learner = Learner(policy, settings, torch.Generator().manual_seed(0), processes)
    prompts, randomness = [PROMPTS[row // 4] for row in range(8)], torch.Generator().manual_seed(1)
    result: dict[str, Any] = {"responses": [], "metrics": []}
    for _ in range(2):
        rows = processes.share(torch.arange(8))
        uniforms = torch.rand(8, 3, generator=randomness)
        sampled = policy.sample(prompts, uniforms, Sampling(3), learner.reuses_prefill(8), rows)
        responses = processes.join_lists(sampled.responses)
        rewards = at_last_token([sum(response) % 7 / 7 for response in responses], responses)
        result["responses"].append(responses)
        result["metrics"].append(step(learner, prompts, responses, rewards, sampled.prefill))
    result["weights"] = torch.cat([undivided(p.detach()).flatten() for p in model.parameters()]).tolist()
    return result


def main() -> None:
    model, out = sys.argv[1:]
    with together(2, sys.argv) as processes:
        results = {name: updates(model, changes, processes) for name, changes in CASES.items()}
        results |= {f"{name}, sharded": updates(model, CASES[name], processes, sharded=True) for name in SHARDED}
        if processes.first:
            Path(out).write_text(json.dumps(results))


def alone(model: str, case: str) -> dict[str, Any]:
    return updates(model, CASES[case], ALONE)


if __name__ == "__main__":
    main()
