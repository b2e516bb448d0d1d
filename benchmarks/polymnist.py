"""Five views of one digit over five textures (the construction of PolyMNIST), and what is measured of a model of them.

Sutter, Daunhawer & Vogt 2021, "Generalized multimodal ELBO", arXiv:2105.02470, section 4.3: view m shows another picture of
the same digit on a random patch of texture m, the patch inverted where the digit is drawn. Digits: MNIST; textures: five
photographs. Published figures need 60,000 cases and 300 epochs; here only the order of methods counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from pyro.distributions import Laplace
from torch import Tensor, nn
from torch.nn import functional

from mmvae.atomic import new_folder
from mmvae.batch import Observation, collate
from mmvae.case import Card, Case, Relevance, View
from mmvae.cohort import Cohort, write_cohort
from mmvae.data import CaseDataset
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.modality import Modality
from mmvae.model import MMVAE
from mmvae.splits import Split, Splits

TEXTURES = ("brick", "grass", "gravel", "coffee", "chelsea")
VIEWS = tuple(f"on_{name}" for name in TEXTURES)
SIDE, PIXELS = 28, "views.npy"
SIZES = (10_000, 500, 1_000)  # training, validation, test cases
SCALE = 0.75  # of the Laplace likelihood, pixels in 0…1 (Shi et al. 2019; Sutter et al. 2021)
DRAWS = 100  # importance samples per case


def compose(
    digit: Float[np.ndarray, "28 28"], texture: Float[np.ndarray, "h w 3"], rng: np.random.Generator
) -> Float[np.ndarray, "28 28 3"]:
    """A random patch of the texture, inverted as far as the digit's ink reaches; all in 0…1."""
    top, left = (int(rng.integers(0, n - SIDE + 1)) for n in texture.shape[:2])
    patch = texture[top : top + SIDE, left : left + SIDE]
    ink = digit[..., None]
    return (1 - ink) * patch + ink * (1 - patch)


def write(out: Path, data: Path, seed: int = 1, sizes: Sequence[int] = SIZES) -> None:
    """Writes the cohort: one array of all pictures, in which the number in its record finds a case's, and the digit as label.

    Training and validation cases take MNIST's training pictures, test cases its test pictures.

    Args:
        out: A path that is free.
        data: Folder that holds `backgrounds/` and `mnist/mnist.npz`.
        seed: Of textures' patches and digits' pictures.
        sizes: Training, validation and test cases.
    """
    rng = np.random.default_rng(seed)
    textures = [np.asarray(Image.open(data / "backgrounds" / f"{n}.jpg").convert("RGB")) / 255 for n in TEXTURES]  # fmt: skip
    with np.load(data / "mnist" / "mnist.npz") as kept:
        mnist = {
            part: (kept[f"x_{part}"] / 255, [np.flatnonzero(kept[f"y_{part}"] == d) for d in range(10)])
            for part in ("train", "test")
        }
    count = sum(sizes)
    pixels = np.empty((count, len(VIEWS), SIDE, SIDE, 3), np.uint8)
    digits = np.arange(count) % 10
    for n in range(count):
        drawn, of_digit = mnist["train" if n < count - sizes[2] else "test"]
        for m, picture in enumerate(rng.choice(of_digit[digits[n]], len(VIEWS), replace=False)):
            pixels[n, m] = np.round(255 * compose(drawn[picture], textures[m], rng))
    names = [f"p{n:05d}" for n in range(count)]
    cases = [
        Case(name, name, record={"number": n}, labels={"digit": str(digits[n])})
        for n, name in enumerate(names)
    ]
    first, second = sizes[0], sizes[0] + sizes[1]
    splits = Splits((Split(tuple(names[:first]), tuple(names[first:second]), tuple(names[second:])),))
    card = Card(
        "polymnist",
        "MNIST digits over photographs",
        {"cases": count},
        targets=("digit",),
        relevance=(Relevance(1, ("digit",)),),
    )
    with new_folder(out) as folder:
        np.save(folder / PIXELS, pixels)
        (folder / "cases").mkdir()
        (folder / "skipped.jsonl").write_text("")
        write_cohort(folder, card, cases, splits)


