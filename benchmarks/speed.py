"""What the framework costs over its floor in plain PyTorch, interleaved; one process per number of threads.

OMP_NUM_THREADS=1 python -m benchmarks.speed --results benchmarks/results/speed.jsonl
OMP_NUM_THREADS=2 python -m benchmarks.speed --results benchmarks/results/speed.jsonl     # appends

On a GPU the same script runs in bf16-mixed, with and without torch.compile, and the large networks of the preset `h100` are
measured beside the small ones. Of either it says which share of the machine's own matrix rate a training step reaches.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmvae_clinical import Clinical
from mmvae_mri.contrast import Contrast
from mmvae_mri.dwi import DWI
from mmvae_mri.structural import T1, T2
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.setup import versions
from mmvae.batch import Batch, collate
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.latent.fusion import MoE, MoPoE, PoE
from mmvae.latent.gaussian import Gaussian, masked_sum
from mmvae.latent.objective import ELBO, Evidence, TotalCorrelation
from mmvae.model import MMVAE
from mmvae.phantom.cohort import write_phantom_cohort

LIMITS = {
    "PoE": 1.15,
    "MoPoE, one sampled component": 1.15,
    "MVTCAE": 1.15,
    "MoE, all M² decodings": 1.10,
    "embedding": 1.10,
}
RULES = {
    "PoE": (PoE(), ELBO()),
    "MoPoE, one sampled component": (MoPoE(), ELBO(components="sampled")),
    "MVTCAE": (PoE(prior_expert=False), TotalCorrelation()),
    "MoE, all M² decodings": (MoE(), ELBO()),
}


# How large a series' networks and grid are, and how many cases each step takes.
SCALES = {
    "2 cores": ({"preset": "cpu"}, 8),
    "one H100": ({"preset": "h100", "shape": (24, 80, 80), "spacing_mm": (3.5, 1.75, 1.75)}, 32),
}


def built(cohort: Cohort, rule: str, scale: str = "2 cores") -> MMVAE:
    """Five series with this scale's networks and grid, and the record; everything visible, everything decoded."""
    fusion, objective = RULES[rule]
    each = {"about": "lesion", **SCALES[scale][0]}
    recipes = {"t1": T1(**each), "t1_fs": T1(fat_saturated=True, **each), "t2": T2(**each), "dwi": DWI(**each),
               "contrast": Contrast(**each), "clinical": Clinical()}  # fmt: skip
    torch.manual_seed(0)
    model = MMVAE(recipes, fusion=fusion, objective=objective, visible=dict.fromkeys(recipes, 1.0))
    model.fit_recipes(cohort, cohort.split("train"))
    return model.train()


def whole_batch(cohort: Cohort, model: MMVAE, size: int) -> Batch:
    """A batch of cases that have every role, repeated as needed: the floor cannot skip a missing role."""
    data = CaseDataset(cohort, cohort.cases, model.modalities, ())
    single = [collate([data[i, 0]]) for i in range(len(cohort.cases))]
    whole = [i for i, batch in enumerate(single) if bool(batch.present.all())]
    batch = collate([data[whole[i % len(whole)], 0] for i in range(size)])
    return Batch(batch.observations, batch.present, tuple(f"c{i}" for i in range(size)))


def floor(model: MMVAE, batch: Batch, folds: int) -> torch.Tensor:
    """A loss in plain PyTorch: each encoder once, each decoder once on a batch `folds` times as large."""
    loss = torch.zeros(())
    for role in model.roles:
        observation = batch.observations[role].clean()
        q = model.encoders[role](observation.value, observation.mask)
        z = (q.mean + (q.logvar / 2).exp() * torch.randn_like(q.mean)).float()
        many = observation if folds == 1 else observation.rows(torch.arange(len(z)).repeat(folds))
        score = masked_sum(model.decoders[role](z.repeat(folds, 1)).log_prob(many.value).float(), many.mask)
        kl = 0.5 * (q.mean.square() + q.logvar.exp() - 1 - q.logvar).sum()
        loss = loss + (kl - model.weight_of[role] * score.sum() / folds) / len(q.mean)
    return loss


def stepper(
    model: MMVAE, loss: Callable[[], torch.Tensor], precision: torch.dtype | None
) -> Callable[[], None]:
    """A function that takes one step: forward, backward, optimiser."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    device = next(model.parameters()).device

    def step():
        with torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def interleaved(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, in turn; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(above: list[float], below: list[float]) -> dict:
    """Median of the rounds' ratios and their quartiles."""
    each = np.array(above) / np.array(below)
    low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
    return {"ratio": round(float(middle), 3), "quartiles": [round(float(low), 3), round(float(high), 3)], "seconds": round(float(np.median(above)), 4)}  # fmt: skip


def arithmetic(step_seconds: float) -> dict:
    """Fusion + bound alone, forward and backward, for 8 experts of 512 dimensions and 8 cases, as a share of a step."""
    measured, count, width, size = {}, 8, 512, 8
    for name, fusion, objective in (
        ("PoE", PoE(), ELBO()),
        ("MVTCAE", PoE(prior_expert=False), TotalCorrelation()),
        ("MoPoE, one sampled component", MoPoE(), ELBO(components="sampled")),
        ("MoPoE, all 255 components", MoPoE(), ELBO()),
    ):
        mean, logvar = (torch.randn(size, count, width, requires_grad=True) for _ in range(2))
        present = torch.rand(size, count) > 0.3
        components = 255 if isinstance(fusion, MoPoE) else 1
        noise = torch.randn(size, objective.samples(components), width)

        def task(mean=mean, logvar=logvar, present=present, noise=noise, fusion=fusion, objective=objective):
            experts = Gaussian(mean, logvar)
            posterior = fusion(experts, present)
            score = lambda z: z.mean(-1, keepdim=True).expand(*z.shape[:-1], count)  # noqa: E731
            evidence = Evidence(posterior, experts, present, present, (present, present), score, torch.ones(count), noise, 9, fusion)  # fmt: skip
            objective(evidence).loss.backward()

        rounds = 3 if objective.samples(components) == 255 else 30
        seconds = float(np.median(interleaved({"x": task}, rounds)["x"]))
        measured[name] = {"seconds": round(seconds, 5), "share of a step": round(seconds / step_seconds, 4)}
    return measured


