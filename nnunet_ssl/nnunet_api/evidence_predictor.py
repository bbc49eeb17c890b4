"""nnU-Net's sliding window, leaving moments and votes of K samples instead of mean logits."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ssl.errors import SetupError
from nnunet_ssl.networks.sampling import StochasticSampler, single_pass_log_variance
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.external_trainers import find_trainer
from nnunet_ssl.nnunet_api.setup import read_json


class EvidencePredictor(nnUNetPredictor):
    """Sweeps a preprocessed image once per fold and returns weighted means of P, P^2 and votes over samples and windows.

    nnU-Net's own tiling, padding, Gaussian weights, mirroring axes and out-of-memory fallback stay in force; only the innermost loop is
    ours. Sums are kept in float32 (squares in half precision are wrong by an order of magnitude) and do not grow with K.
    """

    def __init__(self, *, num_samples: int, device: torch.device, use_mirroring: bool = True) -> None:
        """Make a predictor.

        Args:
            num_samples: K, samples per window; rounded up to a multiple of the mirrored views.
            device: where the network runs.
            use_mirroring: sample over mirrored views; without them and without dropout there is one sample.
        """
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(use_mirroring=use_mirroring, device=device, allow_tqdm=False)
        self.requested_samples = num_samples
        self.sampler: StochasticSampler | None = None
        self._generator = torch.Generator()  # on the CPU, so that the draws are the same on every device

    def load_model(self, model_folder: Path, folds: list[int | str]) -> None:
        """Load a trained model's folds without executing what their checkpoints might carry.

        Args:
            model_folder: `nnUNet_results/<dataset>/<trainer>__<plans>__<configuration>`.
            folds: one or more folds; their evidence is averaged by the same sums.

        Raises:
            SetupError: if a fold or the trainer class is missing.
            StateError: if a checkpoint is damaged or does not fit.
        """
        checkpoints = [load_checkpoint(model_folder / f"fold_{fold}" / "checkpoint_final.pth") for fold in folds]
        plans_manager = PlansManager(read_json(model_folder / "plans.json"))
        dataset_json = read_json(model_folder / "dataset.json")
        configuration_manager = plans_manager.get_configuration(checkpoints[0]["init_args"]["configuration"])
        trainer = find_trainer(checkpoints[0]["trainer_name"])
        heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
        channels = determine_num_input_channels(plans_manager, configuration_manager, dataset_json)
        network = trainer.build_network_architecture(plans_manager, configuration_manager, channels, heads, enable_deep_supervision=False)
        parameters = [checkpoint["network_weights"] for checkpoint in checkpoints]
        try:
            network.load_state_dict(parameters[0])
        except RuntimeError as error:
            raise SetupError(
                f"the weights in {model_folder} do not fit the network its plans describe: {str(error).splitlines()[-1]}"
            ) from error
        mirroring = checkpoints[0].get("inference_allowed_mirroring_axes")
        self.use_network(network, plans_manager, configuration_manager, parameters, dataset_json, trainer.__name__, mirroring)

    def use_network(
        self,
        network: nn.Module,
        plans_manager: Any,
        configuration_manager: Any,
        parameters: list[dict[str, Tensor]] | None,
        dataset_json: dict[str, Any],
        trainer_name: str,
        mirroring_axes: tuple[int, ...] | None,
    ) -> None:
        """Take a network that is already in memory; `parameters` holds one set of weights per fold, None the network's own."""
        self.manual_initialization(
            network, plans_manager, configuration_manager, parameters, dataset_json, trainer_name, tuple(mirroring_axes or ()) or None
        )
        self.sampler = StochasticSampler(
            network,
            mirror_axes=self.allowed_mirroring_axes if self.use_mirroring else None,
            num_samples=self.requested_samples,
            has_regions=self.label_manager.has_regions,
        )

    @property
    def num_samples(self) -> int:
        """Samples per voxel over all folds."""
        return self._sampler().num_samples * max(1, len(self.list_of_parameters or ()))

    @property
    def heads(self) -> int:
        return int(self.label_manager.num_segmentation_heads)

    def _sampler(self) -> StochasticSampler:
        if self.sampler is None:
            raise SetupError("the predictor has no model yet; call load_model first.")
        return self.sampler

    @torch.inference_mode()
    def sweep(self, image: Tensor, *, seed: int = 0) -> Tensor:
        """Evidence of one preprocessed image.

        Args:
            image: (channels, X, Y, Z) float32, as nnU-Net's preprocessor leaves it.
            seed: of the dropout draws, so that a case has the same evidence whatever was swept before it.

        Returns:
            (3H + U, X, Y, Z) float32 on the CPU: mean probabilities M1, second moments M2, vote fractions f of H heads each, and U channels
            of log-variance where a single deterministic pass is all there is and the network has an uncertainty head (U = 0 otherwise).
        """
        self._generator.manual_seed(seed)
        total: Tensor | None = None
        folds = self.list_of_parameters or [None]
        for weights in folds:
            if weights is not None and len(folds) > 1:
                self.network.load_state_dict(weights)
            swept = self.predict_sliding_window_return_logits(image).to("cpu", torch.float32)
            total = swept if total is None else total.add_(swept)
        if total is None:
            raise SetupError("the model has no folds.")
        return total / len(folds)

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(self, data: Tensor, slicers: list[Any], do_on_device: bool = True) -> Tensor:
        results_device = self.device if do_on_device else torch.device("cpu")
        data = data.to(results_device)
        patch = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, dtype=torch.float32, device=results_device)
        weights = torch.zeros(data.shape[1:], dtype=torch.float32, device=results_device)
        sums: Tensor | None = None
        for window in slicers:
            moments = self._window_moments(data[window][None].contiguous().to(self.device)).to(results_device)
            if sums is None:
                sums = torch.zeros((moments.shape[0], *data.shape[1:]), dtype=torch.float32, device=results_device)
            sums[window] += moments * gaussian
            weights[window[1:]] += gaussian
        if sums is None:
            raise SetupError("an image gave no sliding windows; is its preprocessed file empty?")
        return sums.div_(weights)

    def _window_moments(self, x: Tensor) -> Tensor:
        """(3H + U, *patch) for one window x (1, channels, *patch)."""
        sampler, heads = self._sampler(), self.heads
        moments = torch.zeros((3 * heads, *x.shape[2:]), dtype=torch.float32, device=x.device)
        for probs in sampler.samples(x, generator=self._generator):
            p = probs[0]
            moments[:heads] += p
            moments[heads : 2 * heads].addcmul_(p, p)
            if self.label_manager.has_regions:
                moments[2 * heads :] += p > 0.5
            else:
                winner = p.argmax(0, keepdim=True)
                moments[2 * heads :].scatter_add_(0, winner, torch.ones_like(winner, dtype=torch.float32))
        moments /= sampler.num_samples
        if sampler.num_samples == 1 and (log_variance := single_pass_log_variance(self.network, x)) is not None:
            return torch.cat([moments, log_variance[0].float()])
        return moments
