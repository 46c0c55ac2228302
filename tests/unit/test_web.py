"""The start of the web process."""

import gc

from app.web import GC_THRESHOLD, _tune_garbage_collector


def test_the_garbage_collector_which_start_up_disables_runs_again() -> None:
    before = gc.get_threshold()
    gc.disable()
    try:
        _tune_garbage_collector()

        assert gc.isenabled()
        assert GC_THRESHOLD == gc.get_threshold()[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
