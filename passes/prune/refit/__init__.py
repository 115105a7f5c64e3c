"""Recovery without training: layers refitted to what the original computed."""
