"""A Celery task without results, in Redis."""

import os

from celery import Celery

queue = Celery("peer", broker=os.environ["REDIS_URL"])
queue.conf.task_ignore_result = True


@queue.task(name="visit")
def apply_visit(id: str, body: str) -> None:
    """Only enqueued, never run."""
