"""DICOM files to stacks: header → frames and facts, frames → stacks, stacks → voxels; and what is a document."""
