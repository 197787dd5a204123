import time
from tests.label.conftest import label_all, truth

def test_first(session):
    t=time.time()
    qs = label_all(session, 30)
    print(time.time()-t, [q.why for q in qs])
    session.fit()
    s = session.status()
    print(s)
    print([ (q.suggestion, truth(q.path), q.probability) for q in session.upcoming(5)])
    print(len(session.grid("red")), [truth(q.path) for q in session.grid("red")])
    print(session.labels.head())
    assert 0
