"""MRI for mmvae: T1, T2, FLAIR, diffusion and contrast series as volumes on a common grid in patient mm."""
