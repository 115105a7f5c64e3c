"""Loops of attention over caches."""
