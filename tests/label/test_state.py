"""The state is a function of the log: it is the same whether events are applied one by one or all at once."""

import random

import pytest

from skal.label.state import State


def random_events(seed, n=60):
    """A session of three tabs with all kinds of events."""
    rng = random.Random(seed)
    events, names = [], ["a", "b", "c"]
    live = State()
    for i in range(n):
        tab = rng.choice("xyz")
        images = [f"i{rng.randrange(12)}" for _ in range(3)]
        base = {"id": f"e{i}", "tab": tab, "seconds": round(rng.random(), 3)}
        kind = rng.choice(["answer"] * 6 + ["unsure", "grid", "undo", "undo", "class", "rename", "merge"])
        if kind == "answer":
            why = rng.choice(["strategy", "audit", "review"])
            event = base | {"kind": kind, "image": images[0], "label": rng.choice(names), "why": why}
            event |= {"place": 1} if why == "audit" else {}
            event |= {"group": [images[1]]} if rng.random() < 0.2 and images[1] != images[0] else {}
        elif kind == "unsure":
            event = base | {"kind": kind, "image": images[0], "why": "strategy"}
        elif kind == "grid":
            own = sorted(set(images))
            event = base | {
                "kind": kind,
                "images": own[:2],
                "rejected": own[2:],
                "label": rng.choice(names),
                "why": "grid",
            }
        elif kind == "undo":
            last = live.last_of(tab)
            if last is None:
                continue
            event = base | {"kind": kind, "event": last["id"]}
        elif kind == "class":
            event = base | {"kind": kind, "label": f"new{i}"}
        elif not live.classes:
            continue
        else:
            to = rng.choice(live.classes) if kind == "merge" else f"renamed{i}"
            label = rng.choice(live.classes)
            if to == label:
                continue
            event = base | {"kind": kind, "label": label, "to": to}
        events.append(event)
        live.apply(event)
        names = live.classes or ["a"]
    return events, live


def seen(state):
    return {
        "labels": {image: (d.kind, d.labels) for image, d in state.decisions().items()},
        "classes": state.classes,
        "again": state.again,
        "audited": state.audited,
        "counts": +state.counts,
        "rejected": {(f"i{i}", name) for i in range(12) for name in state.classes if state.is_rejected(f"i{i}", name)},
        "last": {tab: state.last_of(tab) for tab in "xyz"},
        "seconds": sorted(state.seconds),
    }


@pytest.mark.parametrize("seed", range(40))
def test_reading_the_log_gives_the_state_that_was(seed):
    events, live = random_events(seed)
    assert seen(State(events)) == seen(live)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_reading_a_long_log_gives_the_state_that_was(seed):
    events, live = random_events(seed, 400)
    assert seen(State(events)) == seen(live)


def test_undoing_everything_leaves_nothing():
    _, live = random_events(3)
    for tab in "xyz":
        while (last := live.last_of(tab)) is not None:
            live.apply({"id": f"undo {last['id']}", "kind": "undo", "event": last["id"], "tab": tab})
    assert live.decisions() == {}
    assert +live.counts == {}
    assert live.audited == {}
