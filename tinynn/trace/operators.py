"""The operators of the standard, each a function of the array's namespace."""

from typing import Any


class Operators:
    """Mixin by which `x + y` means `xp.add(x, y)`; reflected operators swap their operands.

    In-place forms follow: without an `__iadd__`, Python takes `x += y` for `x = x + y`.
    """

    __slots__ = ()

    space: Any

    __hash__ = None  # type: ignore[assignment]  # == is element by element

    def __add__(self, other: Any) -> Any:
        return self.space.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return self.space.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return self.space.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.space.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return self.space.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.space.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.space.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.space.divide(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.space.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.space.floor_divide(other, self)

    def __mod__(self, other: Any) -> Any:
        return self.space.remainder(self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.space.remainder(other, self)

    def __pow__(self, other: Any) -> Any:
        return self.space.pow(self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.space.pow(other, self)

    def __matmul__(self, other: Any) -> Any:
        return self.space.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self.space.matmul(other, self)

    def __and__(self, other: Any) -> Any:
        return self.space.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Any:
        return self.space.bitwise_and(other, self)

    def __or__(self, other: Any) -> Any:
        return self.space.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Any:
        return self.space.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Any:
        return self.space.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Any:
        return self.space.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> Any:
        return self.space.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Any:
        return self.space.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> Any:
        return self.space.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Any:
        return self.space.bitwise_right_shift(other, self)

    def __lt__(self, other: Any) -> Any:
        return self.space.less(self, other)

    def __le__(self, other: Any) -> Any:
        return self.space.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return self.space.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return self.space.greater_equal(self, other)

    def __eq__(self, other: Any) -> Any:
        return self.space.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return self.space.not_equal(self, other)

    def __neg__(self) -> Any:
        return self.space.negative(self)

    def __pos__(self) -> Any:
        return self.space.positive(self)

    def __abs__(self) -> Any:
        return self.space.abs(self)

    def __invert__(self) -> Any:
        return self.space.bitwise_invert(self)
