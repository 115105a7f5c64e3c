"""What each channel is worth."""
