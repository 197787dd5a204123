"""The server: the actions of a person, and the protection against everyone else."""

import concurrent.futures
import errno
import json
import os
import socket
import time

import pytest

pytest.importorskip("starlette", reason="the page needs the extra 'label'")

from skal.label import log as log_module
from skal.label.server import PAGE, Server
from tests.label.conftest import draw, truth

# ------------------------------------------------------------------------ actions of a person


def questions(client, tab="t"):
    return client.json(f"/api/questions?tab={tab}")["questions"]


def test_label_undo_unsure(client):
    first, second, *_ = questions(client)
    status, body = client.post("/api/answer", image=first["id"], label=truth(first["path"]), seconds=0.5)
    assert status == 200
    assert body["questions"][0] == second
    assert client.post("/api/unsure", image=second["id"])[0] == 200
    found = client.json("/api/status")
    assert (found["n_labels"], found["n_unsure"]) == (1, 1)
    assert client.post("/api/undo")[1]["undone"] == "unsure"
    status, body = client.post("/api/undo")
    assert [q["id"] for q in body["questions"][:2]] == [first["id"], second["id"]]
    assert client.post("/api/undo", tab="other")[1]["undone"] is None


def test_a_class_that_was_renamed_is_not_created_again_by_an_answer(client):
    first, second, *_ = questions(client)
    answer = {"image": first["id"], "label": "red", "event": "e1"}
    assert client.post("/api/answer", **answer)[0] == 200
    assert client.post("/api/rename", name="red", to="scarlet")[0] == 200
    assert client.post("/api/answer", **answer)[0] == 200  # sent again
    for path, further in (("/api/answer", {"image": second["id"]}), ("/api/grid", {"images": [], "rejected": []})):
        status, body = client.post(path, label="red", **further)
        assert status == 422
        assert "class 'red' no longer exists: it was renamed, merged or removed" in body["error"]
    status = client.json("/api/status")
    assert status["classes"] == ["blue", "green", "scarlet"]
    assert status["per_class"]["scarlet"] == 1
    assert client.post("/api/undo")[1]["classes"] == ["blue", "green", "red"]


def test_what_a_reloaded_page_was_given_is_not_taken_back(client):
    """The end of the old page may reach the server after the start of the new one."""
    questions = client.json("/api/questions?tab=t&visit=old&n=3")["questions"]
    assert client.json("/api/questions?tab=t&visit=new&n=3")["questions"] == questions
    client.post("/api/leave", visit="old")
    others = client.json("/api/questions?tab=other&n=3")["questions"]
    assert not {q["id"] for q in questions} & {q["id"] for q in others}
    client.post("/api/leave", visit="new")
    third = client.json("/api/questions?tab=third&n=3")["questions"]
    assert third == questions


def test_what_a_page_had_that_stopped_asking_is_given_to_others(client, monkeypatch):
    clock = time.monotonic()
    for tab, query in (("page", "&polls=1"), ("widget", "")):
        questions(client, tab)
        client.json(f"/api/status?tab={tab}{query}")
    had = {tab: [q["id"] for q in questions(client, tab)] for tab in ("page", "widget")}
    monkeypatch.setattr("skal.label.asking.monotonic", lambda: clock + 60)
    assert [q["id"] for q in questions(client, "other")] == had["page"]


def test_paths_are_shown_relative(client):
    assert all(not os.path.isabs(q["path"]) and q["path"].endswith(".png") for q in questions(client))


def test_classes(client):
    assert client.post("/api/class", name=" owl ")[1]["classes"][-1] == "owl"
    assert client.post("/api/rename", name="owl", to="hawk")[1] == {
        "name": "hawk",
        "classes": ["blue", "green", "red", "hawk"],
    }
    for name in ("../x", "a\0", "HAWK", ""):
        status, body = client.post("/api/class", name=name)
        assert status == 422
        assert body["error"]


