"""PGSRM training from top to bottom: PPO on the semantic reward, in one file. `python examples/minimal_loop.py` (3 minutes).

A language model (the policy) answers prompts; an answer earns how near its meaning is to a parent's answer (the reference
text); policy gradients make answers that earn more than expected more probable. This is `ppo=sound` on the shipped model,
with a higher learning rate; `pgsrm.trainer` is the same loop with checkpoints, switches and a policy that is several times
faster. The prompts, the parent's answers and the reward come from the package, and so do the pure functions of PPO.

Shapes: B responses of up to T tokens, V tokens in the vocabulary, C = all response tokens of the batch, W the model's width.
"""

import argparse
import copy
import time

import torch

import pgsrm
from pgsrm.models.load import load_codec, load_model
from pgsrm.models.settings import ModelSettings
from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.advantages import rewards_to_go, token_rewards
from pgsrm.ppo.kl_control import next_coefficient
from pgsrm.ppo.losses import kl_divergence, masked_mean, policy_loss, token_entropy, token_logprobs, value_loss
from pgsrm.reward.output import normalise

parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--task", default="antonym", help="one of the shipped tasks")
parser.add_argument("--updates", type=int, default=200, help="gradient steps; each one has a batch of its own")
parser.add_argument("--batch", type=int, default=50, help="responses in an update")
parser.add_argument("--actor-lr", type=float, default=1e-4, help="learning rate of the policy")
parser.add_argument("--critic-lr", type=float, default=1e-3, help="learning rate of the value head")
parser.add_argument("--entropy-coef", type=float, default=0.005, help="keeps the policy from settling too soon")
parser.add_argument("--kl-coef", type=float, default=0.01, help="pulls the policy towards the model that it started as")
parser.add_argument("--kl-target", type=float, help="KL (nats a response) that an adaptive coefficient aims at")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

# What is asked, and what an answer is worth. The reward embeds both texts and compares the vectors: no answer has to be right
# to the letter, which is what makes the signal dense ("chilly" earns something where "cold" is the reference).
task = pgsrm.load_task(f"task={args.task}")
reward_of = pgsrm.build_reward(f"task={args.task}", "reward=pgsrm")

# Three models: the policy, which is trained; the reference, which stays what the policy was; a linear value head, which
# guesses from the prompt's last hidden state what the answer will earn. The head starts at zero.
settings, device = ModelSettings(), torch.device("cpu")
model = load_model(settings, device)
codec = load_codec(settings, model)  # between text and token ids; it knows which ids end a response
policy = SimplePolicy(model, copy.deepcopy(model), codec.eos)
value_head = torch.nn.Linear(policy.width, 1)
torch.nn.init.zeros_(value_head.weight)
torch.nn.init.zeros_(value_head.bias)
actor_optimizer = torch.optim.AdamW(model.parameters(), lr=args.actor_lr, fused=True)
critic_optimizer = torch.optim.AdamW(value_head.parameters(), lr=args.critic_lr, fused=True)
kl_coef = args.kl_coef

draws = torch.Generator().manual_seed(args.seed)  # prompts and tokens: all the randomness there is
sampling = Sampling(task.max_new_tokens, temperature=1.0)
prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train}


def exact_match() -> float:
    """Share of the prompts whose most probable answer is right."""
    texts, _ = codec.decode(policy.greedy(list(prompt_ids.values()), task.max_new_tokens))
    assert task.checker is not None
    right = [task.checker(text, e.reference, e.inputs) for text, e in zip(texts, task.train, strict=True)]
    return sum(right) / len(right)


print(f"{args.task}: {exact_match():.0%} right before training", flush=True)
started = time.perf_counter()
for update in range(1, args.updates + 1):
    # 1. Sample: one answer to each of B prompts, drawn with replacement.
    examples = [task.train[i] for i in torch.randint(len(task.train), (args.batch,), generator=draws).tolist()]
    prompts = [prompt_ids[example.prompt] for example in examples]
    uniforms = torch.rand(args.batch, task.max_new_tokens, generator=draws, dtype=torch.float64)
    responses = policy.sample(
        prompts, uniforms, sampling
    ).responses  # lists of ids; an EOS is kept where it was sampled

    # 2. Reward: a number for each answer, by its text. It stands at the last token, and is the return of all of them.
    texts, offsets = codec.decode(responses)
    output = reward_of(
        prompts=[example.prompt for example in examples],
        references=[example.reference for example in examples],
        responses=texts,
        inputs=[example.inputs for example in examples],
        token_ids=responses,
        offsets=offsets,
    )
    totals = torch.tensor(normalise(output, responses, "reward", texts).totals)  # (B,)

    # 3. What policy and reference say about these tokens. `place` (B, T) is where each token's distribution is among C.
    batch = policy.pad(prompts, responses)
    mask, tokens = (
        batch.response_mask,
        batch.response_ids,
    )  # (B, T); all up to the EOS, the EOS too: stopping is learned
    scores = policy.score(batch)  # with gradient
    place = scores.contexts.place
    logits, reference_logits = scores.logits[place], policy.score_reference(batch)[0][place]  # (B, T, V)
    logprobs, reference_logprobs = token_logprobs(logits, tokens), token_logprobs(reference_logits, tokens)  # (B, T)
    values = value_head(scores.prompt_hidden.detach()).squeeze(-1)  # (B,) the critic never moves the policy

    # 4. Advantage: what an answer earned beyond what was expected of its prompt.
    returns = rewards_to_go(token_rewards(totals, mask), mask)  # (B, T)
    advantages = (returns - values.detach().unsqueeze(-1)) * mask

    # 5. Losses. One gradient step per batch: the policy is the one that sampled, so PPO's ratio is 1 and there is nothing to clip.
    entropy = masked_mean(token_entropy(logits), mask)
    kl = masked_mean(kl_divergence("exact", logprobs, reference_logprobs, logits, reference_logits), mask)
    actor_loss = policy_loss(logprobs, logprobs.detach(), advantages, mask, clip_range=None)
    actor_loss = actor_loss - args.entropy_coef * entropy + kl_coef * kl
    critic_loss = 0.5 * value_loss(values, totals)

    # 6. Step.
    for loss, optimizer, module in (
        (actor_loss, actor_optimizer, model),
        (critic_loss, critic_optimizer, value_head),
    ):
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    # 7. Without a target the coefficient stays; with one it follows the KL that was measured on the sampled tokens.
    if args.kl_target is not None:
        sampled_kl = ((logprobs - reference_logprobs).detach() * mask).sum().item() / args.batch  # nats a response
        kl_coef = next_coefficient(kl_coef, sampled_kl, "ziegler", args.kl_target, args.batch, horizon=10_000)

    if update % 25 == 0 or update == args.updates:
        seconds = time.perf_counter() - started
        print(
            f"update {update:4}  reward {totals.mean():.3f}  entropy {entropy:.2f}  KL {kl:.3f}  {seconds:4.0f} s",
            flush=True,
        )

print(f"{args.task}: {exact_match():.0%} right after {args.updates * args.batch:,} answers")
