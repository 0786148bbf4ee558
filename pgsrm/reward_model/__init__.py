"""Preference pairs, and reward models trained on them: `python -m pgsrm.reward_model`, docs/reward_models.md."""
