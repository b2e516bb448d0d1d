"""Builds an enhanced MR image (PS3.3 A.36.2): attributes of the object, and the functional groups that its definition requires."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from mmvae.phantom.scanner import Series

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
IMAGE_TYPE = ["ORIGINAL", "PRIMARY", "T2", "NONE"]


def item(**elements: object) -> Dataset:
    """A data set of these elements."""
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def describe(data: Dataset, series: Series, instance: UID) -> None:
    """Sets the attributes of the object, its acquisition and its pulse sequence."""
    field = float(series.facts["MagneticFieldStrength"])
    frames = len(series.volumes[0])
    data.update(
        item(
            SOPClassUID=ENHANCED_MR, ImageType=IMAGE_TYPE, SOPInstanceUID=instance, InstanceNumber="1", AcquisitionNumber="1",
            AcquisitionDuration=180.0, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE", ComplexImageComponent="MAGNITUDE", AcquisitionContrast="T2",
            ContentQualification="RESEARCH", ResonantNucleus="1H", KSpaceFiltering="NONE", MagneticFieldStrength=field,
            ApplicableSafetyStandardAgency="IEC", BurnedInAnnotation="NO", LossyImageCompression="00",
            PresentationLUTShape="IDENTITY", NumberOfFrames=str(frames), EchoPulseSequence="SPIN", MultipleSpinEcho="NO",
            MultiPlanarExcitation="NO", PhaseContrast="NO", TimeOfFlightContrast="NO", SteadyStatePulseSequence="NONE",
            EchoPlanarPulseSequence="NO", SaturationRecovery="NO", SpectrallySelectedSuppression="NONE", OversamplingPhase="NONE",
            GeometryOfKSpaceTraversal="RECTILINEAR", RectilinearPhaseEncodeReordering="LINEAR", SegmentedKSpaceTraversal="PARTIAL",
            NumberOfKSpaceTrajectories=1, PulseSequenceName="TSE", AcquisitionContextSequence=Items([]), MRAcquisitionType="2D",
            DeviceSerialNumber="0", ManufacturerModelName="philips",
        )
    )  # fmt: skip


def shared_groups(series: Series) -> Dataset:
    """The functional groups shared by all frames: geometry, timing, coils, and the scaling of stored values."""
    steps, (volume,) = np.linalg.norm(series.affine[:3, :3], axis=0), series.volumes
    thickness = f"{steps[2]:.4g}"
    measures = item(
        SliceThickness=thickness, SpacingBetweenSlices=thickness, PixelSpacing=[f"{steps[1]:.6g}", f"{steps[0]:.6g}"]
    )  # fmt: skip
    frame_type = item(
        FrameType=IMAGE_TYPE, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE", AcquisitionContrast="T2",
    )  # fmt: skip
    region = item(CodeValue="12921003", CodingSchemeDesignator="SCT", CodeMeaning="Pelvis")
    groups = {
        "PixelMeasures": measures,
        "PlaneOrientation": item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
        "MRTimingAndRelatedParameters": _timing(series),
        "MREcho": item(EffectiveEchoTime=float(series.facts["EchoTime"])),
        "MRImageFrameType": frame_type,
        "FrameAnatomy": item(AnatomicRegionSequence=Items([region]), FrameLaterality="U"),
        "PixelValueTransformation": item(RescaleIntercept="0", RescaleSlope="1.25", RescaleType="normalized"),
        "MRImagingModifier": item(
            MagnetizationTransfer="NONE", BloodSignalNulling="NO", Tagging="NONE", TransmitterFrequency=127.7, PixelBandwidth="200"
        ),
        "MRFOVGeometry": _field_of_view(volume),
        "MRReceiveCoil": item(
            ReceiveCoilName="BODY", ReceiveCoilManufacturerName="", ReceiveCoilType="BODY", QuadratureReceiveCoil="YES"
        ),
        "MRTransmitCoil": item(TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"),
        "MRModifier": item(
            InversionRecovery="NO", FlowCompensation="NONE", Spoiling="NONE", T2Preparation="NO", SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE", PartialFourier="NO", ParallelAcquisition="NO",
        ),
        "MRAverages": item(NumberOfAverages="1"),
    }  # fmt: skip
    return item(**{f"{name}Sequence": Items([group]) for name, group in groups.items()})


def _timing(series: Series) -> Dataset:
    train = int(series.facts.get("EchoTrainLength", 1))
    rate = item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=1.0)
    mode = item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL")
    return item(
        RepetitionTime=f"{series.facts['RepetitionTime']:g}", FlipAngle="90", EchoTrainLength=str(train), RFEchoTrainLength=train,
        GradientEchoTrainLength=0, SpecificAbsorptionRateSequence=Items([rate]), OperatingModeSequence=Items([mode]),
        GradientOutputType="DB_DT", GradientOutput=1.0,
    )  # fmt: skip


def _field_of_view(volume: np.ndarray) -> Dataset:
    return item(
        InPlanePhaseEncodingDirection="ROW", MRAcquisitionFrequencyEncodingSteps=volume.shape[-1],
        MRAcquisitionPhaseEncodingStepsInPlane=volume.shape[-2], PercentSampling="100", PercentPhaseFieldOfView="100",
    )  # fmt: skip


def frame_groups(series: Series, acquired: str) -> list[Dataset]:
    """Each frame's own groups: its number in the stack, and its position."""
    corner, step = series.affine[:3, 3], series.affine[:3, 2]
    frames = []
    for k in range(len(series.volumes[0])):
        content = item(
            FrameAcquisitionNumber=1, InStackPositionNumber=k + 1, StackID="1", DimensionIndexValues=[1, k + 1],
            FrameAcquisitionDateTime=acquired, FrameReferenceDateTime=acquired, FrameAcquisitionDuration=180.0,
        )  # fmt: skip
        position = item(ImagePositionPatient=[f"{v:.6g}" for v in corner + k * step])
        frames.append(item(FrameContentSequence=Items([content]), PlanePositionSequence=Items([position])))
    return frames


def add_dimensions(data: Dataset, organisation: UID) -> None:
    """Sets the dimensions by which the frames are indexed: stack and position in it."""
    pointers = [
        item(
            DimensionOrganizationUID=organisation, DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111
        )
        for pointer in (0x00209056, 0x00209057)
    ]  # fmt: skip
    data.DimensionOrganizationSequence = Items([item(DimensionOrganizationUID=organisation)])
    data.DimensionIndexSequence = Items(pointers)
