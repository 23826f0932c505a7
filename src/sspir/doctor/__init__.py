"""The needs of an experiment before it starts: files, photos, memory."""
