"""Many cases in one test. For a case without I/O, pytest itself takes a hundred times as long as the case."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest


def each(names: str | Sequence[str], cases: Iterable[Any], ids: Any = None) -> Callable[[Any], Any]:
    """Run a test with every case, and report each case that fails. The arguments are those of `pytest.mark.parametrize`.

    The fixtures of the test are the same for all its cases, so no case may depend on what another one leaves.
    """
    names = [names] if isinstance(names, str) else names
    is_single = len(names) == 1
    params = [
        case if isinstance(case, pytest.ParameterSet) else pytest.param(*([case] if is_single else case))
        for case in cases
    ]
    if not params:
        raise ValueError(f"there is no case for {', '.join(names)}")
    labels = [*ids] if isinstance(ids, Iterable) else [_label(param, ids or reprlib.repr) for param in params]
    labelled = [
        (label, dict(zip(names, param.values, strict=True))) for label, param in zip(labels, params, strict=True)
    ]

    def decorate(test: Any) -> Any:
        @wraps(test)
        def run(**fixtures: Any) -> None:
            failures: list[BaseException] = []
            for label, case in labelled:
                with _collect(failures, label):
                    test(**case, **fixtures)
            _report(failures, len(labelled))

        @wraps(test)
        async def run_async(**fixtures: Any) -> None:
            failures: list[BaseException] = []
            for label, case in labelled:
                with _collect(failures, label):
                    await test(**case, **fixtures)
            _report(failures, len(labelled))

        runner: Any = run_async if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        fixtures = [parameter for name, parameter in signature.parameters.items() if name not in names]
        runner.__signature__ = signature.replace(parameters=fixtures)
        return runner

    return decorate


def _label(param: pytest.ParameterSet, label_of_value: Callable[[Any], str]) -> str:
    return str(param.id) if param.id else ", ".join(map(label_of_value, param.values))


@contextmanager
def _collect(failures: list[BaseException], label: str) -> Iterator[None]:
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        error.add_note(f"in the case {label}")
        failures.append(error)


def _report(failures: Sequence[BaseException], cases: int) -> None:
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {cases} cases fail", failures)
