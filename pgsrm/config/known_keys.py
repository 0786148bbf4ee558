"""The key that somebody meant: the nearest one there is, and what the field's other libraries call it."""

from collections.abc import Iterable
from difflib import get_close_matches

from pgsrm.util.paths import conf_folder

# Words of TRL, verl, transformers, Lightning, Stable-Baselines3, CleanRL and their like, for keys that are called otherwise here;
# with dots where the last part alone says too little.
_ELSEWHERE = {
    "ppo.actor_lr": "lr learning_rate actor_learning_rate policy_lr",
    "ppo.critic_lr": "critic_learning_rate value_lr value_learning_rate critic.optim.lr",
    "ppo.episodes": "num_episodes total_episodes n_episodes steps max_steps num_steps total_steps total_timesteps updates "
    "num_updates iterations train_steps num_train_epochs max_epochs total_epochs total_training_steps",
    "ppo.epochs": "num_epochs ppo_epochs num_ppo_epochs update_epochs n_epochs num_iterations",
    "ppo.batch_size": "bs batch train_batch_size per_device_train_batch_size rollout_batch_size n_steps num_envs",
    "ppo.minibatches": "num_mini_batches num_minibatches mini_batch_size minibatch_size ppo_mini_batch_size",
    "ppo.micro_batch": "micro_batch_size gradient_accumulation_steps ppo_micro_batch_size ppo_micro_batch_size_per_gpu",
    "ppo.kl_coef": "beta kl_beta kl_penalty init_kl_coef kl_coefficient kl_loss_coef",
    "ppo.kl_estimator": "kl_loss_type algorithm.kl_penalty",
    "ppo.kl_in": "use_kl_in_reward use_kl_loss",
    "ppo.kl_target": "target target_kl target_kl_div",
    "ppo.clip_range": "clip cliprange clip_eps clip_epsilon clip_ratio clip_coef epsilon eps_clip",
    "ppo.value_clip": "clip_vloss cliprange_value",
    "ppo.baseline": "adv_estimator advantage_estimator",
    "ppo.scale_by_group": "scale_rewards norm_adv_by_std_in_grpo",
    "ppo.dropout": "disable_dropout",
    "ppo.gae_lambda": "lam lambda gae_lam",
    "ppo.gamma": "discount discount_factor",
    "ppo.entropy_coef": "entropy ent_coef entropy_coeff entropy_bonus entropy_coefficient",
    "ppo.value_coef": "vf_coef value_loss_coef",
    "ppo.max_grad_norm": "grad_clip gradient_clip clip_grad clip_grad_norm",
    "ppo.group_size": "num_generations n_samples num_return_sequences rollout_n rollout.n",
    "ppo.whiten_advantages": "whiten whiten_rewards normalize_advantages norm_adv",
    "task.max_new_tokens": "max_tokens max_length response_length max_response_length max_completion_length",
    "task.max_input_words": "max_prompt_length max_prompt_tokens max_input_length max_source_length truncation",
    "task.data": "dataset data_path data_file dataset_name train_file train_files train_dataset",
    "task.template": "prompt prompt_template",
    "task.holdout": "test_size val_size validation_split test_split eval_split val_files validation_file eval_dataset",
    "model.path": "model_name model_name_or_path pretrained pretrained_model model_id checkpoint_path actor_rollout_ref.model.path",
    "model.dtype": "bf16 fp16 tf32 torch_dtype precision",
    "model.device": "cuda no_cuda use_cpu accelerator",
    "model.lora": "use_peft peft_config lora_r lora_rank lora_alpha",
    "algorithm.teacher": "teacher_model_name_or_path",
    "evaluation.every": "eval_every eval_steps eval_freq eval_interval test_freq check_val_every_n_epoch val_check_interval",
    "evaluation.samples": "log_completions num_completions_to_print",
    "stop.metric": "metric_for_best_model monitor",
    "stop.mode": "greater_is_better",
    "stop.patience": "early_stopping_patience",
    "stop.keep_best": "load_best_model_at_end save_top_k",
    "checkpoint.updates": "save_steps save_every save_freq save_interval",
    "checkpoint.keep": "save_last keep_last keep_checkpoint save_optimizer",
    "paths.outputs": "out output outputs output_dir out_dir log_dir logdir save_dir",
    "tracking.experiment": "experiment_name project project_name",
    "trackers": "report_to logger loggers track use_wandb",
    "tracking.uri": "tracking_uri mlflow_uri",
    "hydra.launcher.slots": "n_jobs jobs num_workers workers max_parallel parallel",
    "processes": "num_processes nproc world_size n_gpus num_gpus gpus devices n_gpus_per_node nproc_per_node",
    "threads": "num_threads n_threads torch_threads",
    "seed": "random_seed random_state rng",
    "dry_run": "dryrun plan",
}
# And words for what no key is needed for, or what there is not.
_INSTEAD = {
    "the same command resumes a run": "ckpt_path resume resume_from_checkpoint resume_mode",
    "`python -m pgsrm.push RUN --hub ORG/NAME` uploads the model of a finished run": "push_to_hub hub_model_id upload_model",
    "the model of a finished run is in its folder, in model/": "save_model",
    "a run's folder is named by what the run is": "run_name exp_name",
    "hydra/sweeper=search searches": "hparams_search",
    "W&B reads WANDB_PROJECT and WANDB_ENTITY": "wandb_project wandb_project_name wandb_entity",
    "learning rates are constant": "lr_scheduler_type lr_scheduler anneal_lr warmup_steps warmup_ratio lr_warmup_steps",
    "sampling has ppo.temperature and ppo.top_k": "top_p min_p repetition_penalty",
    "the policy samples itself": "use_vllm vllm_mode",
}
_WORDS = {word: remedy for remedy, words in _INSTEAD.items() for word in words.split()}
_MEANT = {word: key for key, words in _ELSEWHERE.items() for word in words.split()}
FREE_SECTIONS = ("reward", "embedder", "parent", "critic")  # whose keys depend on the choice
# What shipped choices take over from elsewhere in the config where nobody says otherwise, in the order in which they are followed
# back.
TAKEN_OVER = {
    "reward.embedder": "embedder",
    "reward.critic": "critic",
    "reward.checker": "task.checker",
    "reward.extrinsic": "task.extrinsic",
    "reward.parts.extrinsic": "task.extrinsic",
    "reward.values": "task.critic.values",
    "evaluation.measures": "task.measures",
    "task.measures.extrinsic": "task.extrinsic",
}
NAMED_BY_USERS = (
    "reward.parts",
    "reward.weights",
    "reward.normalise",
    "reward.values",
    "task.critic.values",
    "task.measures",
    "evaluation.measures",
)
_ORDER = ("ppo", "task", "reward", "model", "evaluation")  # of a name that several sections have


