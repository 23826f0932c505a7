"""Training: one LightningModule, its callbacks and losses, and the run folder that it leaves behind."""
