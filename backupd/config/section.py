"""What every mapping of the configuration file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of the file; unknown keys are refused."""

    # Built at first use: only the loader needs it, and it costs more than the import.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
