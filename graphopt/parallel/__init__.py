"""Tasks on any `concurrent.futures` executor, with large arguments addressed by sha256 and sent to a worker once.

Tasks are cut by data, never by the number of workers, and results come in the order of the tasks, so that results are
the same on any number of workers. The caller waits until no task runs, so that timings, made in the caller's process,
are undisturbed.
"""

from .content import Content, content, digest_of
from .executors import executor_of
from .ordered import ordered, submit

__all__ = ["Content", "content", "digest_of", "executor_of", "ordered", "submit"]
