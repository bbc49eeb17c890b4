"""The settings that a stage was written with, from its own plans."""

from __future__ import annotations

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import preprocessed_root
from nnunet_ssl.nnunet_api.json_file import read_json


def settings_of_stage(manifest: Manifest, record: StageRecord) -> MethodConfig | None:
    """The settings in a stage's plans, by which its student trains; None where these plans are gone or damaged.

    Args:
        manifest: of the run.
        record: one of its stages.
    """
    path = preprocessed_root() / record.dataset / f"{manifest.plans}.json"
    try:
        return MethodConfig.from_dict(read_json(path)["configurations"][manifest.configuration]["nnssl"])
    except (NnsslError, KeyError, TypeError):
        return None
