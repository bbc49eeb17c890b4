"""nnU-Net's sliding window, leaving moments and votes of K samples instead of mean logits."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from torch import Tensor, nn

from nnunet_ssl.errors import SetupError
from nnunet_ssl.networks.sampling import Draw, StochasticSampler, single_pass, unwrap
from nnunet_ssl.nnunet_api.stock_logits import StockLogits
from nnunet_ssl.nnunet_api.trained_model import load_trained_model


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
        self.head_is_trained = False
        self._with_logits = False
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
        model = load_trained_model(model_folder, folds)
        self.use_network(
            model.network,
            model.plans_manager,
            model.configuration_manager,
            model.parameters,
            model.dataset_json,
            model.trainer_name,
            model.mirroring_axes,
        )
        self.head_is_trained = model.head_is_trained

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
        return self._sampler().num_samples * self.num_folds

    @property
    def num_folds(self) -> int:
        return max(1, len(self.list_of_parameters or ()))

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
        for _ in self._each_fold():
            swept = self.predict_sliding_window_return_logits(image).to("cpu", torch.float32)
            total = swept if total is None else total.add_(swept)
        if total is None:
            raise SetupError("the model has no folds.")
        return total.div_(self.num_folds)

    @torch.inference_mode()
    def sweep_with_logits(self, image: Tensor, *, seed: int = 0) -> tuple[list[Tensor], Tensor]:
        """Evidence of one preprocessed image by each fold, and the logits that nnU-Net's own prediction would have.

        Args:
            image: (channels, X, Y, Z) float32.
            seed: of the dropout draws of every fold.

        Returns:
            One tensor per fold as `sweep` returns it; and (H, X, Y, Z) half on the CPU, the mean over windows, mirrored views and folds.
        """
        evidence: list[Tensor] = []
        logits: Tensor | None = None
        self._with_logits = True
        try:
            for _ in self._each_fold():
                self._generator.manual_seed(seed)
                swept = self.predict_sliding_window_return_logits(image).to("cpu", torch.float32)
                evidence.append(swept[: -self.heads].clone())
                # what was a half is one again without loss, and halves are what nnU-Net averages folds in
                of_fold = swept[-self.heads :].half()
                logits = of_fold if logits is None else logits.add_(of_fold)
        finally:
            self._with_logits = False
        if logits is None:
            raise SetupError("the model has no folds.")
        return evidence, logits if len(evidence) == 1 else logits.div_(len(evidence))

    def _each_fold(self) -> Iterator[None]:
        """Give the network the weights of one fold after another."""
        folds = self.list_of_parameters or [None]
        for weights in folds:
            if weights is not None and len(folds) > 1:
                unwrap(self.network).load_state_dict(weights)
            yield

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(self, data: Tensor, slicers: list[Any], do_on_device: bool = True) -> Tensor:
        state = self._generator.get_state()
        try:
            return self._sweep_windows(data, slicers, self.device if do_on_device else torch.device("cpu"))
        except Exception as error:
            # out of memory nnU-Net tries again while it handles this error, which would keep on the device what the attempt has put there
            traceback.clear_frames(error.__traceback__)
            empty_cache(self.device)
            self._generator.set_state(state)
            raise

    def _sweep_windows(self, data: Tensor, slicers: list[Any], results_device: torch.device) -> Tensor:
        """Weighted means over the windows; sums are kept on one device, windows go through the network on the predictor's."""
        data = data.to(results_device)
        patch = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, dtype=torch.float32, device=results_device)
        weights = torch.zeros(data.shape[1:], dtype=torch.float32, device=results_device)
        stock = None
        if self._with_logits:
            stock = StockLogits(heads=self.heads, image_size=data.shape[1:], patch_size=patch, device=results_device)
        sums: Tensor | None = None
        for window in slicers:
            found, logits = self._window_moments(data[window][None].contiguous().to(self.device))
            moments = found.to(results_device)
            if sums is None:
                sums = torch.zeros((moments.shape[0], *data.shape[1:]), dtype=torch.float32, device=results_device)
            sums[window] += moments * gaussian
            weights[window[1:]] += gaussian
            if stock is not None and logits is not None:
                stock.add(logits, window)
        if sums is None:
            raise SetupError("an image gave no sliding windows; is its preprocessed file empty?")
        sums.div_(weights)
        if stock is None:
            return sums
        return torch.cat([sums.cpu(), stock.mean().cpu().float()])  # both at once would be the most that the device has to hold

    def _window_moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(3H + U, *patch) for one window x (1, channels, *patch), and where asked for (H, *patch) logits, the mean of nnU-Net's draws."""
        sampler = self._sampler()
        moments = torch.zeros((3 * self.heads, *x.shape[2:]), dtype=torch.float32, device=x.device)
        if sampler.num_samples == 1:
            logits, log_variance = single_pass(self.network, x)
            self._add(moments, Draw(logits, (), is_plain=True))
            if log_variance is not None and self.head_is_trained:  # what a head says that never learnt is no variance
                moments = torch.cat([moments, log_variance[0].float()])
            return moments, logits[0]
        plain: Tensor | None = None
        for draw in sampler.draws(x, generator=self._generator, view_by_view=self._with_logits):
            self._add(moments, draw)
            if draw.is_plain and self._with_logits:
                plain = draw.logits[0] if plain is None else plain + draw.logits[0]
        return moments.div_(sampler.num_samples), None if plain is None else plain / len(sampler.views)

    def _add(self, moments: Tensor, draw: Draw) -> None:
        """Add one sample to the sums of P, P^2 and votes."""
        heads, p = self.heads, self._sampler().probabilities(draw)[0]
        moments[:heads] += p
        moments[heads : 2 * heads].addcmul_(p, p)
        if self.label_manager.has_regions:
            moments[2 * heads :] += p > 0.5
        else:
            winner = p.argmax(0, keepdim=True)
            moments[2 * heads :].scatter_add_(0, winner, torch.ones_like(winner, dtype=torch.float32))
