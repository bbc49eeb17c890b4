"""The first stage of a cascade, trained where the second one's data are not."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.locations import preprocessed_root


def leave_out_missing_next_stages(plans_manager: Any, configuration_manager: Any) -> list[str]:
    """Keep nnU-Net's validation from predicting for stages of a cascade whose preprocessed data do not exist; it would fail.

    A stage dataset has the data of one configuration alone, and of a labelled dataset `3d_lowres` may be all that is preprocessed.

    Args:
        plans_manager: of the dataset that is trained on.
        configuration_manager: of the configuration that is trained; changed in place, its plans are not.

    Returns:
        The configurations left out.
    """
    folder = preprocessed_root() / str(plans_manager.dataset_name)
    wanted = configuration_manager.next_stage_names or []
    missing = [name for name in wanted if not (folder / str(plans_manager.get_configuration(name).data_identifier)).is_dir()]
    if missing:
        configuration_manager.configuration["next_stage"] = [name for name in wanted if name not in missing] or None
    return missing
