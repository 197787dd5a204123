"""AIFT's score compared with the matrix of the paper, and its patches."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from skal import ImageTransform
from skal.images.crops import RandomCrops
from skal.images.inputs import InputSpec
from skal.query import aift_sampling
from skal.query.aift import aift_score
from tests.reference.aift import plain_score

EPS = 2**-52  # of double precision


@pytest.mark.parametrize("alpha", [0.01, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("C", [2, 5])
@pytest.mark.parametrize("m", [1, 6, 7])
def test_the_score_is_the_sum_of_the_matrix(alpha, C, m):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(C, 0.3), size=(9, m))
    p[0] = np.eye(C)[rng.integers(0, C, m)]  # certain of its classes
    given = aift_score(p, alpha=alpha, lam1=0.7, lam2=0.3, eps=1e-9)
    np.testing.assert_allclose(given, [plain_score(x, alpha, 0.7, 0.3, 1e-9) for x in p], rtol=1e-9, atol=1e-12)


def test_the_share_is_rounded_half_up():
    """Of 6 patches a quarter is 1.5: two are kept, and they disagree."""
    p = np.array([[[0.9, 0.1], [0.6, 0.4]] + [[0.5, 0.5]] * 4])
    agreed = plain_score(p[0, :2], 1.0, 1, 1, EPS)
    np.testing.assert_allclose(aift_score(p), agreed)


def test_the_published_figures():
    """Eleven patches of the paper's Table 1: entropy 1.30 and diversity 2816.66; eps = 2.2e-16 would give 2817.36."""
    proba = np.array([[[p, 1 - p] for p in (0, 0, 0, 0.1, 0.1, 0.9, 0.9, 1, 1, 1, 1)]])
    assert aift_score(proba, alpha=1.0, lam2=0.0).round(2) == 1.30
    assert aift_score(proba, alpha=1.0, lam1=0.0).round(2) == 2816.66


def test_a_certain_patch_is_worth_the_machine_epsilon():
    """Two opposite certain patches: no entropy, and twice 2 log(1 / eps), since 1 + eps rounds off; by hand."""
    p = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(aift_score(p, alpha=1.0), 4 * 52 * np.log(2), rtol=1e-12)  # 144.174


def test_of_two_classes_the_dominant_side_is_kept():
    low, high = [[0.9, 0.1], [0.6, 0.4]], [[0.1, 0.9], [0.4, 0.6]]
    np.testing.assert_allclose(aift_score([low], alpha=0.5), plain_score(np.array(low[:1]), 1.0, 1, 1, EPS))
    np.testing.assert_allclose(aift_score([low], alpha=0.5), aift_score([high], alpha=0.5))


@pytest.mark.parametrize(("shape", "alpha", "message"), [((3, 2), 0.25, r"shape \(3, 2\)"), ((3, 2, 2), 0, "alpha=0")])
def test_wrong_input_is_named(shape, alpha, message):
    with pytest.raises(ValueError, match=message):
        aift_score(np.ones(shape) / 2, alpha=alpha)


MODEL = LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def test_a_pool_of_patches_and_a_function_that_makes_them():
    pool = np.random.default_rng(0).normal(size=(30, 1))
    around = pool[:, None] + np.linspace(-0.5, 0.5, 8)[:, None]
    expected = np.argsort(-aift_score(MODEL.predict_proba(around.reshape(-1, 1)).reshape(30, 8, 2)), kind="stable")[:5]
    assert aift_sampling(MODEL, around, 5, patches=None, random_state=0).tolist() == expected.tolist()
    made = aift_sampling(
        MODEL, pool, 5, patches=lambda X: X[:, None] + np.linspace(-0.5, 0.5, 8)[:, None], random_state=0
    )
    assert made.tolist() == expected.tolist()