@cache
def _pixels(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


class _Encoder(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.body = convolutions()
        self.head = nn.Linear(64 * 16, 2 * latent_dim)

    def forward(self, value: Float[Tensor, "B 3 28 28"], mask: Tensor) -> Gaussian:
        mean, logvar = self.head(self.body(value - 0.5)).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


def convolutions() -> nn.Sequential:
    """A picture (B, 3, 28, 28) → (B, 1024) features."""
    layers: list[nn.Module] = []
    for before, width in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten())


class _Decoder(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(latent_dim, 64 * 16), nn.SiLU(), nn.Unflatten(1, (64, 4, 4)))
        self.body = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 3, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.SiLU(),
            nn.ConvTranspose2d(16, 3, 3, 2, 1, 1),
        )  # fmt: skip

    def forward(self, z: Float[Tensor, "B D"]) -> Laplace:
        mean = self.body(self.head(z)).float() + 0.5
        return Laplace(mean, torch.full_like(mean, SCALE), validate_args=False)


@dataclass(frozen=True)
class Digit(Modality):
    """One view, value and mask (3, 28, 28), colours in 0…1.

    Args:
        view: Which of the five.
    """

    view: int = 0

    def present(self, view: View) -> bool:
        return "number" in view.record

    def _picture(self, view: View) -> np.ndarray:
        path = view.root / PIXELS
        if not path.is_file():
            raise InputError(
                f"the cohort has no {PIXELS}; it is written by `mmvae-bench run` with a polymnist cell"
            )
        return _pixels(path)[int(view.record["number"]), self.view]

    def read(self, view: View) -> Observation:
        value = torch.from_numpy(self._picture(view).astype(np.float32) / 255).permute(2, 0, 1)
        return Observation(value.contiguous(), torch.ones(3, SIDE, SIDE, dtype=torch.bool))

    def blank(self) -> Observation:
        return Observation(torch.zeros(3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE, dtype=torch.bool))

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        return _Decoder(latent_dim)

    def render(self, view: View) -> Image.Image:
        return Image.fromarray(np.array(self._picture(view)))


# ---- what is measured -------------------------------------------------------------------------------------------


def judge(model: MMVAE, cohort: Cohort) -> dict:
    """Coherence by number of inputs, joint coherence, linear classification, importance-sampled log-likelihood (test cases).

    coherence: share of generated views, given so many others, in which a classifier sees the case's digit. joint: share of
    draws from the prior in all of whose five views it sees the same digit. classification: accuracy of logistic regression on the
    posterior mean, fitted on 2,000 training cases. log_likelihood: nats per case by `DRAWS` importance samples.
    """
    training = _pictures(model, cohort, cohort.split("train"))
    test = _pictures(model, cohort, cohort.split("test"))
    classifiers = [_classifier(cohort.root, m, training) for m in range(len(VIEWS))]
    torch.manual_seed(0)
    with torch.no_grad():
        measured = {
            "classifiers' accuracy on real views": [
                _share(c(x).argmax(1) == test.digit) for c, x in zip(classifiers, test.views)
            ],
            "coherence by inputs": _coherence(model, test, classifiers),
            "joint coherence": _joint(model, classifiers),
            "linear classification by inputs": _linear(model, training, test),
        }
        few = _Pictures([x[:250] for x in test.views], test.digit[:250])
        values = log_likelihood(_posterior(model, few, range(len(VIEWS))), lambda z: _score(model, few, z))
    measured[f"log-likelihood, {DRAWS} importance samples"] = round(float(values.mean()), 2)
    measured["its standard error"] = round(float(values.std() / len(values) ** 0.5), 2)
    return measured


@dataclass(frozen=True)
class _Pictures:
    """Each view of N cases, and the digit that they show."""

    views: list[Float[Tensor, "N 3 28 28"]]
    digit: Int[Tensor, " N"]


def _pictures(model: MMVAE, cohort: Cohort, cases: Sequence[Case]) -> _Pictures:
    data = CaseDataset(cohort, cases, model.modalities, ())
    batch = collate([data[n, 0] for n in range(len(cases))])
    digit = torch.tensor([int(case.labels["digit"]) for case in cases])
    return _Pictures([batch.observations[role].value for role in model.roles], digit)


