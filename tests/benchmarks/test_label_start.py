"""From the command to the first image of a folder: ``pytest tests/benchmarks/test_label_start.py -s``."""

import http.cookiejar
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page needs the extra 'label'")


def photographs(folder, n):
    """Small JPEG files, all different."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        spots = Image.fromarray(rng.integers(0, 256, size=(6, 6, 3), dtype=np.uint8))
        spots.resize((160, 120), Image.Resampling.BILINEAR).save(folder / f"{i:06d}.jpg", quality=80)
    return folder


def seconds_to_the_first_image(folder, *further):
    """Run ``skal label`` as a person does, and load what the page loads, until the first image is there."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-u",
        "-m",
        "skal.cli",
        "label",
        str(folder),
        "--classes",
        "a",
        "b",
        "--no-browser",
        *further,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            link = next(line for line in process.stdout if "from this file:" in line).split(": ")[1].strip()
            with open(link, encoding="utf-8") as file:
                url = re.search('url=([^"]+)', file.read())[1]
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
            opener.open(url).read()
            page = url.split("/open")[0]
            opener.open(f"{page}/").read()
            questions = json.load(opener.open(f"{page}/api/questions?tab=t&n=8"))["questions"]
            assert len(opener.open(f"{page}/image/{questions[0]['id']}?side=1024").read()) > 100
            return time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGINT)


def test_a_person_starts_at_once(tmp_path, capsys):
    """With 10,000 photographs as with 20, since PyTorch is imported behind the page."""
    folders = [photographs(tmp_path / str(n), n) for n in (20, 10_000)]
    few, many = [seconds_to_the_first_image(folder) for folder in folders]
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{i:06d}.jpg,{'ab'[i % 2]}\n" for i in range(10_000)))
    project = str(tmp_path / "imported.skal")
    imported = seconds_to_the_first_image(folders[1], "--import", str(labels), "--project", project)
    with capsys.disabled():
        print(f"first image of 20: {few:.2f} s, of 10,000: {many:.2f} s, with 10,000 labels: {imported:.2f} s")
    assert max(few, many, imported) < 5
