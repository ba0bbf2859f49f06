"""Objects that refuse to have an attribute set where that would do nothing: an unknown one, or one that is fixed; and
that say what to write in place of an argument or attribute that other libraries have."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from gpu_backprop.backend.errors import SettingError
from gpu_backprop.backend.suggestions import explain_call, suggest_attribute

if TYPE_CHECKING:
    from inspect import Signature


class Explaining(ABCMeta):
    """The metaclass of a class that says what to write where its constructor has not an argument."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except TypeError as error:
            explain_call(error, cls, kwargs)
            raise

    @property
    def __signature__(cls) -> Signature:
        """Its constructor's, for help and completion, which would else show that of __call__."""
        from inspect import Signature, signature  # not above, as it is slow to import

        constructor: Any = type.__getattribute__(cls, "__init__")
        _, *parameters = signature(constructor).parameters.values()
        return Signature() if constructor is object.__init__ else Signature(parameters)


class _Closing(Explaining):
    """Closes an object as soon as its constructor has returned."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.close()
        return made


class FixedAttributes(metaclass=_Closing):
    """A base class that, once an object is closed, lets only these be set: attributes named here, those with a setter,
    methods, and private ones; on an object of a subclass by others, also what their constructor has set.

    Attributes:
        settable: the names of what can be set at any time.
        instead: by name, what to write instead of setting it.
    """

    settable: tuple[str, ...] = ()
    instead: ClassVar[Mapping[str, str]] = {}

    def close(self) -> None:
        vars(self)["_closed"] = True

    def open(self) -> None:
        vars(self).pop("_closed", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_closed" in vars(self) and name[0] != "_" and name not in self.settable:
            of_class = getattr(type(self), name, None)
            if not (callable(of_class) or _has_setter(of_class) or (name in vars(self) and not _is_ours(type(self)))):
                raise SettingError(self._refusal(name))
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # for which every name would be an attribute then

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property, which has failed
                return object.__getattribute__(self, name)
            said = f"{type(self).__name__} has no attribute {name!r}.{suggest_attribute(type(self), name)}"
            raise AttributeError(said, name=name, obj=self)

    def _refusal(self, name: str) -> str:
        import difflib  # not above: the first mistake can wait for it, every start of a program need not

        kind = type(self)
        one = f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
        known = sorted({*self.settable, *(k for k in dir(kind) if k[0] != "_" and _has_setter(getattr(kind, k)))})
        can = f" What can be set: {', '.join(known)}." if known else ""
        if name in self.instead:
            return f"{name} of {one} cannot be set. Write {self.instead[name]}.{can}"
        if hasattr(self, name):
            decided = "is decided when it is made, and setting it would change nothing. Make a new one."
            return f"{name} of {one} {decided}{can}"
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = suggest_attribute(kind, name) or (f" Did you mean {near[0]}?" if near else "")
        own = "" if _is_ours(kind) else " An attribute of its own is first set in its constructor."
        return f"{one} has no attribute {name!r}.{hint}{can}{own}"


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("gpu_backprop.")


def _has_setter(of_class: object) -> bool:
    """Tells whether an attribute of a class can be assigned on its objects."""
    return of_class.fset is not None if isinstance(of_class, property) else hasattr(type(of_class), "__set__")
