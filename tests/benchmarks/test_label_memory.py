"""What a session keeps in memory for each image: ``pytest tests/benchmarks/test_label_memory.py -s``."""

import os
import subprocess
import sys

#: Opens a session on n files, waits until all are read, answers 200 questions, and says how much memory it takes.
_PROGRAM = """
import hashlib, os, sys, time
import numpy as np, psutil
from skal.label import LabelSession, catalogue
from skal.label.folder import Fingerprint

folder, n = sys.argv[1], int(sys.argv[2])

def fingerprint(path):  # as of a photograph, without decoding one
    digest = hashlib.sha512(os.fsencode(path)).digest()
    return Fingerprint(digest[:16].hex(), digest[:32], digest)

def first(learner, X_pool, n_instances=1):
    return np.arange(n_instances)

class Nothing:
    def get_params(self, deep=False):
        return {}

catalogue.read_fingerprint = fingerprint
start = time.perf_counter()
options = {"classes": ["a"], "estimator": Nothing(), "query": first, "batch_size": 10**9}
with LabelSession(folder, folder + ".skal", **options) as session:
    while session.status().background or len(session._catalogue.items) < n:
        time.sleep(0.2)
    seconds = time.perf_counter() - start
    before = psutil.Process().memory_info().rss
    for _ in range(200):
        session.answer(session.next().id, "a")
    print(before, psutil.Process().memory_info().rss, round(seconds, 1))
"""


def resident(folder, n):
    """Bytes after reading n files, and after 200 answers; seconds of reading."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(n)], capture_output=True, text=True, check=True
    )
    before, after, seconds = result.stdout.split()
    return int(before), int(after), float(seconds)


def test_an_image_takes_a_kilobyte(tmp_path, capsys):
    """No pixels and no features: names and fingerprints alone. Opened again, when all is remembered, as at first."""
    sizes = {}
    for n in (1_000, 100_000):
        folder = tmp_path / str(n)
        folder.mkdir()
        for i in range(n):
            os.close(os.open(folder / f"photograph-{i:06d}.jpg", os.O_CREAT))
        sizes[n] = resident(folder, n), resident(folder, n)
    for name, few, many in zip(("new", "opened again"), sizes[1_000], sizes[100_000], strict=True):
        each = (many[0] - few[0]) / 99_000
        with capsys.disabled():
            print(f"{name}: {each:.0f} bytes an image; 100,000 are read in {many[2]:.0f} s")
        assert each < 2_000
        assert many[1] - many[0] < 20e6  # answers add nothing to speak of
