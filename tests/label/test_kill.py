"""A process that is killed at any time loses nothing it acknowledged, and records nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from skal.label import LabelSession
from tests.label.conftest import CLASSES, Client, draw, truth

pytest.importorskip("starlette", reason="the page needs the extra 'label'")

_SERVER = """
import json, sys
import numpy as np
from skal.label import LabelSession
from skal.label.server import Server
from tests.label.test_kill import Colours, first_ones

session = LabelSession(sys.argv[1], sys.argv[2], classes=("blue", "green", "red"), estimator=Colours(),
                       query=first_ones, batch_size=5)
server = Server(session)
print(json.dumps([server.port, server.keys.cookie_name, server.keys.cookie, server.keys.write]), flush=True)
server.run()
"""


class Colours:
    """A classifier of paths that needs no network: the nearest mean colour."""

    def get_params(self, deep=True):
        return {}

    def fit(self, X, y):
        import numpy as np

        self.classes_ = np.unique(y)
        features = self._features(X)
        self.means = np.stack([features[np.asarray(y) == label].mean(axis=0) for label in self.classes_])
        return self

    def predict_proba(self, X):
        import numpy as np

        distances = ((self._features(X)[:, None] - self.means) ** 2).sum(axis=2)
        scores = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / 1000)
        return scores / scores.sum(axis=1, keepdims=True)

    def _features(self, X):
        import numpy as np
        from PIL import Image

        return np.array([np.asarray(Image.open(path).convert("RGB")).mean(axis=(0, 1)) for path in X])


def first_ones(learner, X_pool, n_instances=1):
    return list(range(n_instances))


class Process:
    """A server in a separate process."""

    def __init__(self, folder, project):
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(folder), str(project)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.port, name, cookie, write = json.loads(self.process.stdout.readline())
        self.keys = type("Keys", (), {"cookie_name": name, "cookie": cookie, "write": write})

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def kill_many_times(tmp_path, n_kills, seed):
    """Label four images per second with kills at random times. Returns acknowledged answers and the last questions."""
    folder, project = tmp_path / "photos", tmp_path / "photos.skal"
    for i in range(600):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    rng = random.Random(seed)
    acknowledged, pending = {}, None
    for _ in range(n_kills):
        server = Process(folder, project)
        client = Client(server)
        end = time.monotonic() + rng.uniform(0.3, 1.5)
        timer = None
        try:
            questions = client.json("/api/questions?tab=t")["questions"]
            if pending is not None:
                event, question, label = pending  # the page resends what was not acknowledged
                assert client.post("/api/answer", event=event, image=question, label=label)[0] == 200
                acknowledged[event] = (question, label)
                pending = None
                questions = client.json("/api/questions?tab=t")["questions"]
            assert not {q["id"] for q in questions} & {image for image, _ in acknowledged.values()}
            timer = subprocess.Popen(["sleep", str(rng.uniform(0.0, 0.6))])
            while time.monotonic() < end:
                question = questions[0]
                label = truth(question["path"])
                pending = (uuid.uuid4().hex, question["id"], label)
                if timer.poll() is not None and rng.random() < 0.3:
                    server.process.send_signal(signal.SIGKILL)
                status, body = client.post("/api/answer", event=pending[0], image=question["id"], label=label)
                assert status == 200
                acknowledged[pending[0]] = (question["id"], label)
                pending, questions = None, body["questions"]
                time.sleep(rng.uniform(0, 0.25))
        except (OSError, ValueError, AssertionError) as error:
            if isinstance(error, AssertionError) and server.process.poll() is None:
                raise
        finally:
            if timer is not None:
                timer.wait()
            server.kill()
    return folder, project, acknowledged


def check(folder, project, acknowledged):
    with LabelSession(folder, project, estimator=Colours(), query=first_ones) as session:
        assert session._log.set_aside == [] or all("unfinished" in words for words in session._log.set_aside)
        events = [event["id"] for event in session._log.events if event["kind"] == "answer"]
        assert len(set(events)) == len(events)
        assert set(acknowledged) <= set(events)
        assert len(events) - len(acknowledged) <= 1  # the one being sent
        recorded = dict(zip(session.labels.image, session.labels.label, strict=True))
        assert all(recorded[image] == label for image, label in acknowledged.values())
        question = session.next()
        assert question is not None
        assert question.id not in recorded


@pytest.mark.slow
def test_kill_twice(tmp_path):
    check(*kill_many_times(tmp_path, 2, seed=0))


@pytest.mark.slow
def test_kill_fifty_times(tmp_path):
    check(*kill_many_times(tmp_path, 50, seed=1))
