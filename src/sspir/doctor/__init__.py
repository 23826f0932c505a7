"""What an experiment needs before it starts: files, photos, memory."""
