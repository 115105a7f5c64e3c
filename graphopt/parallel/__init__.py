"""Work on any executor of `concurrent.futures`: tasks on content that is addressed by its sha256 and travels once.

Tasks are cut by data, never by the number of workers, and results come in the order of the tasks, so that an answer is
the same on any number of workers. Whoever asks for results waits until no task runs: what is timed is timed alone, in
the process that asks.
"""

from .content import Content, content, digest_of
from .executors import executor_of
from .ordered import ordered, submit

__all__ = ["Content", "content", "digest_of", "executor_of", "ordered", "submit"]