def _classifier(root: Path, m: int, training: _Pictures) -> nn.Module:
    """The classifier of one view's pictures, trained on training cases alone and kept beside the cohort."""
    torch.manual_seed(m)
    net = nn.Sequential(convolutions(), nn.Linear(64 * 16, 10))
    path = root / f"classifier-{m}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(len(training.digit)).split(64):
            loss = functional.cross_entropy(net(training.views[m][rows]), training.digit[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(net.state_dict(), path)
    return net.eval()


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def _posterior(model: MMVAE, pictures: _Pictures, inputs: Sequence[int]) -> Posterior:
    """The joint posterior of these views alone."""
    count, encoded = len(pictures.digit), {}
    for m in inputs:
        encoded[m] = model.encoders[model.roles[m]](pictures.views[m], None)
    absent = torch.zeros(count, model.latent_dim)
    mean = torch.stack([encoded[m].mean if m in encoded else absent for m in range(len(VIEWS))], 1)
    logvar = torch.stack([encoded[m].logvar if m in encoded else absent for m in range(len(VIEWS))], 1)
    present = torch.tensor([[m in encoded for m in range(len(VIEWS))]]).expand(count, -1)
    return model.posterior(Gaussian(mean, logvar), present)


def _coherence(model: MMVAE, test: _Pictures, classifiers: Sequence[nn.Module]) -> dict[str, float]:
    by_size = {}
    for size in range(1, len(VIEWS)):
        right = []
        for inputs in combinations(range(len(VIEWS)), size):
            z = _posterior(model, test, inputs).rsample()
            for m in set(range(len(VIEWS))) - set(inputs):
                drawn = model.decoders[model.roles[m]](z).mean
                right.append(classifiers[m](drawn).argmax(1) == test.digit)
        by_size[str(size)] = _share(torch.stack(right))
    return by_size


def _joint(model: MMVAE, classifiers: Sequence[nn.Module], draws: int = 1000) -> float:
    z = torch.randn(draws, model.latent_dim)
    digits = torch.stack(
        [c(model.decoders[role](z).mean).argmax(1) for c, role in zip(classifiers, model.roles)]
    )
    return _share((digits == digits[0]).all(0))


def _linear(model: MMVAE, training: _Pictures, test: _Pictures, fitted_on: int = 2000) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression

    few = _Pictures([x[:fitted_on] for x in training.views], training.digit[:fitted_on])
    by_size: dict[str, list[float]] = {}
    for size in range(1, len(VIEWS) + 1):
        for inputs in combinations(range(len(VIEWS)), size):
            a, b = (_posterior(model, pictures, inputs).mean.numpy() for pictures in (few, test))
            classifier = LogisticRegression(max_iter=1000).fit(a, few.digit.numpy())
            by_size.setdefault(str(size), []).append(float(classifier.score(b, test.digit.numpy())))
    return {size: round(float(np.mean(each)), 4) for size, each in by_size.items()}


def log_likelihood(
    posterior: Posterior, score: Callable[[Tensor], Tensor], draws: int = DRAWS
) -> Float[Tensor, " N"]:
    """log (1/K) Σ_k p(x | z_k) p(z_k) / q(z_k), z_k ~ q (Burda et al. 2016, eq. 8): a lower bound that rises with K.

    Args:
        posterior: q, of N cases.
        score: z (N, D) → log p(x | z) (N,), in nats.
        draws: K.
    """
    ratios = []
    for _ in range(draws):
        z = posterior.rsample()
        prior = Gaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
        ratios.append(score(z) + prior - posterior.log_prob(z))
    return torch.logsumexp(torch.stack(ratios), 0) - float(np.log(draws))


def _score(model: MMVAE, pictures: _Pictures, z: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    each = [
        model.decoders[role](z).log_prob(x).flatten(1).sum(1) for role, x in zip(model.roles, pictures.views)
    ]
    return torch.stack(each).sum(0)
