"""Image quality, measured: torchmetrics metrics that know their direction."""
