"""One pass over files of data: what is wrong with them, and what is in them.

Rows are forgotten as they go by; of each row two hashes of 8 bytes and the place where it stands are kept, to find it again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable

from scale_rlhf.config.places import find_file, is_local
from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.figures import Largest, LengthBias, Listed, Ratings, Spread
from scale_rlhf.data.kinds import Said, said
from scale_rlhf.data.progress import rows_with_progress
from scale_rlhf.data.rows import Found
from scale_rlhf.errors import DataError


class Survey:
    """What is found in rows that are taken one by one.

    keep: how many lines of each finding are named. kind: of `KINDS`; a row of another is bad. Held-out rows must come
    before those that are trained on, so that a prompt of both is seen.
    """

    def __init__(self, keep: int = 10, kind: str | None = None):
        self._keep, self._kind = keep, kind
        self.rows: dict[str, int] = {}  # of each file
        self.kinds: Counter[str] = Counter()
        self.bad, self.leaks, self.duplicates, self.same, self.empty = (Listed(keep) for _ in range(5))
        self.ratings: dict[str, Ratings] = {}
        self.lengths = LengthBias(Largest(keep))
        self.response_sizes, self.prompt_sizes, self.turns = Spread(), Spread(), Spread()
        self.judged = {True: Spread(), False: Spread()}  # sizes of good and of bad responses
        self._held: dict[bytes, str] = {}  # prompts of held-out rows, and where
        self._seen: dict[bytes, str] = {}
        self._prompts: set[bytes] = set()

    @property
    def prompts(self) -> int:
        """Different ones."""
        return len(self._prompts)

    @property
    def sound(self) -> bool:
        """Whether no row is bad, and no held-out prompt is trained on."""
        return not self.bad.count and not self.leaks.count

    def read(self, source: DataSource, held_out: bool = False) -> None:
        """Take all rows of a file or hub data set."""
        if is_local(source.path):
            find_file(source.path)  # a file that is not there is no bad row
        self.take(source.path, rows_with_progress(source), held_out)

    def take(self, name: str, rows: Iterable[Found], held_out: bool = False) -> None:
        """Take all `rows`, each with its place, or with what is wrong in its stead. name: of the file, for the count."""
        self.rows.setdefault(name, 0)
        try:
            for at, row in rows:
                self.rows[name] += 1
                self._row(at, row, held_out)
        except DataError as error:
            self.bad.add(f"{error} (what follows is not read)")
        else:
            if not self.rows[name]:
                self.bad.add(f"{name} has no rows; expected at least one")

    def _row(self, at: str, row: dict | DataError, held_out: bool) -> None:
        try:
            if isinstance(row, DataError):
                raise row
            says = said(row, at)
            if self._kind not in (None, says.kind):
                raise DataError(f"{at}: the row is of kind {says.kind}; expected {self._kind}")
        except DataError as error:
            self.bad.add(str(error))
            return
        self.kinds[says.kind] += 1
        self._compare(at, says, held_out)
        self._measure(at, says)

    def _compare(self, at: str, says: Said, held_out: bool) -> None:
        """With the rows before."""
        whole = _digest([says.kind, says.messages, says.responses, says.verdict])
        first = self._seen.setdefault(whole, at)
        if first is not at:
            self.duplicates.add(f"{at}: the same as {first}")
        if not says.messages:
            return
        prompt = _digest([[turn["role"], " ".join(turn["content"].casefold().split())] for turn in says.messages])
        self._prompts.add(prompt)
        if held_out:
            self._held.setdefault(prompt, at)
        elif prompt in self._held:
            self.leaks.add(f"{at}: its prompt is held out at {self._held[prompt]}")

    def _measure(self, at: str, says: Said) -> None:
        if says.messages:
            self.turns.add(len(says.messages))
            self.prompt_sizes.add(sum(len(turn["content"]) for turn in says.messages))
        for number, response in enumerate(says.responses, 1):
            self.response_sizes.add(len(response))
            if not response.strip():
                self.empty.add(f"{at}: response {number} of {len(says.responses)} is empty")
        if len(set(says.responses)) < len(says.responses):
            self.same.add(f"{at}: two of its responses are the same text")
        if says.kind == "judgement":
            self.judged[says.verdict].add(len(says.responses[0]))
        if says.kind in ("rating", "aspects"):
            for aspect, of_responses in says.verdict.items():
                counted = self.ratings.setdefault(aspect, Ratings(self._keep))
                for number, numbers in enumerate(of_responses, 1):
                    counted.add(numbers, f"{at}: response {number}")
        for better, worse in says.pairs:
            self.lengths.add(better, worse, at)


def _digest(value: object) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).digest()