def test_grid_and_review(serve, opened):
    session = opened(batch_size=10_000, audit=0)
    client = serve(session)
    while session.status().progress < 1:
        time.sleep(0.01)
    for _ in range(24):
        question = questions(client)[0]
        client.post("/api/answer", image=question["id"], label=truth(question["path"]))
    session.fit()
    label = max(session.classes, key=lambda name: len(session.grid(name)))
    cells = client.json(f"/api/grid?label={label}&n=5")["questions"]
    images = [cell["id"] for cell in cells]
    status, _ = client.post("/api/grid", label=label, images=images[:-1], rejected=images[-1:], seconds=2)
    assert status == 200
    assert client.json("/api/status")["n_labels"] == 24 + len(images) - 1
    question = questions(client)[0]
    client.post("/api/unsure", image=question["id"])
    (doubt, *_) = client.json("/api/review")["questions"]
    assert (doubt["id"], doubt["kind"]) == (question["id"], "unsure")
    assert client.post("/api/answer", image=doubt["id"], label="red", why="review")[0] == 200


def test_images_are_made_anew(client, tmp_path):
    question = questions(client)[0]
    status, headers, body = client.get(f"/image/{question['id']}?side=100")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert body[:3] == b"\xff\xd8\xff"
    assert body != (tmp_path / "photos" / question["path"]).read_bytes()
    assert "immutable" in headers["cache-control"]


def test_a_full_disk_is_an_error_until_the_log_is_checked(client, monkeypatch):
    question = questions(client)[0]

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "_write", full)
        status, body = client.post("/api/answer", event="e1", image=question["id"], label="red")
    assert status == 507
    assert "No space left" in body["error"]
    assert client.post("/api/answer", event="e1", image=question["id"], label="red")[0] == 507
    assert not client.json("/api/status")["is_writable"]
    assert client.post("/api/reopen")[0] == 200
    assert client.post("/api/answer", event="e1", image=question["id"], label="red")[0] == 200
    assert client.json("/api/status")["n_labels"] == 1


@pytest.mark.parametrize("event", ["answer", "unsure", "undo", "class", "rename", "grid"])
def test_malformed_actions(client, event):
    image = questions(client)[0]["id"]
    valid = {
        "answer": {"image": image, "label": "red"},
        "unsure": {"image": image},
        "undo": {},
        "class": {"name": "x"},
        "rename": {"name": "red", "to": "x"},
        "grid": {"label": "red", "images": [image], "rejected": []},
    }[event]
    n = client.json("/api/status")["n_labels"]
    for name in (*valid, "tab", "event"):
        for wrong in (None, 7, [], {}, "x" * 2000, [1], "\ud800"):
            if wrong == [] and name in ("images", "rejected"):
                continue  # all of a grid can be wrong, or right
            status, _ = client.post(f"/api/{event}", **{**valid, name: wrong})
            assert status == 422, (name, wrong)
    for body in (b"", b"[]", b"{", b"\xff", b'{"seconds": NaN}', b"[" * 100_000):
        assert client.send("POST", f"/api/{event}", body)[0] == 400
    assert client.json("/api/status")["n_labels"] == n


def test_every_file_of_the_page_is_there(client):
    status, _, body = client.get("/")
    assert status == 200
    assert client.server.keys.write in body.decode()
    for name, kind in PAGE.items():
        status, headers, body = client.get(f"/page/{name}")
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
        assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")  # no request to another host


# ------------------------------------------------------------------------ access


def test_the_link_is_for_one_use_and_for_its_owner(client):
    link = client.server.link
    assert (link.stat().st_mode & 0o777) == 0o600
    url = link.read_text().split("url=")[1].split('"')[0]
    path = url.split(str(client.server.port))[1]
    status, headers, body = client.get(path, Cookie=None)
    assert status == 200
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"skal_{client.server.port}=")
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert b"url=/" in body
    assert client.get(path, Cookie=None)[0] == 403
    assert url not in link.read_text()  # a new token
    assert client.get("/", Cookie=cookie.split(";")[0])[0] == 200


def test_the_link_opens_the_page_when_the_disk_is_full(client, monkeypatch):
    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skal.label.server.os.replace", full)
    status, headers, _ = client.get(f"/open?token={client.server.keys.entry}", Cookie=None)
    assert status == 200
    assert client.get("/", Cookie=headers["set-cookie"].split(";")[0])[0] == 200


