"""An extension of Griffe, which reads signatures and docstrings from the sources of eqloop."""

import ast
import inspect
from importlib import import_module
from typing import Any

import equinox as eqx
import griffe

SHAPED = {"Bool", "Complex", "Float", "Int", "Integer", "Shaped"}
"""The types of jaxtyping that eqloop uses: a string in their brackets is a shape, not a type."""


class Signatures(griffe.Extension):
    """Shapes keep their quotes, Equinox modules have signatures, and examples are sessions."""

    def on_node(self, *, node: Any, **_: Any) -> None:
        """Quote shapes once more, since Griffe evaluates a string in an annotation."""
        if not isinstance(node, ast.FunctionDef | ast.AnnAssign):
            return
        for part in ast.walk(node):
            match part:
                case ast.Subscript(ast.Name(kind), ast.Tuple([_, ast.Constant(str()) as shape])):
                    if kind in SHAPED and shape.kind != "shape":
                        shape.value, shape.kind = repr(shape.value), "shape"

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Examples are highlighted as sessions, so that their prompts are not copied."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("```python\n>>>", "```pycon\n>>>")

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        classes = [cls for module in modules(pkg) for cls in module.classes.values()]
        # All are found before any is changed, since a class inherits `__init__`.
        bare = [cls for cls in classes if not cls.is_alias and "__init__" not in cls.all_members]
        for cls in bare:
            add_init(cls)


def modules(module: griffe.Module) -> list[griffe.Module]:
    below = [modules(member) for member in module.modules.values() if not member.is_alias]
    return [module, *(member for members in below for member in members)]


def add_init(cls: griffe.Class) -> None:
    """Give an Equinox module its `__init__`: the fields with their annotations as in the source,
    and their defaults as they print."""
    item = getattr(import_module(cls.module.path), cls.name)
    if not issubclass(item, eqx.Module):
        return
    parameters = griffe.Parameters(griffe.Parameter("self"))
    for name, parameter in inspect.signature(item).parameters.items():
        default = parameter.default
        parameters.add(
            griffe.Parameter(
                name,
                annotation=cls.all_members[name].annotation,
                kind=getattr(griffe.ParameterKind, parameter.kind.name.lower()),
                default=None if default is parameter.empty else printed(default),
            )
        )
    cls.set_member("__init__", griffe.Function("__init__", parameters=parameters, parent=cls))


def printed(value: Any) -> str:
    return value.__name__ if inspect.isfunction(value) else repr(value)