def algorithms_with(key: str) -> list[str]:
    """The algorithms that have a key `algorithm.NAME`; [] for every other key."""
    from pgsrm.algorithm.settings import Algorithm  # as `_known_keys`

    section, _, name = key.rpartition(".")
    if section != "algorithm":
        return []
    structs = Algorithm.__args__
    return [str(struct.__struct_config__.tag) for struct in structs if name in struct.__struct_fields__]


def instead(key: str) -> str | None:
    """What to do in the place of a key of another library that has no counterpart, in a few words; None for any other key."""
    return _WORDS.get(key.rpartition(".")[2].lower())


def meant(key: str, siblings: Iterable[str] = ()) -> str | None:
    """The full dotted key that is nearest to one that does not exist; None where none is near.

    siblings: the names that its section has in the composed config.
    """
    section, _, name = key.rpartition(".")
    known_keys = _known_keys()
    if section == "algorithm" and key in known_keys:  # it is right, under another algorithm
        return None
    known = known_keys + [f"{section}.{sibling}" if section else sibling for sibling in siblings]
    near = get_close_matches(name, siblings, n=1, cutoff=0.8)
    if near:
        return f"{section}.{near[0]}" if section else near[0]
    parts = key.lower().split(".")
    for start in range(len(parts)):
        if ".".join(parts[start:]) in _MEANT:
            return _MEANT[".".join(parts[start:])]
    same = sorted((k for k in known if k.rpartition(".")[2] == name), key=_rank)
    if same:
        return same[0]
    whole = get_close_matches(key, known, n=1, cutoff=0.8)
    if whole:
        return whole[0]
    last = {k.rpartition(".")[2]: k for k in sorted(known, key=_rank, reverse=True)}
    near = get_close_matches(name, list(last), n=1, cutoff=0.75)
    return last[near[0]] if near else None


def _known_keys() -> list[str]:
    """Every key of the schema, and of the shipped choices of what has no schema, as `reward.alpha`."""
    import msgspec  # `status` shares the module of messages, and does without these
    from omegaconf import OmegaConf

    from pgsrm.config.schema import Settings

    keys = []
    for field in msgspec.structs.fields(Settings):
        keys.append(field.name)
        types = (field.type, *getattr(field.type, "__args__", ()))
        structs = [t for t in types if hasattr(t, "__struct_fields__")]
        keys += [f"{field.name}.{name}" for struct in structs for name in struct.__struct_fields__]
    for group in FREE_SECTIONS:
        for file in sorted((conf_folder() / group).glob("*.yaml")):
            names = map(str, OmegaConf.load(file))
            keys += [f"{group}.{name}" for name in names if not name.startswith("_") and name != "defaults"]
    return list(dict.fromkeys(keys))


def _rank(key: str) -> tuple[bool, int, bool, str]:
    """What every run has comes before what a choice alone has: `device` means model.device, not that of reward=learned."""
    section = key.split(".")[0]
    place = _ORDER.index(section) if section in _ORDER else len(_ORDER)
    return section in FREE_SECTIONS, place, "." in key, key
