"""Importance of channels: from weights, or from calibration data."""
