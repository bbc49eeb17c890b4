"""What a configuration of plans takes of a GPU."""

from __future__ import annotations

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.gpu_memory import GIB, sampling_bytes, training_bytes
from nnunet_ssl.networks.network_count import count_network
from nnunet_ssl.networks.self_configuration import derive_architecture
from nnunet_ssl.nnunet_api.planning import median_voxels
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def describe_size(setup: NnunetSetup) -> str | None:
    """Patch, batch, and the memory that TransASPPUNet takes of a GPU in training and for evidence, in mixed precision.

    None where the plans have a network that ours cannot be derived from.
    """
    configuration = setup.configuration_manager.configuration
    patch = [int(size) for size in configuration["patch_size"]]
    try:
        arch_kwargs = derive_architecture(configuration["architecture"], patch)["arch_kwargs"]
        count = count_network(arch_kwargs, input_channels=setup.num_channels, num_classes=setup.heads, patch_size=patch)
    except ConfigError:
        return None
    training = training_bytes(count, int(configuration["batch_size"])) / GIB
    evidence = sampling_bytes(count, image_voxels=median_voxels(setup), input_channels=setup.num_channels) / GIB
    return (
        f"patch {' x '.join(map(str, patch))}, batch {configuration['batch_size']}; "
        f"on a GPU about {training:.1f} GB to train, {evidence:.1f} GB for evidence with any number of samples"
    )
