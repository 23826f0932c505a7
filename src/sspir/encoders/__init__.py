"""Text and image encoders: the explicit and the implicit semantic prior."""
