"""The operations the exact model may use, enforced: a dispatch mode that looks at every call torch makes.

Rules:
1. An operation that is not named here raises. There is no list of forbidden ones: rsqrt, mean, softmax, float division
   and whatever a later torch adds are outside because they are not inside.
2. Arithmetic is on integers, and nothing wraps: each result is compared with what float64 makes of it.
3. A matrix product's operands are integers; K * max|a| * max|b| is at most 2**53 in float64, and below 2**24 with
   operands of at most 127 in float32.
4. A change of dtype keeps every value.

Tests and `certify` run under this mode; serving does not, for it costs more than the model.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bitweir_compression.exact.errors import ForbiddenOpError
from bitweir_compression.exact.schema import CARRIER_BITS

# Moves values without computing with them; any dtype, which must not change.
MOVES: Final = frozenset(
    {
        "_local_scalar_dense",
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "arange",
        "as_strided",
        "cat",
        "clone",
        "detach",
        "detach_",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "fill_",
        "full",
        "full_like",
        "index",
        "index_put_",
        "index_select",
        "lift_fresh",
        "new_empty",
        "new_zeros",
        "ones_like",
        "permute",
        "repeat",
        "reshape",
        "scalar_tensor",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "stack",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
        "where",
        "zero_",
        "zeros",
        "zeros_like",
    }
)
# Integers or booleans in, integers or booleans out.
INTEGER_OPS: Final = frozenset(
    {
        "abs",
        "add",
        "all",
        "amax",
        "any",
        "bitwise_and",
        "bitwise_left_shift",
        "bitwise_right_shift",
        "bucketize",
        "clamp",
        "eq",
        "equal",
        "floor_divide",
        "ge",
        "gt",
        "le",
        "lt",
        "max",
        "mul",
        "ne",
        "neg",
        "nonzero",
        "rsub",
        "sub",
        "sum",
    }
)
PRODUCTS: Final = frozenset({"bmm", "matmul", "mm"})
CONVERSIONS: Final = frozenset({"_to_copy", "copy_"})
# May exceed 63 bits if a bound is wrong; the value says how to compute the same in float64.
_WRAPPING: Final[Mapping[str, Callable[..., torch.Tensor]]] = {
    "add": torch.add,
    "bitwise_left_shift": torch.ldexp,
    "mul": torch.mul,
    "rsub": torch.rsub,
    "sub": torch.sub,
    "sum": torch.sum,
}
_FLOAT32_LIMIT: Final = 127
_FLOAT32_SUM_LIMIT: Final = 1 << 24
# Half of what int64 holds: float64 is off by far less than that.
_NO_WRAP: Final = 2.0**62.5


class AllowList(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`with AllowList() as mode:` raises ForbiddenOpError at the first call that is not exact.

    Attributes:
        counts: operation -> how often it was called.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check one call before and after it is made."""
        name = str(func.overloadpacket.__name__)
        # An operation in place is the operation.
        name = name.removesuffix("_") if name.removesuffix("_") in INTEGER_OPS else name
        options = kwargs or {}
        if not _is_listed(func, name):
            # A composite operation is what it is made of; each part comes back here.
            with self:
                parts = func.decompose(*args, **options)
            if parts is not NotImplemented:
                return parts
            raise _forbidden(name, "it is not on the allow-list")
        self.counts[name] = self.counts.get(name, 0) + 1
        tensors = [item for item in _flat((*args, *options.values())) if isinstance(item, torch.Tensor)]
        if name in INTEGER_OPS and any(_is_float(item) for item in _flat((*args, *options.values()))):
            raise _forbidden(name, "it computes with floats")
        if options.get("alpha", 1) != 1:
            raise _forbidden(name, "it has a factor, which some kernels fuse")
        if name in PRODUCTS:
            _check_product(name, *tensors)
        if name in _WRAPPING:
            _check_wrap(name, args, options)
        result = func(*args, **options)
        if name in INTEGER_OPS and isinstance(result, torch.Tensor) and _is_float(result):
            raise _forbidden(name, "it returns floats")
        if name in CONVERSIONS and not torch.equal(result.to(tensors[-1].dtype), tensors[-1].expand_as(result)):
            raise _forbidden(name, f"{tensors[-1].dtype} to {result.dtype} changes values")
        return result


def _is_listed(func: Any, name: str) -> bool:
    return str(func.namespace) == "aten" and name in MOVES | INTEGER_OPS | PRODUCTS | CONVERSIONS


def _flat(items: tuple[Any, ...]) -> list[Any]:
    found = []
    for item in items:
        if isinstance(item, list | tuple):
            found += _flat(tuple(item))
        else:
            found.append(item)
    return found


def _is_float(item: object) -> bool:
    if isinstance(item, torch.Tensor):
        return item.is_floating_point() or item.is_complex()
    return isinstance(item, float | complex)


def _check_product(name: str, left: torch.Tensor, right: torch.Tensor) -> None:
    if left.dtype not in {torch.float32, torch.float64}:
        raise _forbidden(name, f"its carrier is {left.dtype}")
    if not left.numel() or not right.numel():
        return
    largest = []
    for operand in (left, right):
        if not torch.equal(operand.to(torch.int64).to(operand.dtype), operand):
            raise _forbidden(name, "an operand is not an integer")
        largest.append(int(operand.abs().max()))
    sum_max = left.shape[-1] * largest[0] * largest[1]
    if left.dtype == torch.float32 and (max(largest) > _FLOAT32_LIMIT or sum_max >= _FLOAT32_SUM_LIMIT):
        raise _forbidden(name, f"float32 with operands up to {max(largest)} and sums up to {sum_max}")
    if sum_max > 1 << CARRIER_BITS:
        raise _forbidden(name, f"sums up to {sum_max} exceed 2**{CARRIER_BITS}")


def _check_wrap(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    floats = [item.to(torch.float64) if isinstance(item, torch.Tensor) else item for item in args]
    if name == "bitwise_left_shift":
        floats[1] = torch.as_tensor(floats[1], device=floats[0].device)
    plain = {key: value for key, value in options.items() if key != "dtype"}
    estimate = _WRAPPING[name](*floats, **plain)
    if estimate.numel() and float(estimate.abs().max()) > _NO_WRAP:
        raise _forbidden(name, "its result does not fit 64 bits")


def _forbidden(name: str, why: str) -> ForbiddenOpError:
    return ForbiddenOpError(f"{name}: {why}", remedy="use arithmetic.py, and see its rule 3 for matrix products")
