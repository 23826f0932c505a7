"""The sampler loop and what it needs: settings, tiles, regions, memory."""
