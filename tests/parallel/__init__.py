"""Workers: tasks on any executor, the same answer on any number of them."""