def matrix_rate(device: torch.device, precision: torch.dtype | None) -> float:
    """Floating-point operations per second of one large square matrix product, the best of ten: what the machine can do."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=precision or torch.float32) for _ in range(2))

    def product():
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / min(interleaved({"x": product}, 10)["x"])


def operations(step: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products and convolutions in a step, forward and backward."""
    with FlopCounterMode(display=False) as counted:
        step()
    return counted.get_total_flops()


def share_of_the_machine(
    cohort: Cohort,
    scale: str,
    rounds: int,
    device: torch.device,
    precision: torch.dtype | None,
    compiled: bool,
) -> dict:
    """A PoE training step's floating-point rate as a share of the machine's matrix rate at the same precision.

    Args:
        cohort: Small; its cases are repeated.
        scale: A key of `SCALES`.
        rounds: Of which the median counts.
        device: Where the step runs.
        precision: Of autocast; None: float32.
        compiled: Whether the bound is compiled.
    """
    model = built(cohort, "PoE", scale).to(device)
    batch = whole_batch(cohort, model, SCALES[scale][1]).to(device)
    count = operations(stepper(model, lambda: model.bound(batch).loss, precision))
    bound = torch.compile(model.bound) if compiled else model.bound
    step = stepper(model, lambda: bound(batch).loss, precision)
    seconds = float(np.median(interleaved({"x": step}, rounds)["x"]))
    able = matrix_rate(device, precision)
    return {"TFLOP a step": round(count / 1e12, 4), "seconds": round(seconds, 4), "matrix rate, TFLOP/s": round(able / 1e12, 3),
            "share": round(count / seconds / able, 4)}  # fmt: skip


def measure(
    cohort: Cohort,
    size: int,
    rounds: int,
    device: torch.device,
    precision: torch.dtype | None,
    compiled: bool,
) -> dict:
    """The time of every rule over its floor, of embedding over the bare encoders, and of fusion + bound.

    Args:
        cohort: Small; its cases are repeated.
        size: Cases per step.
        rounds: Of which the median counts.
        device: Where the steps run.
        precision: Of autocast; None: float32.
        compiled: Whether the bound is compiled.
    """
    tasks, models = {}, {}
    for rule in RULES:
        model = built(cohort, rule).to(device)
        batch = whole_batch(cohort, model, size).to(device)
        models[rule] = model, batch
        bound = torch.compile(model.bound) if compiled else model.bound
        folds = len(model.roles) if rule.startswith("MoE") else 1
        tasks[rule] = stepper(model, lambda b=bound, x=batch: b(x).loss, precision)
        tasks[f"floor of {rule}"] = stepper(
            model, lambda m=model, x=batch, f=folds: floor(m, x, f), precision
        )
    model, batch = models["PoE"]

    @torch.no_grad()
    def embedding():
        model.eval()
        experts, _ = model.experts(batch)
        model.posterior(experts, batch.present).mean.sum().item()

    @torch.no_grad()
    def bare():
        model.eval()
        for role in model.roles:
            observation = batch.observations[role].clean()
            model.encoders[role](observation.value, observation.mask).mean.sum().item()

    seconds = interleaved(tasks, rounds)
    reading = interleaved({"embedding": embedding, "floor of embedding": bare}, 3 * rounds)
    every = seconds | reading
    ratios = {
        name: ratio(every[name], every[f"floor of {name}"]) | {"limit": LIMITS[name]} for name in LIMITS
    }
    scales = SCALES if device.type == "cuda" else ("2 cores",)
    shares = {s: share_of_the_machine(cohort, s, rounds, device, precision, compiled) for s in scales}
    return ratios | {
        "fusion + bound, M = 8, D = 512": arithmetic(ratios["PoE"]["seconds"]),
        "share of the machine's matrix rate": shares,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=8, help="cases per step")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, help="a line is appended")
    arguments = parser.parse_args()
    settings = [(torch.device("cpu"), None, False)]
    if torch.cuda.is_available():
        settings = [(torch.device("cuda"), torch.bfloat16, compiled) for compiled in (False, True)]
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_cohort(24, 1, Path(folder) / "cohort", (20, 2, 2), jobs=1)
        cohort = Cohort.load(Path(folder) / "cohort")
        for device, precision, compiled in settings:
            measured = measure(cohort, arguments.size, arguments.rounds, device, precision, compiled)
            card = (
                torch.cuda.get_device_name()
                if device.type == "cuda"
                else f"{platform.machine()}, {os.cpu_count()} cores"
            )
            line = {"measurement": measured, "threads": os.environ.get("OMP_NUM_THREADS", "unset"), "hardware": card,
                    "precision": str(precision or torch.float32), "compiled": compiled, "cases a step": arguments.size,
                    "rounds": arguments.rounds, "versions": versions()}  # fmt: skip
            print(json.dumps(line, indent=1))
            if arguments.results:
                with arguments.results.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
