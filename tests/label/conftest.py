"""A folder of small pictures with classes by colour, and sessions on it."""

import http.client
import json
import shutil
import time
import uuid

import numpy as np
import pytest
from PIL import Image

from skal import FrozenPrefixClassifier, ImageTransform
from skal.label import LabelSession

CLASSES = ("blue", "green", "red")
_COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def draw(path, label, seed):
    """A picture of a class, different from all others."""
    rng = np.random.default_rng(seed)
    pixels = np.array(_COLOURS[label]) + rng.integers(-40, 40, size=(24, 24, 3))
    for _ in range(3):
        top, left = rng.integers(0, 16, size=2)
        pixels[top : top + 8, left : left + 8] += rng.integers(-60, 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def draw_again(path):
    """A near-duplicate of a picture, beside it."""
    with Image.open(path) as image:
        image.save(path.with_name(f"{path.stem}-again.jpg"), quality=97)


def draw_twice(folder, n):
    """Pictures of all classes in turn, each with a near-duplicate."""
    for i in range(n):
        path = folder / f"{CLASSES[i % 3]}-{i}.png"
        draw(path, CLASSES[i % 3], i)
        draw_again(path)
    return folder


def truth(path):
    """The class of a picture, from its name."""
    return str(path).rsplit("/", 1)[-1].split("-")[0]


@pytest.fixture
def photos(tmp_path):
    """60 pictures of three classes in two folders."""
    folder = tmp_path / "photos"
    for i in range(60):
        label = CLASSES[i % 3]
        draw(folder / f"day{i % 2}" / f"{label}-{i:02d}.png", label, i)
    return folder


@pytest.fixture
def estimator(convnet):
    return FrozenPrefixClassifier(
        convnet, preprocess=ImageTransform(16, 16), n_frozen=2, max_epochs=2, min_steps=0, random_state=0
    )


@pytest.fixture
def opened(photos, tmp_path, estimator):
    """Opens sessions, and closes them at the end."""
    sessions = []

    def start(folder=photos, project=tmp_path / "photos.skal", **options):
        session = LabelSession(folder, project, **{"estimator": estimator, "classes": CLASSES, **options})
        sessions.append(session)
        return session

    yield start
    for session in sessions:
        session.close()


@pytest.fixture
def session(opened):
    return opened()


def settled(session, seconds=60):
    """Wait until the background has nothing to do."""
    modelling, end = session._modelling, time.monotonic() + seconds

    def is_idle():
        if modelling.doing or not session._reading.is_done or not session._imports.is_idle:
            return False
        is_idle = modelling.next_task() is None
        modelling.doing = ""
        return is_idle

    with session._changed:
        while not is_idle():
            session._changed.wait(0.02)
            assert time.monotonic() < end
    return session


def label_all(session, n=None, tab=""):
    """Answer n questions, or all, correctly. Returns the questions."""
    questions = []
    while n is None or len(questions) < n:
        question = session.next(tab)
        if question is None:
            break
        session.answer(question.id, truth(question.path), seconds=1.0, tab=tab)
        questions.append(question)
    return questions


def never(learner, X_pool, n_instances=1):
    """A strategy that picks the first images."""
    return np.arange(n_instances)


@pytest.fixture
def quiet(opened):
    """Opens sessions that do not train on their own."""
    return lambda **options: opened(**{"batch_size": 10_000, "query": never, **options})


def killed(session, tmp_path, number, **options):
    """Another session on a copy of the project in its current state on disk."""
    copy = tmp_path / f"copy{number}.skal"
    # The session that is still open may rename a temporary file while the folder is copied.
    shutil.copytree(session.project.path, copy, ignore=shutil.ignore_patterns("*.tmp"))
    return LabelSession(tmp_path / "photos", copy, estimator=session._modelling._estimator, **options)


class Client:
    """A browser without a page: requests over a real socket, with the required cookie and token."""

    def __init__(self, server):
        self.server = server
        self.host = f"127.0.0.1:{server.port}"
        self.cookie = f"{server.keys.cookie_name}={server.keys.cookie}"

    def send(self, method, path, body=None, **headers):
        """Status, headers and body of a request. Headers that are None are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        sent = {"Host": self.host, "Cookie": self.cookie}
        if method == "POST":
            sent |= {"X-Skal-Token": self.server.keys.write, "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        if content is not None and "Content-Length" not in sent:
            connection.putheader("Content-Length", str(len(content)))
        try:
            connection.endheaders()
            if content:
                connection.send(content)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.send("GET", path, **headers)

    def json(self, path):
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path, **body):
        status, _, content = self.send("POST", path, {"tab": "t", "event": uuid.uuid4().hex, **body})
        return status, json.loads(content)


@pytest.fixture
def serve():
    """Serves sessions in a thread and stops at the end."""
    pytest.importorskip("starlette", reason="the page needs the extra 'label'")
    from skal.label.server import Server

    servers = []

    def start(session, **options):
        server = Server(session, **options)
        server.start()
        servers.append(server)
        return Client(server)

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def client(serve, opened):
    return serve(opened(batch_size=10_000))


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
    from tests.label.browser import ARGUMENTS, CHROMIUM

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page of a client in a new browser. Any error in the browser fails the test."""
    contexts, complaints = [], []

    def complain(message, tolerated):
        if message.type == "error" and not any(code in message.text for code in tolerated):
            complaints.append(message.text)

    def is_own(url):
        return url.startswith(("http://127.0.0.1:", "file:"))

    def start(client, width=1280, height=800, scheme="light", context=None, tolerated=("507", "422")):
        own = context or browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        if context is None:
            own.set_default_timeout(120_000)  # wait for states even on a busy machine
            contexts.append(own)
        page = own.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complain(message, tolerated))
        page.on("request", lambda request: None if is_own(request.url) else complaints.append(request.url))
        page.goto(client.server.link.as_uri() if context is None else f"http://{client.host}/")
        page.wait_for_selector("#stage img")
        page.wait_for_selector("#classes button")
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []
