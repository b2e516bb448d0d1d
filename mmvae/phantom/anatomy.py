"""Builds the anatomy of a digital patient: a tissue label volume in patient LPS mm, with two layers per slice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvae.phantom.patient import Patient, parameters

TISSUES = (*parameters()["tissues"], "mucin_a", "mucin_b", "mucin_c")
CODE = {name: np.uint8(i) for i, name in enumerate(TISSUES)}


@dataclass(frozen=True)
class Anatomy:
    """Tissue codes (z, y, x), step in mm along z, y, x, the lesion's centre in mm (x, y, z) and its side."""

    label: NDArray[np.uint8]
    step_mm: tuple[float, float, float]
    lesion_mm: tuple[float, float, float]
    side: str
    mask: NDArray[np.bool_]

    @property
    def corner_mm(self) -> NDArray:
        """LPS of the first voxel's centre; the grid is centred at the origin."""
        n = np.array(self.label.shape[::-1])
        return -(n - 1) / 2 * np.array(self.step_mm[::-1])


def smooth_noise(rng, shape, cells, amplitude):
    """A random field, linearly interpolated between cells.

    Args:
        rng: Draws the values at the corners of the cells.
        shape: Voxels along each axis.
        cells: Cells along each axis.
        amplitude: Standard deviation at the corners.
    """
    field = rng.standard_normal(tuple(c + 1 for c in cells)).astype(np.float32) * amplitude
    for axis, n in enumerate(shape):
        at = np.linspace(0, field.shape[axis] - 1, n, dtype=np.float32)
        low = np.minimum(at.astype(int), field.shape[axis] - 2)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        field = np.take(field, low, axis) * (1 - share) + np.take(field, low + 1, axis) * share
    return field


def build(
    patient: Patient, matrix: int = 128, slices: int = 32, fov_mm: float = 256.0, depth_mm: float = 112.0
) -> Anatomy:
    """The patient's pelvis on a grid; the same patient gives the same anatomy on any grid.

    Args:
        patient: Whose pelvis it is.
        matrix: Voxels along each side of a slice.
        slices: Number of slices.
        fov_mm: Side of a slice.
        depth_mm: Height of all slices together.
    """
    rng = np.random.default_rng([patient.rng_seed % 2**32, 1])
    shape, step = (slices, matrix, matrix), (depth_mm / slices, fov_mm / matrix, fov_mm / matrix)
    axes = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, step)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    x, y, z = (a + smooth_noise(rng, shape, (3, 5, 5), 3.0) for a in (x, y, z))
    label = np.zeros(shape, np.uint8)

    def ellipsoid(centre, half, bumps=0.0):
        cx, cy, cz = centre
        r2 = ((x - cx) / half[0]) ** 2 + ((y - cy) / half[1]) ** 2 + ((z - cz) / half[2]) ** 2
        if bumps:
            r2 = r2 * (1 + smooth_noise(rng, shape, (4, 8, 8), bumps))
        return r2

    width, depth = rng.uniform(0.9, 1.08), rng.uniform(0.88, 1.1)
    body = ((x / (118 * width)) ** 2) ** 1.3 + ((y / (88 * depth)) ** 2) ** 1.3
    label[body < 1] = CODE["fat"]
    label[body < rng.uniform(0.72, 0.85)] = CODE["muscle"]
    cavity = ((x / (80 * width)) ** 2 + ((y + 4) / (60 * depth)) ** 2) < 1
    label[cavity] = CODE["bowel"]
    label[cavity & (smooth_noise(rng, shape, (8, 18, 18), 1.0) > 0.25)] = CODE["fat"]
    for sign in (-1, 1):
        label[ellipsoid((sign * 84 * width, 22, -8), (18, 20, 60)) < 1] = CODE["bone"]
    label[ellipsoid((0, 72 * depth, 0), (30, 16, 70)) < 1] = CODE["bone"]
    f = patient.findings
    if f.ascites:
        fluid = cavity & (smooth_noise(rng, shape, (5, 10, 10), 1.0) + (y / 60) > 0.35)
        label[fluid] = CODE["ascites"]
    bladder = rng.uniform(18, 34)
    label[ellipsoid((rng.normal(0, 3), -34 * depth, -18), (bladder * 1.2, bladder * 0.8, bladder)) < 1] = (
        CODE["urine"]
    )
    lean = rng.normal(0, 6)
    womb = 0.8 if not f.premenopausal else 1.0
    uterus = ellipsoid((lean, 4, -6), (27 * womb, 21 * womb, 34 * womb), 0.08)
    label[uterus < 1] = CODE["myometrium"]
    label[uterus < 0.06] = CODE["endometrium"]
    side = rng.choice([-1, 1])  # the patient's left is +x in LPS
    for sign in (-1, 1):
        ovary = np.array([sign * 44 + rng.normal(0, 4), 10 + rng.normal(0, 5), 4 + rng.normal(0, 6)])
        if sign == side:
            continue
        size = rng.uniform(11, 17) if f.premenopausal else rng.uniform(7, 10)
        label[ellipsoid(ovary, (size * 1.3, size, size)) < 1] = CODE["stroma"]
        for _ in range(rng.integers(3, 9) if f.premenopausal else 0):
            at = ovary + rng.normal(0, size * 0.45, 3)
            label[ellipsoid(at, (rng.uniform(2, 5),) * 3) < 1] = CODE["follicle"]
        if rng.random() < parameters()["second_cyst"]:
            cyst = rng.uniform(9, 20)
            label[ellipsoid(ovary + rng.normal(0, 5, 3), (cyst,) * 3) < 1] = CODE["simple"]
    if f.nodules:
        for _ in range(rng.integers(6, 14)):
            angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(-40, 40)
            at = (76 * width * np.cos(angle), -4 + 56 * depth * np.sin(angle), height)
            label[ellipsoid(at, (rng.uniform(4, 10),) * 3) < 1] = CODE[f.solid_tissue or "invasive_solid"]
    mask, centre = _lesion(rng, patient, label, (x, y, z), side, shape)
    centre = tuple(float(np.round(c, 2)) for c in centre)
    return Anatomy(label, step, centre, "left" if side > 0 else "right", mask)  # pyright: ignore[reportArgumentType]


def _lesion(rng, patient, label, xyz, side, shape):
    """Paints the index lesion: wall, locules between septa, papillae on the wall, solid parts, fat and keratin."""
    x, y, z = xyz
    f = patient.findings
    half = f.size_mm / 2
    reach = max(0.0, 62 - half)
    centre = np.array([side * min(36 + rng.normal(0, 5), reach + 8), rng.normal(-2, 5), rng.normal(4, 5)])
    axes = half * np.array([1.0, rng.uniform(0.72, 0.95), rng.uniform(0.68, 0.9)])
    rng.shuffle(axes[:2])
    axes[2] = min(axes[2], 46)
    near = (
        (abs(x - centre[0]) < 1.4 * half + 8)
        & (abs(y - centre[1]) < 1.4 * half + 8)
        & (abs(z - centre[2]) < 1.4 * half + 8)
    )
    lumpy = smooth_noise(rng, shape, (5, 9, 9), 0.07)[near]
    x, y, z = x[near], y[near], z[near]
    u = np.stack(
        [(x - centre[0]) / axes[0], (y - centre[1]) / axes[1], (z - centre[2]) / axes[2]]
    )  # unit ball
    r = np.sqrt((u**2).sum(0)) + lumpy
    inside = r < 1
    part = label[near]

    def paint(where, tissue):
        part[inside & where] = CODE[tissue]

    wall_mm = rng.uniform(1.8, 3.0) if f.wall == "thin" else rng.uniform(2.8, 4.5)
    shell = r > 1 - wall_mm / half
    solid = f.solid_tissue
    if f.solid == "whole" and f.locules == 0:
        paint(inside, solid)
        if rng.random() < 0.35:  # necrosis or a cleft of oedema, in any solid mass
            hole = rng.normal(0, 0.3, 3)
            paint(((u - hole[:, None]) ** 2).sum(0) < rng.uniform(0.2, 0.38) ** 2, "simple")
    else:
        count = max(f.locules, 1)
        seeds = rng.normal(0, 0.5, (count, 3))
        seeds /= np.maximum(1, np.linalg.norm(seeds, axis=1, keepdims=True) / 0.75)
        distance = np.stack([((u - s[:, None]) ** 2).sum(0) for s in seeds])
        cell = distance.argmin(0)
        fluids = [f"mucin_{rng.choice(list('abc'))}" if f.fluid == "mucin" else f.fluid for _ in range(count)]
        for index, fluid in enumerate(fluids):
            paint(cell == index, fluid)
        if count > 1:
            nearest = np.sort(np.sqrt(distance), 0)
            septum_mm = rng.uniform(2.0, 3.5) + 0.04 * half
            paint(nearest[1] - nearest[0] < septum_mm / half, "wall")
        if f.fat:  # fat floats: supine, it lies in front (anterior is −y)
            level = rng.uniform(-0.35, 0.35)
            paint((u[1] < level) & (cell == rng.integers(count)), "dermoid_fat")
        if f.keratin:
            for _ in range(rng.integers(1, 4)):
                at = rng.normal(0, 0.35, 3)
                paint(((u - at[:, None]) ** 2).sum(0) < rng.uniform(0.12, 0.25) ** 2, "keratin")
        if f.solid in ("small", "large", "whole"):
            for _ in range(1 if f.solid == "small" else rng.integers(2, 5)):
                direction = rng.normal(0, 1, 3)
                at = direction / np.linalg.norm(direction) * rng.uniform(0.6, 0.9)
                radius = (
                    np.clip(rng.uniform(7, 11) / half, 0.28, 0.5)
                    if f.solid == "small"
                    else rng.uniform(0.5, 0.75)
                )
                paint(((u - at[:, None]) ** 2).sum(0) < radius**2, solid)
        paint(shell, "wall")
        for _ in range({"none": 0, "few": rng.integers(2, 4), "many": rng.integers(9, 22)}[f.papillae]):
            direction = rng.normal(0, 1, 3)
            at = direction / np.linalg.norm(direction) * 0.85
            radius = np.clip(rng.uniform(4.0, 7.0) / half, 0.15, 0.3)
            paint(((u - at[:, None]) ** 2).sum(0) < radius**2, solid or "borderline_solid")
    label[near] = part
    mask = np.zeros(shape, bool)
    mask[near] = inside
    return mask, centre
