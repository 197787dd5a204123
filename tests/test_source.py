"""SourceProfile: saved, loaded, cloned and pickled as data; the centres themselves are tested in test_adma_oracle."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.base import clone

from skal import FrozenPrefixClassifier, SourceProfile
from skal._files import read_tensors, write_tensors
from skal.source import class_centers
from tests.conftest import SMALL
from tests.damage import TENSOR_DAMAGES


def test_centers_come_from_their_own_class():
    rng = np.random.default_rng(0)
    features, members = rng.normal(size=(60, 3)), rng.permutation(np.arange(60) % 7)
    centers = class_centers(features, members)
    np.testing.assert_array_equal(members[centers], np.arange(7))
    for k, center in enumerate(centers):
        distances = np.linalg.norm(features - features[members == k].mean(axis=0), axis=1)
        assert distances[center] == distances[members == k].min()


def test_centers_on_a_device_are_activations_of_their_images(convnet, source_images, device):
    X, y = source_images
    profile = SourceProfile(convnet, preprocess=SMALL, device=device).fit(X, y)
    net = FrozenPrefixClassifier(convnet, preprocess=SMALL)
    features, at_A, at_B = net.activations(X, [-2, -4, -2], pooled=True)
    chosen = np.argsort(y, kind="stable")[class_centers(features[np.argsort(y, kind="stable")], np.sort(y))]
    np.testing.assert_allclose(profile.centers_[-4], at_A[chosen], atol=1e-5)
    np.testing.assert_allclose(profile.centers_[-2], at_B[chosen], atol=1e-5)


def test_file_keeps_everything(profile, tmp_path):
    profile.save(tmp_path / "full")
    loaded = SourceProfile.load(tmp_path / "full")
    assert (loaded.layers_, loaded.fingerprint_, loaded.class_names_) == (
        profile.layers_,
        profile.fingerprint_,
        profile.class_names_,
    )
    for layer, values in profile.centers_.items():
        np.testing.assert_array_equal(loaded.centers_[layer], values)
    np.testing.assert_array_equal(loaded.patterns((-4, -2)), profile.patterns((-4, -2)))
    profile.save(tmp_path / "half", dtype="float16")
    half = SourceProfile.load(tmp_path / "half")
    np.testing.assert_allclose(half.centers_[-4], profile.centers_[-4], rtol=1e-3)
    assert (tmp_path / "half").stat().st_size < (tmp_path / "full").stat().st_size
    with pytest.raises(ValueError, match="loaded without its backbone"):
        loaded.fit(np.zeros((1, 16, 16, 3), np.uint8), [0])
    save_file({"a": np.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not a skal source profile file"):
        SourceProfile.load(tmp_path / "other")
    with pytest.raises(ValueError, match="'int8' is not one of"):
        profile.save(tmp_path / "int", dtype="int8")


def test_activations_beyond_float16_are_not_saved_as_infinity(profile, tmp_path):
    large = copy.deepcopy(profile)
    large.centers_[-4][1, 2] = -7e4
    with pytest.raises(ValueError, match=r"up to 65504, but the largest activation is 70000; .*'float32'"):
        large.save(tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    large.save(tmp_path / "full")
    assert SourceProfile.load(tmp_path / "full").centers_[-4].min() == -7e4


@pytest.mark.parametrize("damage", TENSOR_DAMAGES)
def test_a_damaged_profile_is_refused_by_name(profile, tmp_path, damage):
    path = tmp_path / "cars.safetensors"
    profile.save(path)
    TENSOR_DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"cars\.safetensors' is (not a skal source profile file|damaged)"):
        SourceProfile.load(path)


def test_an_incomplete_profile_names_what_it_lacks(profile, tmp_path):
    profile.save(tmp_path / "whole")
    tensors, described = read_tensors(tmp_path / "whole", "source profile")
    fewer = {name: tensor for name, tensor in tensors.items() if name != "centers.1"}
    for parts in ((fewer, described), (tensors, {k: v for k, v in described.items() if k != "columns"})):
        write_tensors(tmp_path / "part", "source profile", *parts)
        with pytest.raises(ValueError, match=r"part' is incomplete: \['(centers\.1|columns)'\] are missing"):
            SourceProfile.load(tmp_path / "part")


def test_source_classes_may_be_dates(convnet, source_images, tmp_path):
    days = np.arange("2024-01-01", "2024-01-06", dtype="datetime64[D]")
    profile = SourceProfile(convnet, preprocess=SMALL).fit(source_images[0], days[source_images[1]])
    profile.save(tmp_path / "days")
    loaded = SourceProfile.load(tmp_path / "days").classes_
    assert loaded.dtype == days.dtype
    np.testing.assert_array_equal(loaded, days)


def test_the_shipped_profile_is_whole():
    path = Path(__file__).parents[1] / "examples/data/efficientnet_lite0_imagenet_96px.safetensors"
    assert SourceProfile.load(path).centers_[-2].shape == (1000, 1280)


def test_clone_keeps_a_fitted_profile_and_copies_an_unfitted_one(profile, convnet, classifier):
    assert clone(profile) is profile
    assert clone(classifier).source is profile
    unfitted = SourceProfile(convnet, preprocess=SMALL)
    assert clone(unfitted) is not unfitted
    assert not hasattr(clone(unfitted), "centers_")
    for same in (pickle.loads(pickle.dumps(profile)), copy.deepcopy(profile)):
        np.testing.assert_array_equal(same.patterns((-4, -2)), profile.patterns((-4, -2)))


def test_maps_may_be_kept_whole(convnet, source_images):
    whole = SourceProfile(convnet, preprocess=SMALL, pooled=False).fit(*source_images)
    pooled = SourceProfile(convnet, preprocess=SMALL).fit(*source_images)
    assert whole.centers_[-4].shape[1] == 64 * pooled.centers_[-4].shape[1]


def test_named_layers_and_string_classes(convnet, source_images):
    X, y = source_images
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    profile = SourceProfile(convnet, preprocess=SMALL, layers=[("stem", "conv3")]).fit(X, names[y])
    assert profile.class_names_ == names.tolist()
    np.testing.assert_allclose(profile.select_columns(np.eye(5)), np.eye(5))
    few = SourceProfile(convnet, preprocess=SMALL).fit(X[y < 3], names[y[y < 3]])
    with pytest.raises(ValueError, match="integers from 0 to 4"):
        few.select_columns(np.eye(5))
    by_number = SourceProfile(convnet, preprocess=SMALL).fit(X[y > 2], y[y > 2], class_names=["dog", "eel"])
    np.testing.assert_allclose(by_number.select_columns(np.full((1, 5), 0.2)), [[0.5, 0.5]])
    assert by_number.class_names_ == ["dog", "eel"]


def test_bad_input(convnet, source_images, profile):
    X, y = source_images
    with pytest.raises(ValueError, match="inconsistent numbers"):
        SourceProfile(convnet, preprocess=SMALL).fit(X, y[:3])
    with pytest.raises(ValueError, match="unknown layer 'conv9'"):
        SourceProfile(convnet, preprocess=SMALL, layers=[("conv9", -2)]).fit(X, y)
    with pytest.raises(ValueError, match=r"layers=\[-4, -2\] must be pairs of layers"):
        SourceProfile(convnet, preprocess=SMALL, layers=[-4, -2]).fit(X, y)
    with pytest.raises(ValueError, match=r"Input y contains NaN or None: y\[\d+\] is nan"):
        SourceProfile(convnet, preprocess=SMALL).fit(X, np.where(y == 1, np.nan, y))
    with pytest.raises(ValueError, match="2 names, but y has 5 classes"):
        SourceProfile(convnet, preprocess=SMALL).fit(X, y, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"layers of this profile, \[-4, -2\]"):
        profile.check_layers([(-5, -2)])
    for layers in ([], [-4, -2], [(-4, -2, -2)], "ab"):
        with pytest.raises(ValueError, match=r"layers=.* must be pairs of layers, \[\(A, B\), \.\.\.\]"):
            profile.check_layers(layers)
    assert profile.check_layers(np.array([[-4, -2]])) == [(-4, -2)]
    other_size = FrozenPrefixClassifier(convnet, image_size=12, source=profile)
    with pytest.raises(ValueError, match=r"another backbone.*crop=16.*crop=12"):
        other_size.fit(X, y)
