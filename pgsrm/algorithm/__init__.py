"""What trains a policy and is not PPO. So far: supervised fine-tuning, `python -m pgsrm.algorithm sft`."""
