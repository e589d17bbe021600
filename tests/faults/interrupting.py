"""An interrupt, or another exception, at any line of some of our files."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class At:
    """Raises at the k-th line that is run of the given folders or files; without k, counts them.

    Args:
        k: Which line, from 0.
        where: Paths below the project's root.
        but: Names of functions that are left alone.
        only: Names of the functions that are not; all by default.
    """

    def __init__(
        self,
        k: int | None,
        where: list[str],
        error=KeyboardInterrupt,
        but: tuple[str, ...] = (),
        only: tuple[str, ...] = (),
    ) -> None:
        self.k, self.error, self.but, self.only = k, error, but, only
        self.where = tuple(str(ROOT / path) for path in where)
        self.count = 0
        self.line = ""

    def _of_a_call(self, frame, event, _):
        code = frame.f_code
        if (
            code.co_filename.startswith(self.where)
            and code.co_name not in self.but
            and code.co_name in (self.only or (code.co_name,))
        ):
            return self._of_a_line
        return None

    def _of_a_line(self, frame, event, _):
        if event == "line":
            self.count += 1
            if self.count - 1 == self.k:
                self.line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"
                raise self.error
        return self._of_a_line

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._of_a_call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)
