"""The notebook widget: its messages without a browser, and its module in a browser."""

import base64
import io
import json
import uuid

import pytest
from PIL import Image

from skal.label.log import LogError
from tests.label.browser import BROWSER_TEST
from tests.label.conftest import CLASSES, truth

pytest.importorskip("anywidget", reason="the widget needs the extra 'notebook'")

from skal.label.widget import LabelWidget, one_module


class Notebook:
    """Acts like a notebook: sends a message and receives the answer with the same id."""

    def __init__(self, session, monkeypatch):
        self.widget, self.answers = LabelWidget(session), {}
        monkeypatch.setattr(self.widget, "send", self._take)

    def _take(self, content, buffers=None):
        content = json.loads(json.dumps(content))
        self.answers[content["id"]] = content["status"], content["body"], buffers

    def say(self, message):
        self.widget._handle_custom_msg(message, [])
        return self.answers.get(message["id"] if isinstance(message, dict) else None)

    def ask(self, kind, path, **body):
        message = {"id": uuid.uuid4().hex, "kind": kind, "path": path}
        return self.say({**message, "body": {"tab": "t", "event": uuid.uuid4().hex, **body}})

    def image(self, image, side="256"):
        return self.say({"id": uuid.uuid4().hex, "kind": "image", "image": image, "side": side})


@pytest.fixture
def notebook(opened, monkeypatch):
    session = opened(batch_size=10_000)
    return Notebook(session, monkeypatch), session


def test_a_question_its_picture_an_answer_and_undo(notebook):
    cell, session = notebook
    status, body, _ = cell.ask("read", "/api/questions", n="3")
    assert status == 200
    first, second, _ = body["questions"]
    assert not first["path"].startswith("/")
    status, _, (picture,) = cell.image(first["id"])
    assert status == 200
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
    status, body, _ = cell.ask("act", "/api/answer", image=first["id"], label=truth(first["path"]), n="3")
    assert (status, body["questions"][0]["id"]) == (200, second["id"])
    assert session.labels.label.tolist() == [truth(first["path"])]
    status, body, _ = cell.ask("act", "/api/undo", n="3")
    assert (status, body["undone"], body["questions"][0]["id"]) == (200, "answer", first["id"])
    assert cell.ask("read", "/api/status")[1]["classes"] == list(CLASSES)


def test_errors_are_said(notebook, monkeypatch):
    cell, session = notebook
    assert cell.ask("act", "/api/answer", image="no such", label="red")[0] == 422
    assert cell.image("../../etc/passwd") == (404, {"error": "not found"}, [])

    def full(*args, **keywords):
        raise LogError("No space left on device")

    monkeypatch.setattr(session, "add_class", full)
    assert cell.ask("act", "/api/class", name="owl")[:2] == (507, {"error": "No space left on device"})


@pytest.mark.parametrize(
    "message",
    [
        {"id": "1"},
        {"id": "1", "kind": "read", "path": "/api/answer", "body": {}},
        {"id": "1", "kind": "act", "path": "/api/status", "body": {}},
        {"id": "1", "kind": "act", "path": "/api/answer", "body": []},
        {"id": "1", "kind": [], "path": {}, "body": {}},
    ],
)
def test_messages_that_are_not_understood(notebook, message):
    assert notebook[0].say(message)[0] == 400


@pytest.mark.parametrize("message", [None, [], "x", {}, {"id": 7}])
def test_messages_without_an_id_are_passed_over(notebook, message):
    cell, _ = notebook
    cell.widget._handle_custom_msg(message, [])
    assert cell.answers == {}


def test_the_module_stands_alone():
    assert "import " not in [line[:7] for line in one_module().splitlines()]
    assert one_module().count("export default") == 1


_HARNESS = """async (source) => {
  const listeners = new Set();
  const model = {
    on: (name, listener) => listeners.add(listener),
    off: (name, listener) => listeners.delete(listener),
    send: async (content) => {
      const { answer, pictures } = await window.say(content);
      const buffers = pictures.map((text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0)));
      for (const listener of listeners) listener(answer, buffers);
    },
  };
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  widget.render({ model, el: document.body });
}"""


def _marked(test):
    for mark in BROWSER_TEST:
        test = mark(test)
    return test


@_marked
def test_a_person_labels_in_a_notebook(notebook, browser):
    """The keys of the page, over messages."""
    cell, session = notebook
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def say(content):
        status, body, pictures = cell.say(content)
        answer = {"id": content["id"], "status": status, "body": body}
        return {"answer": answer, "pictures": [base64.b64encode(picture).decode() for picture in pictures]}

    page.expose_function("say", say)
    page.evaluate(_HARNESS, one_module())
    page.wait_for_selector(".stage img")
    page.wait_for_selector("button[data-label=red]")
    page.focus(".skal-label")
    for key in ("1", " ", "Backspace", "3"):
        before = page.get_attribute(".stage img", "data-id")
        page.keyboard.press(key)
        page.wait_for_function("id => document.querySelector('.stage img')?.dataset.id !== id", arg=before)
        page.wait_for_function("() => document.querySelector('.stage img').naturalWidth > 0")
    page.fill("input", "owl")
    page.keyboard.press("Enter")
    page.wait_for_selector("button[data-label=owl]")
    page.wait_for_function("() => document.querySelector('.skal-label').innerText.includes('2 labels of 60 images')")
    assert session.labels.label.tolist() == [CLASSES[0], CLASSES[2]]
    assert complaints == []
    page.close()
