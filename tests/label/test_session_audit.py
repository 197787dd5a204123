"""The accuracy of a session is honest: nothing is trained on what it is measured on."""

import pytest

from skal.label.audit import wilson_interval
from tests.label.conftest import CLASSES, draw, label_all, settled, truth


def test_reserved_images_train_nothing(opened):
    session = settled(opened(audit=0.5))
    label_all(session, 40)
    reserved = {item.id for item in session._catalogue.reserved}
    assert not {item.id for item, _ in session._modelling.training()} & reserved
    session.import_labels([(item.path, "red") for item in session._catalogue.reserved], "x")
    assert not {item.id for item, _ in session._modelling.training()} & reserved


def test_accuracy_is_agreement_on_the_audit_with_its_interval(tmp_path, opened):
    folder = tmp_path / "many"
    for i in range(150):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=tmp_path / "p", audit=0.5, target=0.6, batch_size=10_000))
    label_all(session, 58)
    session.fit()
    status = session.status()
    assert status.n_audit == 29
    assert status.accuracy is None
    label_all(session, 2)
    status = session.status()
    assert status.n_audit == 30
    predicted = session._desk.snapshot.predictions()
    answered = session.labels[session.labels.why == "audit"]
    n_right = sum(predicted[image] == label for image, label in zip(answered.image, answered.label, strict=True))
    assert status.accuracy == n_right / 30
    assert status.interval == wilson_interval(n_right, 30)
    assert sum(recall.n for recall in status.recalls) == 30
    # A new reserved image before the last answered one: no number until it is answered.
    item = session._catalogue.reserved[-1]
    session._catalogue.reserved.remove(item)
    item.place = 0
    session._catalogue.reserved.insert(0, item)
    status = session.status()
    assert status.accuracy is None
    assert "Audit images are missing" in status.stop_hint
    session.answer(item.id, truth(item.path))
    assert session.status().accuracy is not None


def test_the_target_is_tested_at_its_looks_alone(tmp_path, opened):
    folder = tmp_path / "many"
    for i in range(180):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=tmp_path / "p", audit=0.5, target=0.8, batch_size=10_000))
    assert session.settings.looks == [50, 60]
    label_all(session, 60)
    session.fit()
    assert session.status().next_look == 50
    assert "tested at 50 audit answers; there are 30" in session.status().stop_hint
    label_all(session, 38)
    assert session._state.looks == []
    label_all(session, 2)
    (look,) = session._state.looks
    assert (look["n"], look["place"]) == (50, 0)
    label_all(session, 6)
    assert len(session._state.looks) == 1
    if look["reached"]:
        assert session.status().is_reached
        assert "reached" in session.status().stop_hint


def test_the_target_stays_as_it_was(quiet, tmp_path):
    session = quiet(target=0.9)
    label_all(session, 5)
    session.close()
    with pytest.raises(ValueError, match=r"target=0\.8, but 0\.9"):
        quiet(target=0.8)
    again = quiet()
    assert again.settings.target == 0.9