@pytest.mark.parametrize("cookie", [None, "", "skal_1=x", "\\", "a=b; skal", "x" * 5000])
def test_without_the_cookie_nothing(client, cookie):
    image = questions(client)[0]["id"]
    for path in ("/", "/page/main.js", f"/image/{image}", "/api/status", "/api/questions?tab=t", "/nothing"):
        assert client.get(path, Cookie=cookie)[0] == 403
    assert client.send("POST", "/api/undo", {}, Cookie=cookie)[0] == 403
    name = client.server.keys.cookie_name
    assert client.get("/", Cookie=f"{name}={client.server.keys.cookie[:-1]}x")[0] == 403


@pytest.mark.parametrize("token", [None, "", "x", "é"])
def test_without_the_token_nothing_is_written(client, token):
    image = questions(client)[0]["id"]
    body = {"tab": "t", "event": "e", "image": image, "label": "red"}
    encoded = None if token is None else token.encode("utf-8").decode("latin-1")
    status, _, _ = client.send("POST", "/api/answer", body, X_Skal_Token=encoded)
    assert status == 403
    assert client.json("/api/status")["n_labels"] == 0


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}"]
)
def test_foreign_hosts(client, host):
    name = None if host is None else host.format(port=client.server.port)
    assert client.get("/", Host=name)[0] in (400, 421)
    assert client.get("/open?token=" + client.server.keys.entry, Host=name)[0] in (400, 421)
    assert client.get("/", Host=f"localhost:{client.server.port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://{host}"])
def test_foreign_origins(client, origin):
    name = origin.format(host=client.host)
    assert client.send("POST", "/api/undo", {"tab": "t", "event": "e"}, Origin=name)[0] == 403
    assert client.get("/api/status", Origin=name)[0] == 403
    assert client.send("POST", "/api/undo", {"tab": "t", "event": "e"}, Origin=f"http://{client.host}")[0] == 200
    assert client.get("/api/status", Sec_Fetch_Site="cross-site")[0] == 403


def test_headers_that_protect(client):
    for path in ("/", "/api/status", "/page/main.js", "/nothing", f"/image/{questions(client)[0]['id']}"):
        _, headers, _ = client.get(path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers


def test_remote_must_be_allowed(session):
    with pytest.raises(ValueError, match="gives other machines access"):
        Server(session, host="0.0.0.0")
    server = Server(session, host="0.0.0.0", allow_remote=True)
    server.stop()


def test_a_project_has_the_same_port_each_time(session):
    """An open page sends what is not saved yet to a restarted server, and browsers keep its keys per port."""
    first = Server(session)
    meanwhile = Server(session)
    first.stop()
    again = Server(session)
    assert again.port == first.port != meanwhile.port
    meanwhile.stop()
    again.stop()


def test_a_port_that_is_taken(session):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match="cannot be used"):
            Server(session, port=other.getsockname()[1])


# ------------------------------------------------------------------------ attacks

PATHS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e%252fetc%252fpasswd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "day0%2fblue-00.png",
    "day0/blue-00.png",
    "..\\..\\labels.jsonl",
    "main.js%00.png",
    "%00",
    "0" * 32,
    "x" * 4000,
    "__init__.py",
    "../server.py",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_ever_opened(client, path):
    for folder in ("/image/", "/page/"):
        status, _, body = client.get(folder + path)
        assert status in (400, 404)
        assert b"root:" not in body
        assert b"import" not in body


def test_links_that_leave_the_folder_are_not_served(photos, tmp_path, serve, opened):
    draw(tmp_path / "secret.png", "red", 5)
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "inside.png").symlink_to(photos / "day0" / "blue-00.png")
    (photos / "folder").symlink_to("/etc")
    session = opened()
    while not session._reading.is_done:
        time.sleep(0.01)
    files = [os.path.realpath(session.file(image)) for image in list(session._catalogue.items)]
    assert all(".." not in os.path.relpath(file, photos) for file in files)
    assert session.status().n_images == 60


def test_links_are_served_if_they_may_be(photos, tmp_path, serve, opened):
    draw(tmp_path / "else" / "red-x.png", "red", 5)
    (photos / "else").symlink_to(tmp_path / "else")
    session = opened(follow_links=True)
    while not session._reading.is_done:
        time.sleep(0.01)
    (image,) = [item.id for item in session._catalogue.order if item.path == "else/red-x.png"]
    assert serve(session).get(f"/image/{image}")[0] == 200


