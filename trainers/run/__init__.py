"""What every training run shares: recipe, model, data, trainer, checkpoints and record."""
