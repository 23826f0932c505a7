"""Photo files to pictures and back, and pictures for people."""
