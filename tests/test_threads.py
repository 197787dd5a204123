"""The limit on BLAS while small problems are solved."""

from contextlib import ExitStack

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from skal._threads import one_blas_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_who_leaves_first_does_not_lift_the_limit_and_who_leaves_last_does():
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        with ExitStack() as first, ExitStack() as second:
            first.enter_context(one_blas_thread())
            second.enter_context(one_blas_thread())
            assert blas_threads() == {1}
            first.close()
            assert blas_threads() == {1}
            second.close()
            assert blas_threads() == before


def test_an_error_inside_lifts_the_limit():
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        with pytest.raises(RuntimeError, match="inside"), one_blas_thread():
            raise RuntimeError("inside")
        assert blas_threads() == before
