"""Settings: checked when built, named when wrong, and the same after a trip through JSON."""

from __future__ import annotations

import ast
import json
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ssl.config import CurriculumConfig, MethodConfig, StudentConfig
from nnunet_ssl.errors import ConfigError

PLANS = sorted((Path(__file__).resolve().parents[1] / "plans").glob("*.json"))


def test_missing_section_means_the_defaults() -> None:
    assert MethodConfig.from_dict(None) == MethodConfig.from_dict({}) == MethodConfig()
    assert MethodConfig().curriculum.fractions == (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    "method",
    [
        MethodConfig(),
        MethodConfig(student=StudentConfig(tau=(0.5, 0.75, 0.9), unlearning_gradient_ratio=None)),
        MethodConfig(student=StudentConfig(tau=0.5)),
    ],
)
def test_settings_survive_json(method: MethodConfig) -> None:
    section = method.to_dict()
    assert section["schema"] == 1
    assert json.loads(json.dumps(section)) == section
    assert MethodConfig.from_dict(section) == method


def test_reading_leaves_the_section_as_it_is() -> None:
    section = {"schema": 1, "student": {"cutmix": 0.25}}
    MethodConfig.from_dict(section)
    assert section == {"schema": 1, "student": {"cutmix": 0.25}}


@pytest.mark.parametrize("path", PLANS, ids=lambda p: p.stem)
def test_shipped_settings_are_valid(path: Path) -> None:
    MethodConfig.from_dict(json.loads(path.read_text())["nnssl"])


def test_every_setting_has_a_description() -> None:
    source = (Path(__file__).resolve().parents[1] / "nnunet_ssl" / "config.py").read_text()
    kinds = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name != "MethodConfig"]
    for kind in kinds:
        for setting, text in pairwise([*kind.body, ast.Pass()]):
            if isinstance(setting, ast.AnnAssign):
                assert isinstance(text, ast.Expr), ast.unparse(setting)
                assert isinstance(ast.literal_eval(text.value), str)
    assert len(kinds) == len(fields(MethodConfig)) + 1


# ---- what is refused


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("teacher.lambda_ce", -1),
        ("teacher.initial_lr", 0),
        ("teacher.distillation_epochs", -1),
        ("teacher.distillation_loss", "mse"),
        ("teacher.num_samples", 1),
        ("teacher.length.num_epochs", 0),
        ("teacher.length.iterations_per_epoch", 0),
        ("evidence.num_samples", 0),
        ("evidence.case_score", "best"),
        ("evidence.case_score", "softmax"),
        ("evidence.confidence", "uncalibrated"),
        ("curriculum.fractions", []),
        ("curriculum.fractions", [0.5, 0.5]),
        ("curriculum.fractions", [0.5, 0.2, 1.0]),
        ("curriculum.fractions", [0.0, 1.0]),
        ("curriculum.fractions", [0.5, 1.5]),
        ("curriculum.order", "best-first"),
        ("curriculum.schedule", "slow"),
        ("curriculum.dropped_share", 1),
        ("curriculum.dropped_share", -0.1),
        ("curriculum.last_stage_share", 0),
        ("student.init", "random"),
        ("student.initial_lr", 0),
        ("student.labelled_share", 0),
        ("student.labelled_share", 1.1),
        ("student.lambda_low", -0.1),
        ("student.tau", 1.1),
        ("student.tau", [0.5, -0.1]),
        ("student.tau", []),
        ("student.precision", 0),
        ("student.precision", 1),
        ("student.unlearning", "forget"),
        ("student.targets", "firm"),
        ("student.normalisation", "none"),
        ("student.unlearning_gradient_ratio", 0),
        ("student.ramp_up", 1.5),
        ("student.cutmix", -0.1),
        ("student.ema_decay", 1),
        ("student.refresh", 1.5),
        ("agreement.weight", 1.1),
        ("agreement.max_change", -0.1),
        ("agreement.rollback_level", 1.1),
        ("agreement.rollback_level", -0.01),
    ],
)
def test_values_out_of_range_name_the_setting(path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=path.rsplit(".", 1)[1]) as raised:
        MethodConfig().with_settings({path: value})
    assert "expected" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("other", [{"student.ema": False}, {"student.targets": "hard"}])
