"""Take the 3,000 pool and 1,000 test photographs of ``fashion_mnist.npz`` from the original files.

    python examples/data/make_fashion_mnist.py DIR

DIR holds the four ``*-ubyte.gz`` files of Fashion-MNIST, as Debian's package ``dataset-fashion-mnist`` installs them.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    arrays = {"class_names": np.array(CLASSES)}
    for name, part, size in (("pool", "train", 3000), ("test", "t10k", 1000)):
        images, labels = read(folder, part)
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:size])
        arrays |= {f"X_{name}": images[chosen], f"y_{name}": labels[chosen]}
    np.savez_compressed(Path(__file__).with_name("fashion_mnist.npz"), **arrays)


if __name__ == "__main__":
    main()
