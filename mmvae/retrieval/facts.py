"""What an index keeps of a case besides its vectors: what filtering, excluding a patient and showing a neighbour need."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmvae.case import Case, Value
from mmvae.errors import InputError


@dataclass(frozen=True)
class Facts:
    """A case's pseudonyms, record, terms and labels."""

    case_id: str
    patient: str
    record: Mapping[str, Value] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None
    labels: Mapping[str, Value] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case) -> "Facts":
        """The facts of a case."""
        return cls(
            case.case_id,
            case.patient,
            dict(case.record),
            case.terms,
            dict(case.labels),
            dict(case.label_source),
        )

    @classmethod
    def read(cls, plain: Any) -> "Facts":
        """The facts from the output of `plain`; every field is checked, since the file may hold anything.

        Raises:
            InputError: naming the field that does not fit.
        """
        if not isinstance(plain, Mapping):
            raise InputError(f"a case's facts are a {type(plain).__name__}; expected an object of fields")
        for name in ("case_id", "patient"):
            if not isinstance(plain.get(name), str):
                raise InputError(f"a case's facts have {name} {plain.get(name)!r}; expected a string")
        for name in ("record", "labels", "label_source"):
            values = plain.get(name, {})
            if not isinstance(values, Mapping) or not all(
                isinstance(v, int | float | str) for v in values.values()
            ):
                raise InputError(
                    f"case {plain['case_id']}: {name} is {values!r}; expected numbers and words by name"
                )
        terms = plain.get("terms")
        if terms is not None and not (isinstance(terms, list) and all(isinstance(t, str) for t in terms)):
            raise InputError(f"case {plain['case_id']}: terms is {terms!r}; expected a list of words")
        return cls(
            plain["case_id"],
            plain["patient"],
            plain.get("record", {}),
            None if terms is None else tuple(terms),
            plain.get("labels", {}),
            plain.get("label_source", {}),
        )

    def plain(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return {**asdict(self), "terms": None if self.terms is None else list(self.terms)}
