"""How to install the packages of an extra."""


def how_to_install(extra: str) -> str:
    """The install command, from the package index and in a checkout.

    Examples
    --------
    >>> how_to_install("onnx")
    "pip install 'skal-learn[onnx]', or in a checkout pip install -c tests/constraints.txt -e '.[onnx]'"
    """
    return f"pip install 'skal-learn[{extra}]', or in a checkout pip install -c tests/constraints.txt -e '.[{extra}]'"