def test_targets_are_refreshed_where_they_are_soft_and_an_average_exists(other: dict[str, Any]) -> None:
    assert MethodConfig().with_settings({"student.refresh": 0.5}).student.refresh == 0.5
    assert MethodConfig().with_settings({**other, "student.refresh": 0.0}).student.refresh == 0
    with pytest.raises(ConfigError, match=r"student\.refresh' is 0\.5; expected 0 unless"):
        MethodConfig().with_settings({**other, "student.refresh": 0.5})


@pytest.mark.parametrize(
    "path", ["student.cutmix", "teacher.initial_lr", "curriculum.last_stage_share", "student.length.num_epochs", "student.tau"]
)
@pytest.mark.parametrize("value", ["often", [None], {"a": 1}])
def test_values_of_another_type_are_one_line(path: str, value: Any) -> None:
    section = path.split(".")[0]
    with pytest.raises(ConfigError, match=section):
        MethodConfig().with_settings({path: value})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"student": {"cut_mix": 0.5}}, r"unknown nnssl setting 'student\.cut_mix'; known: .*cutmix"),
        ({"pupil": {}}, "unknown nnssl setting 'pupil'"),
        ({"teacher": {"length": {"epochs": 1}}}, r"unknown nnssl setting 'teacher\.length\.epochs'"),
        ({"student": 3}, "nnssl setting 'student' must be an object, found 3"),
        ({"student": {"length": [1]}}, r"nnssl setting 'student\.length' must be an object"),
        ({"schema": 2}, "has schema 2, this version reads up to 1; update nnunet-ssl"),
        ({"schema": "1"}, "has schema '1'"),
    ],
)
def test_sections_that_cannot_be_read(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MethodConfig.from_dict(section)


# ---- single settings


def test_settings_by_dotted_path() -> None:
    method = MethodConfig().with_settings({"student.targets": "hard", "student.length.num_epochs": 7, "curriculum.fractions": [0.5, 1]})
    assert (method.student.targets, method.student.length.num_epochs) == ("hard", 7)
    assert method.curriculum.fractions == (0.5, 1.0)
    assert method.teacher == MethodConfig().teacher
    assert MethodConfig().with_settings({}) == MethodConfig()


@pytest.mark.parametrize("path", ["student", "student.length", "cutmix", "student.cut_mix", "student.cutmix.more", "", "schema.x"])
def test_paths_that_are_no_setting(path: str) -> None:
    with pytest.raises(ConfigError, match=f"no setting '{path}'"):
        MethodConfig().with_settings({path: 1})


def test_settings_are_frozen() -> None:
    for part in fields(MethodConfig):
        value = getattr(MethodConfig(), part.name)
        assert is_dataclass(value)
        with pytest.raises(AttributeError):
            setattr(value, fields(value)[0].name, 1)


# ---- lengths of stages


@pytest.mark.parametrize(
    ("fractions", "share", "epochs", "expected"),
    [
        ((0.5, 1.0), 0.5, 10, (5, 5)),
        ((0.2, 0.5, 1.0), 0.6, 20, (4, 4, 12)),
        ((0.1, 0.2, 0.4, 0.6, 0.8, 1.0), 0.5, 1000, (100,) * 5 + (500,)),
        ((0.5, 1.0), 0.5, 2, (1, 1)),
        ((0.5, 1.0), 1.0, 10, (1, 9)),
        ((1.0,), 0.5, 10, (10,)),
        ((0.3, 0.6, 1.0), 0.5, 3, (1, 1, 1)),
        # 0.8 and 0.9 are no binary fractions: floats make slightly less than 10 and 5 of 50 * 0.2 and 50 * 0.1
        ((0.1, 0.2, 0.4, 0.6, 0.8, 1.0), 0.8, 50, (2,) * 5 + (40,)),
        ((0.5, 1.0), 0.9, 50, (5, 45)),
    ],
)
def test_epochs_are_divided_over_the_stages(fractions: tuple[float, ...], share: float, epochs: int, expected: tuple[int, ...]) -> None:
    curriculum = CurriculumConfig(fractions=fractions, last_stage_share=share)
    assert curriculum.stage_epochs(epochs) == expected


@given(st.integers(1, 12), st.floats(0.05, 1.0), st.integers(1, 500))
def test_all_epochs_are_spent_and_no_stage_is_empty(stages: int, share: float, epochs: int) -> None:
    curriculum = CurriculumConfig(fractions=tuple((i + 1) / stages for i in range(stages)), last_stage_share=share)
    if epochs < stages:
        with pytest.raises(ConfigError, match=f"{epochs} student epochs cannot be divided over {stages} stages"):
            curriculum.stage_epochs(epochs)
        return
    lengths = curriculum.stage_epochs(epochs)
    assert len(lengths) == stages
    assert sum(lengths) == epochs
    assert min(lengths) >= 1
    assert len(set(lengths[:-1])) <= 1


def test_early_end_has_all_epochs_that_are_left() -> None:
    """Of 1000 epochs the five early stages of the default have 100 each."""
    curriculum = CurriculumConfig(schedule="adaptive")
    assert [curriculum.epochs_of(t, 1000, is_last=False) for t in range(1, 6)] == [100] * 5
    assert [curriculum.epochs_of(t, 1000, is_last=True) for t in range(1, 7)] == [1000, 900, 800, 700, 600, 500]


@given(st.integers(1, 8), st.integers(1, 300), st.floats(0.05, 1.0))
def test_whenever_it_ends_all_epochs_are_spent(stages: int, epochs: int, share: float) -> None:
    curriculum = CurriculumConfig(fractions=tuple((i + 1) / stages for i in range(stages)), last_stage_share=share)
    total = epochs + stages
    planned = curriculum.stage_epochs(total)
    assert [curriculum.epochs_of(t, total, is_last=t == stages) for t in range(1, stages + 1)] == list(planned)
    for end in range(1, stages + 1):
        lengths = [curriculum.epochs_of(t, total, is_last=t == end) for t in range(1, end + 1)]
        assert sum(lengths) == total
        assert min(lengths) >= 1


@pytest.mark.parametrize(("tau", "expected"), [(None, 0.7), (0.9, 0.9), ([0.5, 0.6], (0.5, 0.6)), (0.0, 0.0)])
def test_threshold_where_nothing_is_measured(tau: Any, expected: Any) -> None:
    student = MethodConfig().with_settings({"student.tau": tau}).student
    assert student.fixed_tau == expected
    assert (student.tau is None) == (tau is None)


def test_all_at_once_is_one_stage_with_the_last_fraction() -> None:
    curriculum = CurriculumConfig(fractions=(0.2, 0.8), order="all-at-once")
    assert curriculum.stage_fractions == (0.8,)
    assert curriculum.num_stages == 1
    assert curriculum.stage_epochs(5) == (5,)


@pytest.mark.parametrize(
    ("targets", "unlearning", "expected"),
    [("hard", "off", False), ("hard", "bounded", False), ("soft", "off", True), ("hard", "soft", True), ("hard", "complementary", True)],
)
def test_probabilities_are_stored_where_the_loss_needs_them(targets: Any, unlearning: Any, expected: bool) -> None:
    assert StudentConfig(targets=targets, unlearning=unlearning).needs_probabilities is expected


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("student.length.num_epochs", 2.5, "a whole number"),
        ("student.length.num_epochs", True, "a whole number"),
        ("student.distillation_epochs", "2", "a whole number"),
        ("student.ema", "False", "true or false"),
        ("student.unlearning_gate", "False", "true or false"),
        ("student.precision", "0.8", "a number"),
        ("student.confidence_weighting", 0, "true or false"),
        ("student.cutmix", "0", "a number"),
        ("agreement.weight", False, "a number"),
    ],
)
def test_kinds_of_values(path: str, value: Any, expected: str) -> None:
    """`--set student.ema=False` would otherwise be a text, hence true."""
    with pytest.raises(ConfigError, match=f"{path}' is .*; expected {expected}"):
        MethodConfig().with_settings({path: value})