def test_a_batch_drawn_from_the_best():
    pool = np.linspace(-3, 4, 40)[:, None, None].repeat(2, axis=1)
    best = aift_sampling(MODEL, pool, 20, patches=None, random_state=0)
    drawn = [aift_sampling(MODEL, pool, 5, patches=None, omega=4.0, random_state=seed) for seed in range(200)]
    assert all(len(set(batch.tolist())) == 5 for batch in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert set(np.flatnonzero(counts)) <= set(best.tolist())
    assert counts[best[:4]].sum() > counts[best[-8:-4]].sum()
    assert counts[best[-1]] == 0  # its score is not above the lowest


@pytest.mark.parametrize("form", ["colour", "grey", "float"])
def test_crops_have_the_form_of_their_image(form):
    rng = np.random.default_rng(0)
    shape = {"colour": (24, 16, 3), "grey": (24, 16), "float": (3, 24, 16)}[form]
    dtype = np.float32 if form == "float" else np.uint8
    images = rng.integers(0, 255, size=(5, *shape)).astype(dtype)
    crops = RandomCrops(5, 4, np.random.RandomState(0))
    together = crops.of(np.arange(5), images)
    assert all(part.shape == (4, *shape) and part.dtype == dtype for part in together)
    alone = crops.of(np.array([3]), images[3:4])
    np.testing.assert_array_equal(alone[0], together[3])
    assert len({crop.tobytes() for part in together for crop in part}) > 12


@pytest.mark.parametrize("kind", ["float16", "big-endian", "longdouble", "read-only"])
def test_crops_of_arrays_that_torch_does_not_take(kind):
    image = np.random.default_rng(0).random((3, 12, 12)).astype(np.float16 if kind == "float16" else np.float32)
    odd = {"big-endian": image.astype(">f4"), "longdouble": image.astype(np.longdouble)}.get(kind, image.copy())
    odd.flags.writeable = kind != "read-only"
    (crops,), (wanted,) = (
        RandomCrops(1, 4, np.random.RandomState(0)).of(np.arange(1), [array])
        for array in (odd[:, ::-1], image[:, ::-1].astype(np.float32))
    )
    np.testing.assert_array_equal(crops, wanted)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
def test_crops_of_transparent_images_have_the_background_of_the_network(background, as_file, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 4), dtype=np.uint8))
    behind = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    image.save(tmp_path / "image.png")
    spec = InputSpec(ImageTransform(16, 16, (0, 0, 0), (1, 1, 1), background=background))
    seen = [
        spec.check(RandomCrops(1, 5, np.random.RandomState(0)).of(np.arange(1), [given])[0]).load(range(5))
        for given in (str(tmp_path / "image.png") if as_file else image, behind)
    ]
    np.testing.assert_allclose(*seen, atol=4 / 255)


def test_crops_of_an_even_image_are_even():
    crops = RandomCrops(1, 6, np.random.RandomState(0)).of(np.arange(1), np.full((1, 16, 16, 3), 77, dtype=np.uint8))
    assert (crops[0] == 77).all()


def test_features_are_not_cropped():
    model = LogisticRegression().fit([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    for pool in (np.zeros((5, 2)), pd.DataFrame(np.zeros((5, 2)), columns=["a", "b"])):
        with pytest.raises(ValueError, match="patches=16 crops images, but X_pool contains features"):
            aift_sampling(model, pool, 2)


def test_files_of_several_sizes(tmp_path, classifier, pixels):
    from PIL import Image

    X, y = pixels
    classifier.fit(X[:20], y[:20])
    paths = []
    for i, image in enumerate(X[20:32]):
        picture = Image.fromarray(image)
        paths.append(str(tmp_path / f"{i}.png"))
        (picture.resize((20, 24)) if i % 2 else picture).save(paths[-1])
    rows = aift_sampling(classifier, np.array(paths), 4, patches=3, random_state=0)
    assert len(set(rows.tolist())) == 4
    samples = [(path, 0) for path in paths]  # as in torchvision's ImageFolder
    np.testing.assert_array_equal(aift_sampling(classifier, samples, 4, patches=3, random_state=0), rows)
