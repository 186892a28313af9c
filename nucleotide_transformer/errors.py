"""What a user can mend: bad input, told apart from a bug of ours by its class.

The command line prints these in one line and exits with 2; everything else keeps its traceback.
"""


class InputError(ValueError):
    """Input that breaks a rule; one line with the file, the place, the value and the rule."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder that is not there, or holds nothing that can be used."""


class OutputExistsError(InputError, FileExistsError):
    """An output that would overwrite what is there."""


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises a one-line `InputError` that names the field, its value and the rule it breaks."""
    if not condition:
        raise InputError(f"{field} = {value!r}: {rule}")


def require_positive(config: object, *fields: str) -> None:
    """Raises an `InputError` for the first of the fields that is not above zero."""
    for field in fields:
        value = getattr(config, field)
        require(value > 0, field, value, "must be above 0")
