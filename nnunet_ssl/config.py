"""Every hyper-parameter of the method, frozen, checked when built, and stored in the plans' `nnssl` section.

Plans carry one `nnssl` section per configuration, so that one file says all. A missing section means the defaults of this module; an
unknown key is an error that names it. The formulas behind the fields are in `docs/concepts/method.md`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from nnunet_ssl.config_section import build, json_ready, numbers, require, require_choice
from nnunet_ssl.errors import ConfigError

SCHEMA = 1

Unlearning = Literal["off", "paper", "bounded", "negative", "complementary", "soft"]
Targets = Literal["hard", "soft"]
Normalisation = Literal["joint", "separate"]
OptimizerName = Literal["nnunet", "adamw"]
CpuPrecision = Literal["float32", "bfloat16"]
DistillationLoss = Literal["variance", "paper"]
Confidence = Literal["auto", "calibrated", "paper"]
CaseScore = Literal["pairwise_dice", "expected_dice", "foreground", "mean"]
Order = Literal["ranked", "random", "reverse", "all-at-once", "drop-most-confident"]
Schedule = Literal["fixed", "adaptive"]
StudentInit = Literal["auto", "teacher", "previous", "scratch"]

UNLEARNING_MODES: tuple[str, ...] = get_args(Unlearning)
TARGET_KINDS: tuple[str, ...] = get_args(Targets)
CASE_SCORES: tuple[str, ...] = get_args(CaseScore)
ORDERS: tuple[str, ...] = get_args(Order)
STUDENT_INITS: tuple[str, ...] = get_args(StudentInit)
CONFIDENCES: tuple[str, ...] = get_args(Confidence)
SCHEDULES: tuple[str, ...] = get_args(Schedule)

UNCALIBRATED_TAU = 0.7
"""Threshold between high and low confidence where neither the settings nor held-out cases give one."""


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """How long a training lasts, in nnU-Net's own units."""

    num_epochs: int = 1000
    """Epochs of supervised training (teacher), or of all student stages together."""
    iterations_per_epoch: int = 250
    """Optimiser steps per epoch."""
    val_iterations_per_epoch: int = 50
    """Validation batches per epoch, for the pseudo Dice of nnU-Net's progress plot."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "iterations_per_epoch", "val_iterations_per_epoch"):
            require(getattr(self, name) >= 1, f"length.{name}", getattr(self, name), "an integer of at least 1")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Supervised phase (paper Eq. 6) and uncertainty distillation of the teacher."""

    length: LengthConfig = field(default_factory=LengthConfig)
    """Length of the supervised phase."""
    lambda_ce: float = 1.0
    """Weight of the cross-entropy beside the Dice loss, lambda_CE of Eq. 6."""
    optimizer: OptimizerName = "nnunet"
    """`nnunet`: nnU-Net's SGD with momentum 0.99; `adamw`: for short trainings, with an `initial_lr` of 1e-3 to 3e-3."""
    initial_lr: float = 1e-2
    """Learning rate at the start of the supervised phase (nnU-Net's default)."""
    weight_decay: float = 3e-5
    """Weight decay, lambda_reg of Eq. 6 (nnU-Net's default); decoupled from the gradient with `adamw`, where 1e-2 is usual."""
    cpu_precision: CpuPrecision = "float32"
    """On a CPU, `bfloat16` trains in mixed precision where the CPU has instructions for it; on a GPU nnU-Net always does, in float16."""
    distillation_epochs: int = 20
    """Epochs of the second phase, in which only the uncertainty head learns; 0 skips it."""
    distillation_lr: float = 1e-3
    """Learning rate of the uncertainty head in the second phase."""
    distillation_loss: DistillationLoss = "variance"
    """`variance`: v exp(-U) + U, whose minimiser is the mean variance; `paper`: squared error to log v."""
    num_samples: int = 8
    """Samples K per patch whose variance the head learns."""

    def __post_init__(self) -> None:
        require(self.lambda_ce >= 0, "teacher.lambda_ce", self.lambda_ce, "a number of at least 0")
        require_choice("teacher.optimizer", self.optimizer, get_args(OptimizerName))
        require_choice("teacher.cpu_precision", self.cpu_precision, get_args(CpuPrecision))
        require(self.initial_lr > 0, "teacher.initial_lr", self.initial_lr, "a positive number")
        require(self.weight_decay >= 0, "teacher.weight_decay", self.weight_decay, "a number of at least 0")
        require(self.distillation_epochs >= 0, "teacher.distillation_epochs", self.distillation_epochs, "0 or more")
        require(self.distillation_lr > 0, "teacher.distillation_lr", self.distillation_lr, "a positive number")
        require_choice("teacher.distillation_loss", self.distillation_loss, get_args(DistillationLoss))
        require(self.num_samples >= 2, "teacher.num_samples", self.num_samples, "2 or more (a variance needs two)")


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """What is kept of the samples of a case, and how cases are scored."""

    num_samples: int = 8
    """Samples K per case; rounded up to a multiple of the mirrored views. Networks without dropout stop at the views."""
    confidence: Confidence = "auto"
    """`calibrated`: q of the predicted class, from maps fitted on held-out labelled cases; `paper`: M1 (1 - 4 v). `auto`: calibrated where
    cross-fitted teachers leave at least four held-out cases that no figure stands on (`-f all`), else as in the paper."""
    case_score: CaseScore = "pairwise_dice"
    """Case score C(x) that orders the pool; all scores are stored beside it. Where held-out cases show that another one orders them better
    by a standard error, that one is used."""

    def __post_init__(self) -> None:
        require(self.num_samples >= 1, "evidence.num_samples", self.num_samples, "1 or more")
        require_choice("evidence.confidence", self.confidence, CONFIDENCES)
        require_choice("evidence.case_score", self.case_score, CASE_SCORES)


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Which cases enter when (paper Eq. 8) and how long each stage lasts."""

    fractions: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Fractions K_t of the pool, increasing, in (0, 1]."""
    order: Order = "ranked"
    """`ranked` by case score; `random`, `reverse`, `all-at-once` and `drop-most-confident` (without the best `dropped_share`) are the
    controls."""
    dropped_share: float = 0.15
    """Share of the scored cases, the first of the interleaved ranking, that the order `drop-most-confident` leaves out."""
    schedule: Schedule = "fixed"
    """`fixed`: stage t takes K_t (paper); `adaptive`: the less the labels still change, the faster the fraction grows, and labels that have
    settled make the next stage the last."""
    seed: int = 0
    """Seed of the random order."""
    last_stage_share: float = 0.5
    """Share of all student epochs that the last stage gets; the others share the rest equally."""

    def __post_init__(self) -> None:
        expected = "increasing numbers in (0, 1], for instance 0.2 0.5 1.0"
        object.__setattr__(self, "fractions", numbers("curriculum.fractions", self.fractions, expected))
        ks = self.fractions
        ok = len(ks) > 0 and all(0 < k <= 1 for k in ks) and all(a < b for a, b in itertools.pairwise(ks))
        require(ok, "curriculum.fractions", list(ks), expected)
        require_choice("curriculum.order", self.order, ORDERS)
        require_choice("curriculum.schedule", self.schedule, SCHEDULES)
        require(self.seed >= 0, "curriculum.seed", self.seed, "0 or more")
        require(0 <= self.dropped_share < 1, "curriculum.dropped_share", self.dropped_share, "in [0, 1)")
        require(0 < self.last_stage_share <= 1, "curriculum.last_stage_share", self.last_stage_share, "in (0, 1]")

    @property
    def stage_fractions(self) -> tuple[float, ...]:
        """The fractions in force: one stage with the whole last fraction when all cases enter at once."""
        return self.fractions[-1:] if self.order == "all-at-once" else self.fractions

    @property
    def num_stages(self) -> int:
        return len(self.stage_fractions)

    def stage_epochs(self, total_epochs: int) -> tuple[int, ...]:
        """Epochs of each stage; early stages are equally short, the last one takes its share and every stage at least one epoch.

        Raises:
            ConfigError: if there are fewer epochs than stages.
        """
        stages = self.num_stages
        if total_epochs < stages:
            raise ConfigError(f"{total_epochs} student epochs cannot be divided over {stages} stages; use fewer --stages or more epochs.")
        if stages == 1:
            return (total_epochs,)
        # 100 epochs less a share of 0.8 are 20, which binary fractions make 19.999...
        early = max(1, math.floor(total_epochs * (1 - self.last_stage_share) + 1e-6) // (stages - 1))
        return (*(early,) * (stages - 1), total_epochs - early * (stages - 1))

    def epochs_of(self, stage: int, total_epochs: int, *, is_last: bool) -> int:
        """Epochs of stage t, from 1; an adaptive schedule may make an early one the last, which then has all that are left."""
        early = self.stage_epochs(total_epochs)[0]
        return total_epochs - early * (stage - 1) if is_last else early


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Dual-loss student phase (paper Eqs. 9-13) and what belongs to it."""

    length: LengthConfig = field(default_factory=LengthConfig)
    """Length of all stages together; see `CurriculumConfig.stage_epochs` for the division."""
    init: StudentInit = "auto"
    """Start of a stage: the teacher's weights, the previous student's, or none. `auto`: previous student, at stage 1 the teacher if it has
    the student's network, else from scratch (and says so)."""
    optimizer: OptimizerName = "nnunet"
    """As the teacher's."""
    initial_lr: float = 1e-2
    """Learning rate at the start of a stage that begins from scratch."""
    warm_lr: float = 5e-3
    """Learning rate at the start of a stage that begins from trained weights; 1e-2 with momentum 0.99 would erase them."""
    weight_decay: float = 3e-5
    """Weight decay, lambda_reg of Eq. 11."""
    cpu_precision: CpuPrecision = "float32"
    """As the teacher's."""
    lambda_ce: float = 1.0
    """Weight of the cross-entropy beside the Dice loss in L_sup."""
    labelled_share: float = 0.5
    """Share of the samples that are drawn from labelled cases; on average over batches where it is no whole number of a batch's samples. 1
    leaves the pool out: the control of equal stages."""
    lambda_high: float = 1.0
    """lambda_1, the weight of L_high."""
    lambda_low: float = 0.1
    """lambda_2, the weight of the unlearning term R_low."""
    tau: float | tuple[float, ...] | None = None
    """Confidence threshold between high and low (Eqs. 9, 10); one number, or one per class (region) in nnU-Net's order. null: per class
    from held-out cases, see `precision`; 0.7 where confidence is not calibrated."""
    precision: float = 0.8
    """Wanted marginal precision: labels whose confidence is just tau are right with this probability."""
    unlearning: Unlearning = "soft"
    """Form of R_low; see the table in docs/concepts/method.md."""
    unlearning_gate: bool = True
    """Where confidence is calibrated, forms that push a label down (`paper`, `bounded`, `negative`) act only on classes and confidences
    whose held-out labels are wrong more often than right."""
    targets: Targets = "soft"
    """Whether L_high learns the label or the class probabilities q."""
    normalisation: Normalisation = "joint"
    """`joint`: both terms divided by |high| + |low| of the patch; `separate`: each by its own count, as Eqs. 12 and 13 are printed."""
    confidence_weighting: bool = True
    """Weigh each voxel of L_high by its confidence."""
    overlap: bool = True
    """Add the Dice semimetric loss on confident voxels of pool samples to L_high."""
    unlearning_gradient_ratio: float | None = 0.1
    """R_low's gradient at the logits is scaled down to at most this multiple of L_sup's; null: not limited."""
    ramp_up: float = 0.2
    """Share of the first stage over which lambda_1 and lambda_2 rise linearly from 0; later stages start at full weight."""
    strong_augmentation: bool = True
    """Twice nnU-Net's intensity augmentation probabilities and cut-out, on pool images only."""
    cutmix: float = 0.5
    """Probability that a box of a labelled sample is pasted into a pool sample, with target, confidence and validity."""
    ema: bool = True
    """Keep an exponential moving average of the student; it is what is evaluated, saved for inference and labels the next stage."""
    ema_decay: float | None = None
    """Decay of the average; null: one minus the inverse of a twentieth of the stage's steps, within [0.98, 0.999]."""
    refresh: float = 0.0
    """r: share of the moving average's own prediction in the soft targets of the last stage; it rises from 0 over the first half of that
    stage. 0: the evidence alone. Needs `ema` and soft `targets`."""
    distillation_epochs: int = 20
    """Epochs at the end of the last stage in which only the student's uncertainty head learns (networks that have one); 0 skips it."""
    fine_tune_epochs: int = 0
    """Epochs at the end of the last stage on manual labels alone."""

    def __post_init__(self) -> None:
        if self.tau is not None:
            expected = "numbers in [0, 1], or null"
            is_list = isinstance(self.tau, list | tuple)
            taus = numbers("student.tau", self.tau if is_list else [self.tau], expected)
            require(len(taus) > 0 and all(0 <= t <= 1 for t in taus), "student.tau", self.tau, expected)
            object.__setattr__(self, "tau", taus if is_list else self.tau)
        require(0 < self.precision < 1, "student.precision", self.precision, "between 0 and 1")
        require_choice("student.init", self.init, STUDENT_INITS)
        require_choice("student.optimizer", self.optimizer, get_args(OptimizerName))
        require_choice("student.cpu_precision", self.cpu_precision, get_args(CpuPrecision))
        require_choice("student.unlearning", self.unlearning, UNLEARNING_MODES)
        require_choice("student.targets", self.targets, TARGET_KINDS)
        require_choice("student.normalisation", self.normalisation, get_args(Normalisation))
        require(0 < self.labelled_share <= 1, "student.labelled_share", self.labelled_share, "a number above 0, at most 1")
        for name in ("initial_lr", "warm_lr"):
            require(getattr(self, name) > 0, f"student.{name}", getattr(self, name), "a positive number")
        for name in ("weight_decay", "lambda_ce", "lambda_high", "lambda_low", "distillation_epochs", "fine_tune_epochs"):
            require(getattr(self, name) >= 0, f"student.{name}", getattr(self, name), "a number of at least 0")
        for name in ("ramp_up", "cutmix", "refresh"):
            require(0 <= getattr(self, name) <= 1, f"student.{name}", getattr(self, name), "in [0, 1]")
        can_refresh = self.ema and self.targets == "soft"
        require(can_refresh or self.refresh == 0, "student.refresh", self.refresh, "0 unless student.ema is on and targets are soft")
        ratio = self.unlearning_gradient_ratio
        require(ratio is None or ratio > 0, "student.unlearning_gradient_ratio", ratio, "a positive number or null")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "student.ema_decay", self.ema_decay, "in (0, 1) or null")

    @property
    def fixed_tau(self) -> float | tuple[float, ...]:
        """The threshold in force where held-out cases give none."""
        return UNCALIBRATED_TAU if self.tau is None else self.tau

    @property
    def needs_probabilities(self) -> bool:
        """Whether q of every class must reach the loss, or the label and its confidence suffice."""
        return self.targets == "soft" or self.unlearning in ("soft", "complementary")


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """Refinement of the pool's labels by teacher-student agreement before each stage after the first."""

    weight: float = 0.5
    """a: the student's share in the fused evidence; 0 is the teacher alone, 1 plain self-training."""
    max_change: float = 0.1
    """If more than this share of foreground voxels changed, the previous labels are kept."""
    stop_change: float = 0.01
    """Below this share of changed foreground voxels the labels count as settled: the log says so, and an adaptive schedule ends."""
    rollback_level: float = 0.05
    """Level of the one-sided paired test on labelled validation cases: a student that is worse than the model whose labels are in force
    takes no part in the labels. 0 turns the test off. With `-f all` there are no such cases."""

    def __post_init__(self) -> None:
        for name in ("weight", "max_change", "stop_change", "rollback_level"):
            require(0 <= getattr(self, name) <= 1, f"agreement.{name}", getattr(self, name), "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """All settings of one configuration; the content of its `nnssl` section."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary, with the schema version."""
        return {"schema": SCHEMA, **asdict(self, dict_factory=json_ready)}

    def by_path(self) -> dict[str, Any]:
        """Every single setting by its dotted path, JSON-ready."""
        found: dict[str, Any] = {}
        todo = [(part, value) for part, value in self.to_dict().items() if part != "schema"]
        while todo:
            path, value = todo.pop(0)
            if isinstance(value, dict):
                todo[:0] = [(f"{path}.{name}", inner) for name, inner in value.items()]
            else:
                found[path] = value
        return found

    @classmethod
    def from_dict(cls, section: dict[str, Any] | None) -> MethodConfig:
        """Read an `nnssl` section.

        Args:
            section: the section, or None where plans have none (all defaults).

        Raises:
            ConfigError: on an unknown key, a value out of range, or a newer schema; the message names the setting.
        """
        if not isinstance(section, dict | None):
            raise ConfigError(f"the 'nnssl' section must be an object, found {section!r}.")
        section = dict(section or {})
        schema = section.pop("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ConfigError(f"the plans' nnssl section has schema {schema!r}, this version reads up to {SCHEMA}; update nnunet-ssl.")
        built: MethodConfig = build(cls, section, _NESTED)
        return built

    def with_settings(self, assignments: Mapping[str, Any]) -> MethodConfig:
        """A copy with single settings replaced.

        Args:
            assignments: values by dotted path, for instance `{"student.targets": "hard", "student.length.num_epochs": 100}`.

        Raises:
            ConfigError: on an unknown path or a value out of range.
        """
        section = self.to_dict()
        for path, value in assignments.items():
            place: Any = section
            *parents, name = path.split(".")
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict) or name not in place or isinstance(place[name], dict):
                raise ConfigError(f"there is no setting '{path}'; settings are named as in the plans' nnssl section, e.g. student.cutmix.")
            place[name] = value
        return MethodConfig.from_dict(section)


_NESTED: dict[str, type] = {
    "teacher": TeacherConfig,
    "evidence": EvidenceConfig,
    "curriculum": CurriculumConfig,
    "student": StudentConfig,
    "agreement": AgreementConfig,
    "length": LengthConfig,
}
