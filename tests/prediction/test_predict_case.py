"""One case of every kind of set-up: labels are nnU-Net's to the voxel, maps lie on the image's grid and mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from prediction_kinds import KINDS, SHAPE, SPACING, network_of, prepared, read, setup_of, stock_labels_of, write_case

from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.confidence.predicted_dice import DicePrediction
from nnunet_ssl.nnunet_api.new_case import files_per_case, preprocess_new_case
from nnunet_ssl.prediction.findings import no_findings
from nnunet_ssl.prediction.output_folder import OutputFolder, row_of
from nnunet_ssl.prediction.predict import find_cases
from nnunet_ssl.prediction.predict_case import mean_score_of, predict_case


@pytest.mark.parametrize("name", KINDS)
def test_labels_are_nnunets_to_the_voxel(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    setup, files = setup_of(kind), write_case(kind, tmp_path / "in", "scan")
    made = prepared(setup, network_of(setup))
    assert files_per_case(files[:1], setup) == len(files)
    new = preprocess_new_case("scan", files, setup)
    found = predict_case(new, made, with_probabilities=True)
    output = OutputFolder(tmp_path / "out", setup)
    output.write_case("scan", found, new.properties, row_of("scan", found, made, 1.0), [[0, 0]])
    expected = stock_labels_of(made, files, tmp_path / "stock")
    written = tmp_path / "out" / f"scan{kind.ending}"
    assert (read(written) == read(expected)).all()
    assert len(np.unique(read(written))) >= 3
    if kind.ending == ".nii.gz":
        images = [written, output.map("confidence", "scan"), output.map("uncertainty", "scan"), output.probability("scan", 1)]
        for image in map(geometry, images):
            assert image == [pytest.approx(entry) for entry in geometry(Path(files[0]))]
    check_maps(kind, setup, found, read(written))


@pytest.mark.parametrize("bad", ["damaged", "grey"])
def test_a_bad_first_photograph_says_nothing_of_the_others(tmp_path: Path, bad: str) -> None:
    """How many channels a file holds is asked of files that can say it."""
    kind = KINDS["photographs"]
    setup = setup_of(kind)
    for case in ("a", "b", "c"):
        write_case(kind, tmp_path, case)
    first = tmp_path / "a_0000.png"
    if bad == "damaged":
        first.write_bytes(b"no image")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 20), np.uint8)), str(first))
    assert find_cases(tmp_path, setup) == ({case: (str(tmp_path / f"{case}_0000.png"),) for case in "abc"}, {})


def geometry(path: Path) -> list[tuple[float, ...]]:
    image = sitk.ReadImage(str(path))
    return [image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()]


def check_maps(kind: Any, setup: Any, found: Any, labels: np.ndarray) -> None:
    """Of a network that is not calibrated."""
    channels = setup.heads if setup.has_regions else 1
    shape = labels.reshape(-1, *labels.shape[-2:]).shape
    assert found.confidence.shape == found.uncertainty.shape == (channels, *shape)
    assert found.probabilities.shape == (setup.heads, *shape)
    assert 0 <= found.confidence.min() < found.confidence.max() <= 1
    assert 0 <= found.uncertainty.min() < found.uncertainty.max() <= 0.25
    if not setup.has_regions:
        np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    if kind.ending == ".png":
        assert set(found.volumes_ml.values()) == {None}
    else:
        # what nnU-Net has cropped away is background for certain
        assert (found.confidence[:, 0] == 1).all()
        assert (found.uncertainty[:, 0] == 0).all()
        inside = {"whole": labels >= 1, "rim": labels == 1, "core": labels == 2}
        voxel = float(np.prod(SPACING)) / 1000
        assert found.volumes_ml == {name: pytest.approx(inside[name].sum() * voxel) for name in found.volumes_ml}
        assert set(found.volumes_ml) == set(kind.labels) - {"background", "ignore"}


def test_maps_where_nothing_is_resampled(tmp_path: Path) -> None:
    """Confidence and variance of the written label, by the moments themselves."""
    kind = replace(KINDS["regions"], labels={"background": 0, "rim": 1, "core": 2}, regions_class_order=None, grid=SPACING[::-1])
    setup, files = setup_of(kind), write_case(kind, tmp_path, "scan")
    made = prepared(setup, network_of(setup))
    new = preprocess_new_case("scan", files, setup)
    found = predict_case(new, made, with_probabilities=True)
    box = new.properties["bbox_used_for_cropping"]
    crop = (slice(None), *(slice(low, high) for low, high in box))
    assert tuple(new.image.shape[1:]) == tuple(high - low for low, high in box) != SHAPE
    swept = made.predictor.sweep(new.image).numpy()
    mean, second = swept[:3], swept[3:6]
    labels = found.labels[crop[1:]][None].astype(int)
    p, variance = (np.take_along_axis(m, labels, axis=0) for m in (mean, np.clip(second - mean**2, 0, 0.25)))
    np.testing.assert_allclose(found.uncertainty[crop], variance, atol=1e-6)
    np.testing.assert_allclose(found.confidence[crop], p * (1 - 4 * variance), atol=1e-6)
    np.testing.assert_allclose(found.probabilities[crop], mean, atol=1e-6)  # type: ignore[index]
    # where mean probabilities and mean logits disagree the label is nnU-Net's
    assert (labels[0] != mean.argmax(0)).any()


def test_calibration_predicted_dice_and_review(tmp_path: Path) -> None:
    kind = replace(KINDS["ignore label, slice by slice"], grid=SPACING[1::-1])  # the image's own
    setup, files = setup_of(kind), write_case(kind, tmp_path, "scan")
    flat = CalibrationMap(kind="temperature", has_regions=False, heads=(LogitLine(slope=0.2),) * 3)
    relation = DicePrediction(scores=(0.0, 0.1, 0.9, 1.0), dice=(0.5, 0.55, 0.95, 1.0))  # Dice = 0.5 + score / 2
    known = replace(no_findings("", "pairwise_dice"), maps=(flat,), relation=relation, limit=0.9)
    plain, made = (prepared(setup, network_of(setup), findings) for findings in (None, known))
    new = preprocess_new_case("scan", files, setup)
    before, found = (predict_case(new, model, with_probabilities=True) for model in (plain, made))
    assert (found.labels == before.labels).all()
    assert found.score == before.score
    assert found.score.value is not None
    assert found.predicted_dice is not None
    assert found.predicted_dice.mean == pytest.approx(0.5 + found.score.value / 2)
    assert found.review.is_needed == (found.predicted_dice.mean < 0.9)
    assert before.predicted_dice is None
    assert before.review.is_needed is None
    row = row_of("scan", found, made, 2.0)
    assert (row["calibration"], row["score_name"], row["samples"]) == ("calibrated", "pairwise_dice", 4)
    above = DicePrediction(scores=(0.995, 0.996, 0.997, 0.998), dice=(0.98, 0.97, 0.95, 0.94))
    row = row_of("scan", predict_case(new, prepared(setup, network_of(setup), replace(known, relation=above))), made, 2.0)
    assert float(row["predicted_dice"]) > 0.9
    assert row["review"] == "yes"
    assert row["reason"] == f"its score {found.score.value:.3f} lies below those of all 4 held-out cases, 0.995 at the least"
    assert row_of("scan", before, plain, 2.0)["calibration"] == "not calibrated"
    assert found.probabilities is not None
    assert before.probabilities is not None
    foreground = before.probabilities.argmax(0) > 0
    foreground[0] = False  # cropped away
    np.testing.assert_allclose(found.probabilities[:, foreground], flat.apply(before.probabilities[:, foreground]), atol=1e-6)
    of_label = np.take_along_axis(found.probabilities, found.labels[None].astype(int), axis=0)
    np.testing.assert_allclose(found.confidence, of_label, atol=1e-6)


def test_members_are_calibrated_then_averaged(tmp_path: Path) -> None:
    """Two folds, each with a map of its own; scores are those of single folds, averaged."""
    kind = replace(KINDS["regions"], labels={"background": 0, "rim": 1, "core": 2}, regions_class_order=None, grid=SPACING[::-1])
    setup, files = setup_of(kind), write_case(kind, tmp_path, "scan")
    nets = [network_of(setup, seed) for seed in (0, 1)]
    maps = tuple(CalibrationMap(kind="temperature", has_regions=False, heads=(LogitLine(slope=s),) * 3) for s in (0.5, 2.0))
    new = preprocess_new_case("scan", files, setup)
    alone = [
        predict_case(new, prepared(setup, net, replace(no_findings("", "pairwise_dice"), maps=(m,))), with_probabilities=True)
        for net, m in zip(nets, maps, strict=True)
    ]
    made = prepared(setup, network_of(setup, 7), replace(no_findings("", "pairwise_dice"), maps=maps))
    made.predictor.list_of_parameters = [net.state_dict() for net in nets]
    found = predict_case(new, made, with_probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, np.mean([a.probabilities for a in alone], axis=0), atol=1e-6)
    assert found.score.value == pytest.approx(np.mean([a.score.value for a in alone]))
    assert row_of("scan", found, made, 1.0)["samples"] == 16


def test_mean_score_of_folds() -> None:
    assert mean_score_of([Score(0.4), Score(None, "nothing"), Score(0.6)]) == Score(0.5)
    assert mean_score_of([Score(None, "nothing"), Score(None, "nothing")]) == Score(None, "nothing")


def test_nothing_found_is_for_review(tmp_path: Path) -> None:
    kind = KINDS["regions"]
    setup, files = setup_of(kind), write_case(kind, tmp_path, "scan")
    net = network_of(setup)
    with torch.no_grad():
        net.bias.fill_(-100)
    made = prepared(setup, net)
    found = predict_case(preprocess_new_case("scan", files, setup), made)
    assert not found.labels.any()
    assert found.score.value is None
    row = row_of("scan", found, made, 1.0)
    assert (row["review"], row["reason"], row["score"]) == ("yes", "no sample predicts any foreground", None)
