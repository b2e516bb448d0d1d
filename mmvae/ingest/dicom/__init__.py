"""Reading DICOM: header → frames and facts, frames → stacks, stacks → voxels; and documents such as reports."""
