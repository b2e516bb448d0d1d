"""Study to case: what a source holds becomes a cohort folder; kept volumes are written once as NIfTI."""