def test_a_file_that_is_replaced_while_it_is_served(photos, client):
    question = questions(client)[0]
    file = photos / question["path"]
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert client.get(f"/image/{question['id']}")[0] == 410
    assert question["id"] not in [q["id"] for q in questions(client)]
    other = questions(client)[0]
    draw(photos / other["path"], "red", 4321)
    assert client.get(f"/image/{other['id']}")[0] == 410
    assert client.post("/api/answer", image=other["id"], label="red")[0] == 422


def test_a_gigabyte_is_not_read(client):
    start = time.monotonic()
    status, _, _ = client.send("POST", "/api/answer", b"{}", Content_Length=str(1 << 30))
    assert status == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=30) as raw:
        head = f"POST /api/answer HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\n"
        head += f"X-Skal-Token: {client.server.keys.write}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode())
        sent = 0
        try:
            while sent < 1 << 30:
                raw.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert sent < 64 << 20
    assert time.monotonic() - start < 20
    assert client.json("/api/status")["n_labels"] == 0


def test_many_events_at_once(client):
    """Each is sent twice under its name, all at the same time. Acknowledged events are recorded once."""
    images = [q["id"] for q in client.json("/api/questions?tab=t&n=40")["questions"]]
    events = [(f"e{i}-{k}", image) for i, image in enumerate(images) for k in range(5)] * 2

    def send(event):
        return client.post("/api/answer", event=event[0], image=event[1], label="red")[0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(send, events))
    assert set(statuses) == {200}
    lines = [json.loads(line) for line in client.server.link.with_name("labels.jsonl").read_text().splitlines()]
    recorded = [line["id"] for line in lines if line["kind"] == "answer"]
    assert sorted(recorded) == sorted({event for event, _ in events})
    assert client.json("/api/status")["n_labels"] == len(images)


@pytest.mark.slow
def test_ten_thousand_events_at_once(client):
    image = questions(client)[0]["id"]

    def send(i):
        return client.post("/api/answer", event=f"e{i}", image=image, label="red")[0]

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(send, range(10_000)))
    assert set(statuses) <= {200, 503}
    lines = client.server.link.with_name("labels.jsonl").read_text().splitlines()
    assert sum('"kind":"answer"' in line for line in lines) == statuses.count(200)


def test_html_in_names_stays_text(tmp_path, serve, opened):
    folder = tmp_path / "odd"
    name = "<img src=x onerror=alert(1)>&amp;'\".png"
    draw(folder / name, "red", 1)
    client = serve(opened(folder=folder, project=tmp_path / "<b>odd", audit=0))
    assert questions(client)[0]["path"] == name
    page = client.get("/")[2].decode()
    assert "<b>odd" not in page
    assert "&lt;b&gt;odd" in page
    assert client.get("/api/questions?tab=t")[1]["content-type"] == "application/json"


def test_no_secret_is_written_anywhere(client, tmp_path, capfd):
    keys = client.server.keys
    client.get(f"/open?token={keys.entry}", Cookie=None)
    questions(client)
    client.get("/nothing")
    secrets = [keys.cookie, keys.write]
    out = "".join(capfd.readouterr())
    for path in client.server.link.parent.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets)
    assert not any(secret in out for secret in [*secrets, keys.entry])


@pytest.mark.slow
def test_a_folder_with_a_hundred_thousand_files(tmp_path, opened):
    folder = tmp_path / "many"
    draw(folder / "red-0.png", "red", 0)
    content = (folder / "red-0.png").read_bytes()
    for i in range(100):
        (folder / str(i)).mkdir()
        for k in range(1000):
            (folder / str(i) / f"{k}.png").write_bytes(content[:-12] + i.to_bytes(2, "big") + k.to_bytes(2, "big"))
    start = time.monotonic()
    session = opened(folder=folder, project=tmp_path / "p", audit=0, query=None)
    question = session.next(timeout=30)
    print("first question after", time.monotonic() - start)
    assert question is not None
    assert time.monotonic() - start < 15


def test_answers_do_not_wait_for_nagle(client):
    question = questions(client)[0]
    times = []
    for i in range(30):
        start = time.perf_counter()
        client.post("/api/answer", event=f"e{i}", image=question["id"], label="red")
        times.append(time.perf_counter() - start)
    print("median answer", sorted(times)[15])
    assert min(times) < 0.04
