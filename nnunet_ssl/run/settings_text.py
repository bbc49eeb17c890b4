"""The settings in force as text for the terminal: what nobody had to configure, in the open."""

from __future__ import annotations

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.gpu_estimate import describe_size
from nnunet_ssl.data.held_out_use import held_out_decide
from nnunet_ssl.locations import MANIFEST_FILE
from nnunet_ssl.nnunet_api.external_trainers import find_trainer, settings_of_student, trains_uncertainty_head
from nnunet_ssl.run.run_request import RunRequest

OUR_NETWORK = "TransASPPUNet"


def settings_lines(request: RunRequest) -> list[str]:
    """The settings that matter most, one a line, and where all of them are kept.

    Args:
        request: what `nnssl_run` was asked to do.

    Returns:
        A heading, and aligned lines of name and value.

    Raises:
        SetupError: if there is no such student trainer.
        ConfigError: if there are fewer epochs than stages.
    """
    method = settings_of_student(request.method, request.student)
    curriculum, student = method.curriculum, method.student
    epochs = curriculum.stage_epochs(student.length.num_epochs)
    adaptive = "" if curriculum.schedule == "fixed" else " (adaptive: fewer stages if labels settle)"
    network = _network(request)
    size = describe_size(request.setup) if network == OUR_NETWORK else None
    decides = held_out_decide(request.setup, method, request.fold, () if request.is_from_predictions else request.folds)
    values = {
        "student": f"{request.student}, {network}",
        **({"size": size} if size else {}),
        "fractions": f"{_list(curriculum.stage_fractions)} of the pool, {curriculum.order}{adaptive}",
        "epochs": f"{_list(epochs)}, {student.length.iterations_per_epoch} steps each",
        "samples": f"{method.evidence.num_samples} a case",
        "confidence": method.evidence.confidence + (" (held-out cases decide)" if decides else ""),
        "tau": _tau(method, held_out_decides=decides),
        "targets": student.targets,
        "unlearning": student.unlearning,
        "agreement": f"{method.agreement.weight:g}",
        "all settings": f"'method' in {request.workspace / MANIFEST_FILE}, once the run has begun",
    }
    width = max(map(len, values))
    return ["settings in force:", *(f"  {name:{width}}  {value}" for name, value in values.items())]


def _network(request: RunRequest) -> str:
    of_plans = str(request.setup.configuration_manager.network_arch_class_name)
    return OUR_NETWORK if trains_uncertainty_head(find_trainer(request.student), of_plans) else of_plans.rsplit(".", 1)[-1]


def _tau(method: MethodConfig, *, held_out_decides: bool) -> str:
    tau = method.student.fixed_tau
    fixed = _list(tau) if isinstance(tau, tuple) else f"{tau:g}"
    if method.student.tau is None and held_out_decides:
        return f"from held-out cases, for a precision of {method.student.precision:g}; {fixed} where they give none"
    return fixed


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
