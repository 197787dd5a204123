"""Selection of the device that a network runs on."""

from __future__ import annotations

import torch


def find_device(device: str | torch.device) -> str:
    """Name of the device to use, checked for availability.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is CUDA if available, else the CPU. Anything else is the name of a device, such as ``"cpu"``,
        ``"cuda"`` or ``"cuda:1"``.

    Returns
    -------
    device : str

    Raises
    ------
    ValueError
        If the device does not exist; the message lists the available ones.

    Examples
    --------
    >>> find_device("cpu")
    'cpu'
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
    }
    if device == "auto":
        return "cuda" if counts["cuda"] else "cpu"
    available = ["cpu"]
    for kind, count in counts.items():
        available += [kind] * (count > 0) + [f"{kind}:{i}" for i in range(count)]
    name = str(device)
    if name not in available:
        raise ValueError(f"device={str(device)!r} is not available; use 'auto' or one of {available}")
    return name
