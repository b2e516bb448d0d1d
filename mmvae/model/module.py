"""The LightningModule: it encodes and fuses the visible roles of a case, and scores every present role by its decoder."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mmvae.batch import Batch, Observation
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.discovery import kind_of, origin_of
from mmvae.errors import InputError
from mmvae.latent.fusion import Fusion, PoE
from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.objective import ELBO, Bound, Evidence, Objective
from mmvae.latent.space import Distance, Readout, RetrievalSpace, readouts
from mmvae.modality import Modality
from mmvae.model.bound import BatchBound, refuse_non_finite
from mmvae.model.checkpoint import config_differences, digest_of, read_checkpoint, refuse_foreign_files
from mmvae.model.encoding import encode as encode_batch
from mmvae.model.fitting import fit_recipe
from mmvae.model.logging import parts_of, table_of_roles
from mmvae.model.scoring import score
from mmvae.model.settings import check_draws, check_objective, check_roles
from mmvae.model.visibility import Visibility, VisibilityDraw
from mmvae.plain import from_plain, to_plain

BALANCED = 300.0  # weight × values of a complete observation, for a role without a weight of its own

_log = logging.getLogger(__name__)


class MMVAE(LightningModule):
    """A multimodal VAE for any set of modalities, of which any subset may be missing.

    >>> from mmvae_clinical import Clinical
    >>> age = Clinical(("age_years",), centre=(50.0,), spread=(10.0,), log=(False,), categories=((),))  # fitted by hand
    >>> model = MMVAE({"clinical": age}, latent_dim=4)
    >>> model.build()
    >>> batch = Batch({"clinical": Observation(torch.zeros(2, 1), torch.ones(2, 1).bool())}, torch.ones(2, 1).bool(), "ab")
    >>> experts, _ = model.experts(batch)
    >>> tuple(model.posterior(experts, batch.present).mean.shape)
    (2, 4)

    Args:
        modalities: Recipes by role.
        latent_dim: Number of latent dimensions, D.
        fusion: Rule that joins the experts.
        objective: Bound that is maximised.
        answer_roles: Roles that see answers: decoded in training, left out of every headline query.
        weights: Factor on each role's summed log-likelihood; `balanced`, the default for a role, is 300 / number of values of
            a complete observation; 1 for every role gives the exact bound.
        visible: Probability that a role is encoded in a training step; 0.5 by default.
        subsets: Number of visible subsets that a training step draws per case. They share one encoding. Answer roles, whose
            decoders are small, are scored under each; every other role under one of them, scaled so that the expectation
            is the same (the subsampled bound of Wu & Goodman 2018, section 2.2, at the cost of one decoding).
        scored: Probability that a training step decodes a role of a case, answer roles excepted; its log-likelihood is divided
            by it, so that the expectation is the same. Below 1 a step is faster and its gradient noisier.
        groups: Named sets of roles for evaluation and page.
        lr: Learning rate of AdamW, with a cosine schedule to a tenth over the run.
        weight_decay: Weight decay of AdamW.
        seed: Seed of noise and visibility, which are keyed by case and epoch.
    """

    def __init__(
        self,
        modalities: dict[str, Modality],
        latent_dim: int = 64,
        fusion: Fusion = PoE(),  # noqa: B008 - frozen
        objective: Objective = ELBO(),  # noqa: B008 - frozen
        answer_roles: list[str] = [],  # noqa: B006 - read only; jsonargparse shows it
        weights: dict[str, float | Literal["balanced"]] = {},  # noqa: B006
        visible: dict[str, float] = {},  # noqa: B006
        subsets: int = 1,
        scored: float = 1.0,
        groups: dict[str, list[str]] = {},  # noqa: B006
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
    ):
        super().__init__()
        self.modalities = dict(modalities)
        members = {f"groups.{name}": group for name, group in groups.items()}
        named = {"answer_roles": answer_roles, "weights": list(weights), "visible": list(visible), **members}
        check_roles(self.roles, named)
        check_draws(subsets, scored, visible)
        self.latent_dim, self.rule, self.objective = latent_dim, fusion, objective
        check_objective(objective, self.roles, self._components())
        self.answer_roles, self.groups = list(answer_roles), dict(groups)
        self.weights, self.visible = dict(weights), dict(visible)
        self.subsets, self.scored = subsets, scored
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed
        self._readout: Readout | None = None
        self._distance: Distance = "cosine"
        self.data_identity: dict[str, Any] = {}
        self.supervision: dict[str, str] = {}
        self.bare = {role: to_plain(recipe) for role, recipe in self.modalities.items()}
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self.log_power = nn.Parameter(torch.zeros(len(self.modalities))) if fusion.learns_power else None
        self.visibility = Visibility(
            tuple(self.visible.get(role, 0.5) for role in self.roles),
            tuple(role in self.answer_roles for role in self.roles),
            subsets,
            scored,
            seed,
        )

    # ---- building -----------------------------------------------------------------------------------------------

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles in their order: axis M."""
        return tuple(self.modalities)

    @property
    def query_roles(self) -> tuple[str, ...]:
        """All roles but the answer roles; a query by all of them is called "full"."""
        return tuple(role for role in self.modalities if role not in self.answer_roles)

    def setup(self, stage: str | None = None) -> None:
        """Fits the recipes on the training cases and builds the networks, unless a checkpoint already has."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.data_identity = data.identity()
        if not self.encoders:
            if data is None:
                raise InputError(
                    "the model is not fitted and the trainer has no data module; pass datamodule=CaseData(...)"
                )
            self.fit_recipes(data.cohort, data.cases("train"))

    def fit_recipes(self, cohort: Cohort, training: Sequence[Case]) -> None:
        """Replaces each recipe by the one fitted on the training cases, then builds encoders and decoders.

        Raises:
            InputError: if a role is present only because of answers and is not listed in `answer_roles`.
        """
        for role, recipe in self.modalities.items():
            answer_role = role in self.answer_roles
            self.modalities[role] = fit_recipe(recipe, role, answer_role, cohort, training)
            self.supervision[role] = recipe.teaches(kind_of(recipe, role)) if answer_role else "none"
        self.build()

    def build(self) -> None:
        """Builds encoders and decoders from the fitted recipes."""
        for role, recipe in self.modalities.items():
            self.encoders[role] = recipe.encoder(self.latent_dim)
            self.decoders[role] = recipe.decoder(self.latent_dim)
        self.weight_of = {role: self._weight(role) for role in self.roles}

    def _weight(self, role: str) -> float:
        weight = self.weights.get(role, "balanced")
        return (
            BALANCED / self.modalities[role].blank().value.numel() if weight == "balanced" else float(weight)
        )

    # ---- what it computes -----------------------------------------------------------------------------------------

    def experts(
        self, batch: Batch, encode: Bool[Tensor, "B M"] | None = None
    ) -> tuple[Gaussian, Float[Tensor, ""]]:
        """Each role's Gaussian (B, M, D) for the rows marked in `encode` (by default all present ones), the prior elsewhere.

        The second value is 0 with a gradient path to every encoder, so that DDP needs no special strategy.
        """
        selected = batch.present if encode is None else encode & batch.present
        return encode_batch(batch, selected, self.modalities, self.encoders, self.latent_dim)

    def log_likelihoods(
        self, batch: Batch, z: Float[Tensor, "S N D"], share: Float[Tensor, "N M"] | None = None
    ) -> Float[Tensor, "S N M"]:
        """Unweighted log p(x_m | z) of each case's present roles, summed over the measured values; 0 where absent.

        With several z per case, N = B × subsets. Each value is multiplied by its share; a share of 0 is not decoded.
        """
        if share is None:
            share = torch.ones(z.shape[1], len(self.roles), dtype=z.dtype, device=z.device)
        return score(batch, z, share, self.modalities, self.decoders)

    def posterior(self, experts: Gaussian, present: Bool[Tensor, "B M"]) -> Posterior:
        """The joint posterior of these experts, with a gradient to learned powers."""
        power = None if self.log_power is None else self.log_power.exp()
        return self.rule(experts, present, power)

    @property
    def space(self) -> RetrievalSpace:
        """The retrieval space of this model: it forms points from experts and compares them."""
        power = None if self.log_power is None else tuple(self.log_power.detach().exp().tolist())
        return RetrievalSpace(self.rule, power, self._readout, self._distance)

    def choose_space(self, readout: Readout | None, distance: Distance) -> None:
        """Sets the readout and distance of the retrieval space; checkpoints keep them."""
        self._readout, self._distance = readout, distance

    def readouts(self, means: Float[Tensor, "N D"]) -> list[Readout]:
        """Candidate readouts from the decoders of the answer roles."""
        return readouts([self.decoders[role] for role in self.answer_roles], means)

    # ---- training ---------------------------------------------------------------------------------------------------

    def _components(self) -> int:
        count = len(self.roles)
        experts = Gaussian(torch.zeros(1, count, 1), torch.zeros(1, count, 1))
        return self.rule(experts, torch.ones(1, count, dtype=torch.bool)).log_weight.shape[1]

    def training_draw(self, batch: Batch) -> VisibilityDraw:
        """The random choices of a training step in this epoch."""
        samples = self.objective.samples(self._components())
        return self.visibility.training(
            batch.case_ids, batch.present, samples, self.latent_dim, self.current_epoch
        )

    def evaluation_draw(self, batch: Batch) -> VisibilityDraw:
        """All roles but the answer roles are visible; the noise is the same at every epoch."""
        samples = self.objective.samples(self._components())
        return self.visibility.evaluation(batch.case_ids, batch.present, samples, self.latent_dim)

    def bound(self, batch: Batch, draw: VisibilityDraw | None = None) -> BatchBound:
        """The bound of a batch and what it was formed from, under the training draw by default."""
        draw = self.training_draw(batch) if draw is None else draw
        visible, subsets = draw.visible, len(draw.visible) // len(batch.present)
        encoded = visible.unflatten(0, (-1, subsets)).any(1)
        experts, tie = self.experts(batch, encoded)
        by_row = Gaussian(*(x.repeat_interleave(subsets, 0) for x in (experts.mean, experts.logvar)))
        posterior = self.posterior(by_row, visible)
        evidence = Evidence(
            posterior,
            experts,
            encoded,
            visible,
            draw.halves,
            lambda z: self.log_likelihoods(batch, z, draw.share),
            torch.tensor([self.weight_of[role] for role in self.roles], device=visible.device),
            draw.noise,
            self.current_epoch,
            self.posterior,
            {role: _flat(batch.observations[role].clean()) for role in self.objective.reads()},
        )
        bound = self.objective(evidence)
        log_likelihood, kl = (x.unflatten(0, (-1, subsets)).mean(1) for x in (bound.log_likelihood, bound.kl))
        by_case = Bound(bound.loss, log_likelihood, kl, bound.parts)
        return BatchBound(by_case, posterior, experts, encoded, tie)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        result = self.bound(batch)
        refuse_non_finite(result.bound, batch, self.roles, self.current_epoch)
        self._log_parts("train", result, batch)
        return result.loss

    def validation_step(self, batch: Batch, index: int) -> dict[str, object]:
        """Logs the parts of the bound; returns each case's posterior mean without answers, by which the monitor ranks."""
        result = self.bound(batch, self.evaluation_draw(batch))
        self._log_parts("val", result, batch)
        return {"case_ids": list(batch.case_ids), "mean": result.posterior.mean.detach().cpu()}

    def test_step(self, batch: Batch, index: int) -> None:
        self._log_parts("test", self.bound(batch, self.evaluation_draw(batch)), batch)

    def _log_parts(self, stage: str, result: BatchBound, batch: Batch) -> None:
        for name, value in parts_of(result, batch, self.roles):
            self.log(
                f"{stage}/{name}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                batch_size=len(batch.case_ids),
                sync_dist=self.trainer.world_size > 1 and stage != "train",
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        total = (
            max(1, int(self.trainer.estimated_stepping_batches))
            if math.isfinite(self.trainer.estimated_stepping_batches)
            else 1
        )
        warm = min(50, total // 10 + 1)

        def factor(step: int) -> float:
            return min((step + 1) / warm, 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / total, 1))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def summary(self) -> str:
        """A table with class, weight, visibility and supervision of each role."""
        return table_of_roles(self.modalities, self.weight_of, self.visibility.probability, self.supervision)

    def on_fit_start(self) -> None:
        if self.trainer.is_global_zero:
            for line in self.summary().splitlines():
                _log.info(line)

    # ---- checkpoints --------------------------------------------------------------------------------------------------

    def config(self) -> dict:
        """All `model.*` settings as plain values, with recipes before fitting; a resumed run compares them."""
        return {
            "modalities": self.bare,
            "latent_dim": self.latent_dim,
            "fusion": to_plain(self.rule),
            "objective": to_plain(self.objective),
            "answer_roles": self.answer_roles,
            "weights": self.weights,
            "visible": self.visible,
            "subsets": self.subsets,
            "scored": self.scored,
            "groups": self.groups,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mmvae"] = {
            "config": self.config(),
            "fitted": {role: to_plain(recipe) for role, recipe in self.modalities.items()},
            "origin": {role: origin_of(recipe) for role, recipe in self.modalities.items()},
            "supervision": self.supervision,
            "space": to_plain(self.space),
            "data": self.data_identity,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores the fitted recipes; refuses a checkpoint of another model, cohort or split, naming each field that differs."""
        stored = checkpoint.get("mmvae")
        if stored is None:
            raise InputError("the checkpoint was not written by mmvae; it has no entry 'mmvae'")
        refuse_foreign_files(checkpoint.get("callbacks") or {})
        differing = config_differences(self.config(), stored["config"])
        if self.data_identity and stored["data"]:
            differing += [
                f"data: the {k} differs" for k, v in self.data_identity.items() if stored["data"].get(k) != v
            ]
        if differing:
            raise InputError(
                "this checkpoint belongs to another run: "
                + "; ".join(differing)
                + ". Resume with the YAML in its folder, or start a new run without a checkpoint (trainer.* may differ)"
            )
        self.supervision = stored["supervision"]
        self.choose_space(*_readout_and_distance(stored))
        fitted = {role: from_plain(plain, Modality) for role, plain in stored["fitted"].items()}
        if not self.encoders or fitted != self.modalities:
            self.modalities = fitted
            self.build()

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride] - Lightning's would run pickles
        cls, checkpoint_path: str | Path, map_location: str = "cpu", **_: Any
    ) -> "MMVAE":
        """The model of a checkpoint, in evaluation mode; only plain values are read (`weights_only=True`).

        Raises:
            InputError: naming what is wrong with the file.
        """
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path, map_location)
        try:
            return cls._built_from(checkpoint)
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            # What the file holds under its keys may be anything.
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path.name} is damaged, or a checkpoint of another version of mmvae or a plugin ({type(error).__name__}: {reason})"
            ) from error

    @classmethod
    def _built_from(cls, checkpoint: dict) -> "MMVAE":
        stored = checkpoint["mmvae"]
        config = dict(stored["config"])
        config["modalities"] = {
            role: from_plain(plain, Modality) for role, plain in config["modalities"].items()
        }
        config["fusion"] = from_plain(config["fusion"], Fusion)
        config["objective"] = from_plain(config["objective"], Objective)
        model = cls(**config)
        model.data_identity = stored["data"]
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        return model.eval()

    def fingerprint(self) -> str:
        """SHA-256 of fitted recipes, space and encoder weights: models with the same fingerprint give a case the same point."""
        plain = {role: to_plain(recipe) for role, recipe in self.modalities.items()}
        return digest_of([plain, to_plain(self.space), self.answer_roles], self.encoders.state_dict())


def _readout_and_distance(stored: Mapping[str, Any]) -> tuple[Readout | None, Distance]:
    """Readout and distance from a checkpoint's entry; release 0.1 stored them as entries of their own."""
    plain = stored.get("space")
    if plain is None:
        readout = stored["readout"]
        if readout is not None:
            arguments = dict(zip(("matrix", "offset", "exponent"), readout))
            readout = {"class_path": f"{Readout.__module__}.Readout", "init_args": arguments}
        arguments = {"readout": readout, "distance": stored["distance"]}
        plain = {"class_path": f"{RetrievalSpace.__module__}.RetrievalSpace", "init_args": arguments}
    space = from_plain(plain, RetrievalSpace)
    return space.readout, space.distance


def _flat(observation: Observation) -> tuple[Float[Tensor, "B V"], Bool[Tensor, "B V"]]:
    """The values of each case as one row, and whether each was measured; a mask is repeated for every value of its event."""
    event = (1,) * (observation.value.dim() - observation.mask.dim())
    mask = observation.mask.reshape(*observation.mask.shape, *event).expand(observation.value.shape)
    return observation.value.flatten(1).float(), mask.flatten(1)
