"""
Label a folder
==============

``skal label photos/`` opens a page in the browser, which runs a :class:`skal.label.LabelSession`. Here a program
answers in place of a person, to show what a session returns: labels, a model, and an accuracy measured on images
that were reserved at random and never trained on.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from skal import FrozenPrefixClassifier
from skal.label import LabelSession

# %%
# A folder of 500 images.

folder = Path(tempfile.mkdtemp())
digits = load_digits()
truth = {}
for i, (pixels, digit) in enumerate(zip(digits.images[:500], digits.target, strict=False)):
    name = f"{i:03}.png"
    (folder / "photos").mkdir(exist_ok=True)
    Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((64, 64)).save(folder / "photos" / name)
    truth[name] = str(digit)

# %%
# The session asks one question at a time. Each answer is written to disk before it counts, and a model is trained after
# every 20 answers. ``max_epochs=0`` trains a linear probe without fine-tuning, as the page does during labelling, so
# that each model takes little time.

net = FrozenPrefixClassifier("efficientnet_lite0", image_size=64, max_epochs=0)
curve = []
with LabelSession(folder / "photos", folder / "photos.skal", classes=list("0123456789"), estimator=net,
                  batch_size=20, audit=0.3) as session:  # fmt: skip
    for n_answers in range(1, 181):
        question = session.next()
        session.answer(question.id, truth[Path(question.path).name])
        if n_answers % 20 == 0:
            session.fit()
            status = session.status()
            if status.accuracy is not None:
                curve.append((n_answers, status.accuracy, *status.interval))
    print(session.labels.groupby("why").size())
    new = session.predict(sorted(str(path) for path in (folder / "photos").glob("49*.png")))
print(new.iloc[:, :4].round(2))

# %%
# The accuracy with its interval, as shown on the page. The interval narrows as more audit images are answered.

low, high = status.interval
print(f"accuracy {status.accuracy:.0%}, 95 % interval {low:.0%} to {high:.0%}, on {status.n_audit} reserved images")

n_answers, accuracy, low, high = np.array(curve).T
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.errorbar(n_answers, accuracy, [accuracy - low, high - accuracy], marker="o", capsize=3)
ax.set(xlabel="answers", ylabel="accuracy on reserved images", ylim=(0, 1))
plt.show()
