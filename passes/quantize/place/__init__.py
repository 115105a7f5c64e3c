"""Which units run on integers: costs, minimum cut, and the guards of accuracy and latency."""
