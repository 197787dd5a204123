"""Sessions for developers: ``nox -s lint``. ``.ci/run`` and ``.ci/nightly`` run the same ones in their environment."""

import nox

nox.options.sessions = ["lint", "tests"]


def install(session: nox.Session, extra: str) -> None:
    """The package with an extra, in the tested versions; ``session.install`` would not work in CI's environment."""
    session.run("python", "-m", "pip", "install", "-q", "-c", "tests/constraints.txt", "-e", f".[{extra}]")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, with the coverage of lines and branches: ``nox -s tests -- tests/query``."""
    install(session, "test")
    session.run("pytest", "--cov", *session.posargs)


@nox.session(venv_backend="none")
def oldest(session: nox.Session) -> None:
    """The tests with the oldest supported versions."""
    session.run("bash", ".ci/oldest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling and types."""
    install(session, "test,dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation in docs/_build, with the gallery; ``SKAL_GALLERY=sample`` runs two of its examples."""
    install(session, "docs")
    session.run("sphinx-build", "-q", "-W", "-n", "docs", "docs/_build", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: built, checked, and tested without the checkout."""
    install(session, "test,dev")
    session.run("bash", ".ci/package", external=True)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Speed and memory, as ratios within one run."""
    install(session, "test")
    session.run("pytest", "tests/benchmarks", *session.posargs)
