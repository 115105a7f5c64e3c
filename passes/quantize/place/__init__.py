"""Place units on integers or float: costs, minimum cut, the guards of accuracy and latency, and their refinements."""
