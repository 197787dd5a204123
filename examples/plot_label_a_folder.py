"""
Label a folder
==============

``skal label photos/`` opens a page in the browser. :class:`skal.label.LabelSession` is what stands behind the
page; here a program answers in place of a person, so that you can see what a session gives: labels, a model,
and an accuracy from images that were reserved at random and never trained on.
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
# One question after the other. Each answer is on the disk before it counts, and a model is trained after every
# 20 answers. ``max_epochs=0`` fine-tunes nothing and trains a linear probe, as the page does while you label, so that
# models follow each other quickly.

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
# The accuracy with its interval, as the page shows it. It narrows as audit images are answered.

low, high = status.interval
print(f"accuracy {status.accuracy:.0%}, 95 % interval {low:.0%} to {high:.0%}, on {status.n_audit} reserved images")

n_answers, accuracy, low, high = np.array(curve).T
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.errorbar(n_answers, accuracy, [accuracy - low, high - accuracy], marker="o", capsize=3)
ax.set(xlabel="answers", ylabel="accuracy on reserved images", ylim=(0, 1))
plt.show()
