"""The settings of a campaign: strict, with units and defaults, from TOML, JSON or Python.

Unknown keys are refused with the nearest known name. `pal.sections` has what each section holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from pal.errors import SettingsError, nearest
from pal.sections import (
    EvaluationSettings,
    ExchangeSettings,
    GeneratorSettings,
    InitialSettings,
    ModelSettings,
    OracleSettings,
    PlacementSettings,
    QueueSettings,
    RestartSettings,
    Seconds,
    Section,
    SelectorSettings,
    StopSettings,
    TrainingSettings,
)
from pal.settings_files import EXTENDS, read_data


class Settings(Section):
    """One campaign."""

    name: str = Field(default="campaign", description="shown in status and reports")
    directory: Path = Field(default=Path("run"), description="the campaign's run directory")
    seed: int = Field(default=0, description="all random numbers of the kernels come from it")
    mode: Literal["parallel", "serial"] = Field(
        default="parallel", description="'serial': explore, label, train one after the other"
    )
    save_interval: Seconds = Field(default=60.0, description="between two savings of states")
    generator: GeneratorSettings
    model: ModelSettings
    oracle: OracleSettings
    selector: SelectorSettings = Field(default_factory=SelectorSettings)
    exchange: ExchangeSettings = Field(default_factory=ExchangeSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    initial: InitialSettings = Field(default_factory=InitialSettings)
    stop: StopSettings = Field(default_factory=StopSettings)
    restart: RestartSettings = Field(default_factory=RestartSettings)
    placement: PlacementSettings = Field(default_factory=PlacementSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.model.predictors > self.model.members:
            raise ValueError(
                f"model.predictors = {self.model.predictors} but model.members = "
                f"{self.model.members}: each predictor needs at least one member"
            )
        if self.model.trainers > self.model.members:
            raise ValueError(
                f"model.trainers = {self.model.trainers} but model.members = "
                f"{self.model.members}: each trainer needs at least one member"
            )
        if self.generator.placement == "committee" and self.model.predictors > 1:
            raise ValueError(
                "generator.placement = 'committee' needs the committee in one process: "
                "set model.predictors = 1"
            )
        if self.mode == "serial" and not (self.oracle.enabled and self.model.train):
            raise ValueError("mode = 'serial' needs oracle.enabled and model.train")
        return self


def load(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings from a TOML or JSON file, and the files that it extends.

    `overrides` maps dotted names ("oracle.workers") to values. Relative paths in the file are
    taken from the file's folder.

    Raises:
        SettingsError: naming the file, the key and the fix.
    """
    path = Path(path)
    settings = parse(merged(read_data(path), overrides or {}), str(path))
    return _anchored(settings, path.resolve().parent)


def parse(data: Mapping[str, Any], source: str = "settings") -> Settings:
    """Validate settings given as a mapping.

    Raises:
        SettingsError: every problem on a line of its own.
    """
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise SettingsError(f"{source}:\n  " + "\n  ".join(lines)) from error


def merged(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set values by their dotted names ("oracle.workers") in plain data, and return it.

    Raises:
        SettingsError: a name leads into what is not a section.
    """
    for name, value in overrides.items():
        *sections, key = name.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"{name} cannot be set: {section} is not a section")
        place[key] = value
    return data


def altered(settings: Settings, changes: Mapping[str, Any], source: str) -> Settings:
    """Return settings with other values, {dotted name: value}.

    Raises:
        SettingsError: as for a settings file; `source` begins the message.
    """
    return parse(merged(settings.model_dump(), changes), source)


def _anchored(settings: Settings, folder: Path) -> Settings:
    """Make the paths of a settings file absolute."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    return settings.model_copy(
        update={
            "directory": absolute(settings.directory),
            "model": settings.model.model_copy(
                update={"weights": absolute(settings.model.weights)}
            ),
            "evaluation": settings.evaluation.model_copy(
                update={"data": absolute(settings.evaluation.data)}
            ),
        }
    )


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        hint = nearest(location[-1], _known_names(location[:-1]))
        return f"{name}: unknown setting; {hint}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    got = problem.get("input")
    shown = "" if isinstance(got, Mapping | BaseModel) else f" (got {got!r})"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}{shown}" if name else message


def _known_names(section: list[str]) -> list[str]:
    model: Any = Settings
    for part in section:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def schema() -> dict[str, Any]:
    """Return the JSON schema of the settings file, for editors."""
    found = Settings.model_json_schema()
    found["properties"][EXTENDS] = {
        "type": "string",
        "description": "another settings file in the same folder, over which this one is laid",
    }
    needed = found.pop("required")
    return {**found, "if": {"not": {"required": [EXTENDS]}}, "then": {"required": needed}}


def dump(settings: Settings) -> dict[str, Any]:
    """Return settings as plain data; kernels given as Python objects appear by their name."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, str | int | float | bool) or value is None:
            return value
        if isinstance(value, Path):
            return str(value)
        return getattr(value, "__qualname__", type(value).__qualname__)

    result: dict[str, Any] = plain(settings.model_dump())
    return result
