"""Several trainings in a row, each on what the steps before it made: SFT, a reward model, PPO."""
