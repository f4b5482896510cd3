"""What every part of a report is."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A part of a report: whole, unchanging, and read back as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
