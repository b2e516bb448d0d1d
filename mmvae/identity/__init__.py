"""De-identification: keys and pseudonyms, free text, DICOM headers. Nothing in this package imports torch."""
